"""The likeliest classes of a tree, found without computing all of them."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.mappings import log_softmax
from jsoftmax.vocabulary._topk import TopK
from jsoftmax.vocabulary.trees._class_tree import ClassTree
from jsoftmax.vocabulary.trees._hierarchical_log_prob import log_prob_of
from jsoftmax.vocabulary.trees._hierarchical_log_softmax import log_probabilities
from jsoftmax.vocabulary.trees._node_choices import Choices, read_choices


@on_explicit_axes(like="features")
def hierarchical_topk(
    features: ArrayLike,
    table: ArrayLike,
    tree: ClassTree,
    k: int,
    *,
    bias: ArrayLike | None = None,
    beam: int | None = None,
) -> TopK:
    r"""The k likeliest classes at the leaves of a tree, exactly.

    .. math:: P(y|h) ≤ P(n|h) \qquad \text{for every node } n \text{ above } y

    Going down the tree, at each level the `beam` likeliest nodes are kept. What that leaves out is
    remembered: where its likeliest node is not likelier than the k-th class found, neither is any
    class below it, and the search was exact. (Only that is a proof: the likeliest class need not be
    below likely nodes.) For the tokens where it is likelier all classes are computed, some tokens
    at a time. So the result does not depend on `beam`, but time does: of the nodes of a level at
    most 1/p are likelier than p, so that a beam of 1/p is enough where the k-th class has
    probability p, and far fewer mostly are.

    Args:
        features: h of shape [..., d], any real dtype.
        table: the rows w of shape [tree.table_rows, d].
        tree: a `ClassTree`.
        k: number of classes, from 1 to K.
        bias: b of shape [tree.table_rows].
        beam: how many nodes of a level are kept; None for 4k, but at least 64.

    Returns:
        `values` and `classes`, of shape [..., k]: in float32 at least, and int32. Of classes
        that are equally likely, to rounding, any may come first. The log-probabilities are
        differentiable.

    Raises:
        TypeError: if `features` or `table` are not real numbers, `tree` is no `ClassTree`, or `k`
            or `beam` is not an integer.
        ValueError: if shapes do not fit, or a number is out of range.

    Example:
        >>> import jax.numpy as jnp, jsoftmax as js
        >>> tree = js.huffman_tree([5, 2, 1, 1])
        >>> table = jnp.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> print(hierarchical_topk(jnp.ones(2), table, tree, 2).classes)
        [1 0]
    """
    function = "hierarchical_topk"
    choices = read_choices(function, features, table, tree, bias)
    tree = choices.tree
    if checks.whole_number(function, "k", k) > tree.classes:
        raise ValueError(f"jsoftmax.{function}: `k` must be from 1 to {tree.classes}, got {k}.")
    beam = max(4 * k, 64) if beam is None else checks.whole_number(function, "beam", beam)
    return _likeliest(choices, int(k), min(beam, tree.nodes))


# Compiled once per shape, even when called outside of `jit`; inlined inside it.
@partial(jax.jit, static_argnums=(1, 2), inline=True)
def _likeliest(choices: Choices, k: int, beam: int) -> TopK:
    classes, is_exact = _searched(choices.still(), k, beam)
    classes = _computed_where(~is_exact, choices.still(), k, classes)
    # Computed once more, which is differentiable whatever the search was.
    log_p = log_prob_of(choices, classes)
    log_p, places = jax.lax.top_k(log_p, k)
    classes = jnp.take_along_axis(classes, places, axis=-1)
    return TopK(choices.shaped(log_p), choices.shaped(classes))


class _Search(NamedTuple):
    """A search that has come down to some level."""

    nodes: Array  # (token, beam) of that level, −1 for none
    log_p: Array  # of them
    classes: Array  # (token, k), the likeliest found so far
    class_log_p: Array  # of them, falling
    left_out: Array  # (token, 1), the largest log P of a node not kept


def _searched(choices: Choices, k: int, beam: int) -> tuple[Array, Array]:
    """Classes (token, k), and whether they are proven to be the likeliest (token,)."""
    tree, h = choices.tree, choices.features

    def filled(value, count):
        return jnp.full_like(h, value, shape=(h.shape[0], count))

    def kept(log_p, things, count):
        log_p, places = jax.lax.top_k(log_p, count)
        return log_p, jnp.take_along_axis(things, places, axis=-1)

    def is_open(search):
        # A beam without a node likelier than the k-th class is done.
        return jnp.max(search.log_p, axis=-1) > search.class_log_p[:, -1]

    def go_down(search):
        nodes = jnp.maximum(search.nodes, 0)
        z, is_child = choices.scores(nodes)
        is_child = is_child & (search.nodes >= 0)[..., None]
        step = log_softmax(z, where=is_child)
        log_p = jnp.where(is_child, search.log_p[..., None] + step, -jnp.inf)
        places = jnp.where(is_child, tree.children[nodes], -1)
        log_p, places = (x.reshape(h.shape[0], beam * tree.width) for x in (log_p, places))
        inner, nodes = kept(jnp.where(places > 0, log_p, -jnp.inf), places, beam + 1)
        leaves, classes = kept(
            jnp.concatenate([search.class_log_p, jnp.where(places < 0, log_p, -jnp.inf)], axis=-1),
            jnp.concatenate([search.classes, -1 - places], axis=-1),
            k,
        )
        nodes = jnp.where(inner > -jnp.inf, nodes, -1)
        left_out = jnp.maximum(search.left_out, inner[:, -1:])
        return _Search(nodes[:, :-1], inner[:, :-1], classes, leaves, left_out)

    start = _Search(
        filled(-1, beam).astype(tree.children.dtype).at[:, 0].set(0),
        filled(-jnp.inf, beam).at[:, 0].set(0),
        filled(-1, k).astype(tree.children.dtype),
        filled(-jnp.inf, k),
        filled(-jnp.inf, 1),
    )
    end = jax.lax.while_loop(lambda search: is_open(search).any(), go_down, start)
    least = end.class_log_p[:, -1]
    return end.classes, (end.left_out[:, 0] <= least) & (least > -jnp.inf)


def _computed_where(wanted: Array, choices: Choices, k: int, classes: Array) -> Array:
    """The classes, for wanted tokens found among all: as many tokens at once as hold 2²² scores."""
    tokens = wanted.shape[0]
    together = jax.core.min_dim(tokens, max(1, 2**22 // choices.tree.classes))

    def some(state):
        wanted, classes = state
        _, rows = jax.lax.top_k(wanted.astype(jnp.int32), together)
        part = dataclasses.replace(choices, features=choices.features[rows])
        _, found = jax.lax.top_k(log_probabilities(part), k)
        return wanted.at[rows].set(False), classes.at[rows].set(found.astype(classes.dtype))

    # A loop and no `cond`, of which `vmap` would compute both sides.
    _, classes = jax.lax.while_loop(lambda state: state[0].any(), some, (wanted, classes))
    return classes
