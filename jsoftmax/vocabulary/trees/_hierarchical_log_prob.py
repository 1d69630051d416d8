"""Log-probabilities and losses of classes in a tree, from the rows of their ancestors alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.losses import cross_entropy
from jsoftmax.losses._targets import differs
from jsoftmax.vocabulary._stacked_tokens import merged_tokens, stacked_tokens
from jsoftmax.vocabulary.trees._class_tree import ClassTree, Way, checked_labels, read_tree
from jsoftmax.vocabulary.trees._node_choices import (
    Choices,
    flat,
    products,
    read_bias,
    read_choices,
)

_GATHERED = 2**26  # numbers


@on_explicit_axes(like="features")
def hierarchical_log_prob(
    features: ArrayLike,
    table: ArrayLike,
    tree: ClassTree,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Compute the log-probability of a class of a tree from O(depth) rows of the table.

    .. math:: \log P(y|h) = \sum_{n \text{ above } y} \log p_n(c_n)

    In a binary tree :math:`p_n = σ(±(⟨h, w_n⟩ + b_n))`, + for child 0; in any other p_n is the
    softmax of ⟨h, w_c⟩ + b_c over the children c of n. The probabilities of all classes sum to 1
    without normalisation; `hierarchical_log_softmax` computes all of them.

    Its gradient with respect to `table` is a whole table, mostly zeros, at a cost of O(K d).
    `hierarchical_log_prob_of_rows` avoids that.

    Args:
        features: h of shape [..., d], any real dtype.
        table: the rows w of shape [tree.table_rows, d].
        tree: a `ClassTree`, such as `huffman_tree(counts)`.
        labels: classes, integers of shape [...].
        bias: b of shape [tree.table_rows].

    Returns:
        Log-probabilities of shape [...], in float32 at least. NaN for a label out of range in a
        `jax.Array`: its values are not checked.

    Raises:
        TypeError: if `features` or `table` are not real numbers, `tree` is not a `ClassTree`, or
            `labels` are not integers.
        ValueError: if shapes do not fit, or a label given as a Python or numpy value is out of
            range.

    Example:
        >>> import jax.numpy as jnp, jsoftmax as js
        >>> tree = js.huffman_tree([5, 2, 1, 1])
        >>> table = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> print(jnp.exp(hierarchical_log_prob(jnp.ones((4, 2)), table, tree, jnp.arange(4))))
        [0.7311 0.1966 0.0637 0.0086]

    Reference:
        F. Morin and Y. Bengio, "Hierarchical probabilistic neural network language model", 2005.
    """
    function = "hierarchical_log_prob"
    choices = read_choices(function, features, table, tree, bias)
    y = _read_labels(function, labels, choices.tree, choices.lead)
    return choices.shaped(log_prob_of(choices, y.reshape(-1)))


@on_explicit_axes(like="features")
def hierarchical_cross_entropy(
    features: ArrayLike,
    table: ArrayLike,
    tree: ClassTree,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
) -> Float[Array, "..."]:
    r"""Compute the loss of hierarchical softmax: −log P of classes at the leaves of a tree.

    .. math:: L = -\log P(y|h) = \sum_{n \text{ above } y} -\log p_n(c_n)

    It is −`hierarchical_log_prob`, with a mask for tokens.

    Args:
        features: h of shape [..., d], any real dtype.
        table: the rows w of shape [tree.table_rows, d].
        tree: a `ClassTree`.
        labels: classes, integers of shape [...].
        bias: b of shape [tree.table_rows].
        where: boolean mask that broadcasts to [...]: other tokens have loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.

    Returns:
        One loss per token, of shape [...], in float32 at least. NaN for a label out of range in a
        `jax.Array`: its values are not checked.

    Raises:
        TypeError: as `hierarchical_log_prob`, and if `where` is not boolean.
        ValueError: as `hierarchical_log_prob`.

    Example:
        >>> import jax.numpy as jnp, jsoftmax as js
        >>> tree = js.vocabulary.balanced_tree(4)
        >>> h, table, y = jnp.ones((3, 2)), jnp.zeros((3, 2)), jnp.array([2, 0, -1])
        >>> print(hierarchical_cross_entropy(h, table, tree, y, ignore_index=-1))
        [1.3863 1.3863 0.    ]
    """
    function = "hierarchical_cross_entropy"
    choices = read_choices(function, features, table, tree, bias)
    y = _read_labels(function, labels, choices.tree, choices.lead, ignore_index)
    counted = checks.mask_like(function, where, y, "labels")
    if counted is not None:
        counted = jnp.broadcast_to(counted, y.shape)
    if ignore_index is not None:
        kept = differs(y, ignore_index)
        counted = kept if counted is None else kept & counted
    y, h = y.reshape(-1), choices.features
    if counted is not None:
        counted = counted.reshape(-1)
        # Replace the class by 0 and the features by 0, so that no NaN reaches a gradient.
        y, h = jnp.where(counted, y, 0), jnp.where(counted[:, None], h, 0)
    loss = -log_prob_of(dataclasses.replace(choices, features=h), y)
    return choices.shaped(loss if counted is None else jnp.where(counted, loss, 0))


