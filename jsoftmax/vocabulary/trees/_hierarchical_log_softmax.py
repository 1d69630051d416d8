"""Log-probabilities of all classes of a tree, and their entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.mappings import log_softmax
from jsoftmax.vocabulary.trees._class_tree import ClassTree
from jsoftmax.vocabulary.trees._node_choices import Choices, read_choices


@on_explicit_axes(like="features")
def hierarchical_log_softmax(
    features: ArrayLike,
    table: ArrayLike,
    tree: ClassTree,
    *,
    bias: ArrayLike | None = None,
) -> Float[Array, "... classes"]:
    r"""Compute the log-probabilities of all classes at the leaves of a tree.

    .. math:: \log P(y|h) = \sum_{n \text{ above } y} \log p_n(c_n), \qquad y = 0, \dots, K - 1

    Each node is computed once, and the sums from the root to the nodes in ⌈log₂ depth⌉ rounds: no
    array is larger than the children of all nodes for all tokens. `hierarchical_topk` computes
    less, for the likeliest classes alone, and `hierarchical_log_prob` far less, for given classes.

    Args:
        features: h of shape [..., d], any real dtype.
        table: the rows w of shape [tree.table_rows, d].
        tree: a `ClassTree`.
        bias: b of shape [tree.table_rows].

    Returns:
        Log-probabilities of shape [..., K], in float32 at least.

    Raises:
        TypeError: if `features` or `table` are not real numbers, or `tree` is not a `ClassTree`.
        ValueError: if shapes do not fit.

    Example:
        >>> import jax.numpy as jnp, jsoftmax as js
        >>> tree = js.huffman_tree([5, 2, 1, 1])
        >>> table = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> print(jnp.exp(hierarchical_log_softmax(jnp.ones(2), table, tree)))
        [0.7311 0.1966 0.0637 0.0086]
    """
    choices = read_choices("hierarchical_log_softmax", features, table, tree, bias)
    return choices.shaped(log_probabilities(choices))


@on_explicit_axes(like="features")
def hierarchical_entropy(
    features: ArrayLike,
    table: ArrayLike,
    tree: ClassTree,
    *,
    bias: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Compute the entropy of the distribution over the leaves of a tree, exactly.

    .. math:: H = -\sum_y P(y) \log P(y) = \sum_n P(n) \, H(p_n)

    Args:
        features: h of shape [..., d], any real dtype.
        table: the rows w of shape [tree.table_rows, d].
        tree: a `ClassTree`.
        bias: b of shape [tree.table_rows].

    Returns:
        Entropies in nats, of shape [...], in float32 at least.

    Raises:
        TypeError: as `hierarchical_log_softmax`.
        ValueError: as `hierarchical_log_softmax`.

    Example:
        >>> import jax.numpy as jnp, jsoftmax as js
        >>> h, table, tree = jnp.ones(2), jnp.zeros((7, 2)), js.vocabulary.balanced_tree(8)
        >>> print(hierarchical_entropy(h, table, tree) / jnp.log(2))
        3.0
    """
    choices = read_choices("hierarchical_entropy", features, table, tree, bias)
    log_p, step = _children(choices)
    p = jnp.exp(log_p)
    entropy = -jnp.sum(p * jnp.where(p > 0, step, 0), axis=(0, 1))
    return choices.shaped(entropy)


def log_probabilities(choices: Choices) -> Array:
    """Compute log-probabilities (token, class)."""
    tree = choices.tree
    log_p, _ = _children(choices)
    last = tree.lengths[:, None] - 1
    node, code = (jnp.take_along_axis(x, last, axis=1)[:, 0] for x in (tree.paths, tree.codes))
    return log_p[node, code.astype(node.dtype)].T


def _children(choices: Choices) -> tuple[Array, Array]:
    """Compute log P of every child, absolute and given its parent: (node, width, token).

    Tokens are last, so that gathered rows are contiguous in memory.
    """
    tree = choices.tree
    z = choices.table.astype(choices.features.dtype) @ choices.features.T
    if choices.bias is not None:
        z = z + choices.bias.astype(z.dtype)[:, None]
    if tree.width == 2:
        step = jnp.stack([jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)], axis=1)
    else:
        ids = tree.node_rows(jnp.arange(tree.nodes, dtype=tree.firsts.dtype))
        step = log_softmax(z[ids], axis=1, where=(ids >= 0)[..., None])
    # log P of a node is the sum of the steps above it. After r rounds it is the sum of the last 2ʳ
    # steps, down from its ancestor `above`; each round adds the sum of that ancestor.
    above, code = jnp.divmod(tree.origins, jnp.asarray(tree.width, tree.origins.dtype))
    is_root = jnp.arange(tree.nodes) == 0
    log_p = jnp.where(is_root[:, None], 0, step[above, code])
    for _ in range((tree.depth - 1).bit_length()):
        log_p = log_p + log_p[above]
        above = above[above]
    return log_p[:, None] + step, step