@on_explicit_axes(like="features")
def hierarchical_log_prob_of_rows(
    features: ArrayLike,
    rows: ArrayLike,
    tree: ClassTree,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Compute `hierarchical_log_prob` from gathered rows, for a training step in O(log K).

    .. math:: \log P(y|h) = \sum_{n \text{ above } y} \log p_n(c_n)

    Gather `rows = table[ids]` for `ids = tree.rows(labels)`, differentiate the loss with respect to
    them instead of the table, and update these rows by `row_sgd`, `row_adagrad` or `row_adam`. So
    no array of the size of the table is made. Donate the table to `jit` (`donate_argnums`), or it
    is copied.

    Args:
        features: h of shape [..., d], any real dtype.
        rows: `table[tree.rows(labels)]`, of shape [..., n, d].
        tree: a `ClassTree`.
        labels: classes, integers of shape [...].
        bias: b[tree.rows(labels)], of shape [..., n].

    Returns:
        Log-probabilities of shape [...], in float32 at least. NaN for a label out of range in a
        `jax.Array`. Rows with id −1 are ignored, and their gradient is 0.

    Raises:
        TypeError: as `hierarchical_log_prob`.
        ValueError: as `hierarchical_log_prob`.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax as js
        >>> tree = js.huffman_tree([5, 2, 1, 1])
        >>> h, y, table = jnp.ones((2, 2)), jnp.array([3, 0]), jnp.zeros((tree.table_rows, 2))
        >>> ids = tree.rows(y)
        >>> loss = lambda rows: -hierarchical_log_prob_of_rows(h, rows, tree, y).sum()
        >>> print(ids, jax.grad(loss)(table[ids]), sep="\n")
        [[ 0  1  2]
         [ 0 -1 -1]]
        [[[ 0.5  0.5]
          [ 0.5  0.5]
          [ 0.5  0.5]]
        <BLANKLINE>
         [[-0.5 -0.5]
          [ 0.   0. ]
          [ 0.   0. ]]]
    """
    function = "hierarchical_log_prob_of_rows"
    tree = read_tree(function, tree)
    features = checks.as_array(function, "features", features)
    rows = checks.as_array(function, "rows", rows)
    lead = features.shape[:-1]
    count = tree.path_rows
    if features.ndim < 1 or rows.shape != (*lead, count, features.shape[-1]):
        raise ValueError(
            f"jsoftmax.{function}: `features` of shape {features.shape} and `rows` of shape "
            f"{rows.shape} do not fit: they need the shapes [..., d] and [..., {count}, d], the "
            "rows that tree.rows(labels) names."
        )
    bias = read_bias(function, bias, (*lead, count), "one number for each of the rows")
    y = _read_labels(function, labels, tree, lead)
    dtype = jnp.result_type(checks.compute_dtype(features), checks.compute_dtype(rows))
    h = flat(features, dtype)
    rows = rows.reshape(h.shape[0], tree.depth, count // tree.depth, h.shape[1])
    bias = None if bias is None else bias.reshape(rows.shape[:-1])
    return _of_rows(tree, tree.way(y.reshape(-1)), h, rows, bias).reshape(lead)


def log_prob_of(choices: Choices, y: Array) -> Array:
    """Compute the log-probabilities of classes (token, …)."""
    tokens, size = y.shape[0], _tokens_together(choices, y)
    if not isinstance(tokens, int) or tokens <= size:
        return _log_prob_at_once(choices, y)

    def of_block(block):
        features, y = block
        return _log_prob_at_once(dataclasses.replace(choices, features=features), y)

    # In the backward pass a block gathers its rows again, so that they need not be kept.
    again = jax.checkpoint(of_block, prevent_cse=False)
    parts = (stacked_tokens(choices.features, size), stacked_tokens(y, size))
    return merged_tokens(jax.lax.map(again, parts), tokens)


def _tokens_together(choices: Choices, y: Array) -> int:
    """Return the number of tokens that gather `_GATHERED` numbers: wide nodes need many each."""
    each = choices.tree.path_rows * choices.features.shape[-1] * math.prod(y.shape[1:])
    return max(1, _GATHERED // each) if isinstance(each, int) else 1


def _log_prob_at_once(choices: Choices, y: Array) -> Array:
    tree, bias = choices.tree, choices.bias
    way = tree.way(y)
    ids = tree.node_rows(way.nodes)
    bias = None if bias is None else bias[ids]
    return _of_rows(tree, way, choices.features, choices.table[ids], bias)


def _of_rows(tree: ClassTree, way: Way, h: Array, rows: Array, bias: Array | None) -> Array:
    """Compute log-probabilities from rows (token, …, depth, rows of a node, d)."""
    present = tree.node_rows(way.nodes) >= 0
    z = products(h, rows, bias, present)
    if tree.width == 2:
        z = z[..., 0]
        loss = -jax.nn.log_sigmoid(jnp.where(way.codes == 0, z, -z))
    else:
        loss = cross_entropy(z, way.codes, where=present)
    loss = jnp.where(way.nodes >= 0, loss, 0).sum(-1)
    return jnp.where(way.valid, -loss, jnp.nan)


def _read_labels(
    function: str,
    labels: Any,
    tree: ClassTree,
    lead: tuple[int, ...],
    ignore_index: int | None = None,
) -> Array:
    """Read one class per token; check Python and numpy values while tracing."""
    y = checked_labels(function, labels)
    if y.shape != lead:
        raise ValueError(
            f"jsoftmax.{function}: `labels` have shape {y.shape}; give one class for each token, "
            f"integers of shape {lead}."
        )
    known = checks.known_values(labels)
    if known is not None:
        bad = (known < 0) | (known >= tree.classes)
        if ignore_index is not None:
            bad &= known != ignore_index
        if np.any(bad):
            raise ValueError(
                f"jsoftmax.{function}: label {known[bad].flat[0]} is out of range "
                f"[0, {tree.classes}), the classes of the tree."
            )
    return y
