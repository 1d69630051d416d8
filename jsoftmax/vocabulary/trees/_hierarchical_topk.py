"""Exact top-k of a tree by beam search, without computing all classes."""

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
    r"""Find the k likeliest classes at the leaves of a tree, exactly.

    .. math:: P(y|h) ≤ P(n|h) \qquad \text{for every node } n \text{ above } y

    A beam search keeps the `beam` likeliest nodes of each level, and the probability of the
    likeliest node that it drops. Where that node is no likelier than the k-th class found, neither
    is any class below it, and the search was exact. (This check is needed: the likeliest class need
    not be below likely nodes.) For the other tokens all classes are computed, a few tokens at a
    time. So time depends on `beam`, but the result does not. At most 1/p nodes of a level are
    likelier than p, so a beam of 1/p is enough where the k-th class has probability p; mostly far
    fewer are enough.

    Args:
        features: h of shape [..., d], any real dtype.
        table: the rows w of shape [tree.table_rows, d].
        tree: a `ClassTree`.
        k: number of classes, from 1 to K.
        bias: b of shape [tree.table_rows].
        beam: number of nodes kept per level; None for 4k, at least 64.

    Returns:
        `values` and `classes`, of shape [..., k]: in float32 at least, and int32. The order of
        classes that are equally likely, up to rounding, is arbitrary. The log-probabilities are
        differentiable.

    Raises:
        TypeError: if `features` or `table` are not real numbers, `tree` is not a `ClassTree`, or
            `k` or `beam` is not an integer.
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
    # Recomputed from the classes found, so that the result is differentiable.
    log_p = log_prob_of(choices, classes)
    log_p, places = jax.lax.top_k(log_p, k)
    classes = jnp.take_along_axis(classes, places, axis=-1)
    return TopK(choices.shaped(log_p), choices.shaped(classes))


class _Search(NamedTuple):
    """The state of a beam search at some level."""

    nodes: Array  # (token, beam) of that level, −1 for none
    log_p: Array  # (token, beam) of the nodes
    classes: Array  # (token, k), the likeliest found so far
    class_log_p: Array  # (token, k) of the classes, falling
    left_out: Array  # (token, 1), the largest log P of a dropped node


def _searched(choices: Choices, k: int, beam: int) -> tuple[Array, Array]:
    """Search classes (token, k); return also whether they are proven likeliest, (token,)."""
    tree, h = choices.tree, choices.features

    def filled(value, count):
        return jnp.full_like(h, value, shape=(h.shape[0], count))

    def kept(log_p, things, count):
        log_p, places = jax.lax.top_k(log_p, count)
        return log_p, jnp.take_along_axis(things, places, axis=-1)

    def is_open(search):
        # A beam is done when none of its nodes is likelier than the k-th class.
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
    """Recompute wanted tokens over all classes, as many tokens at once as hold 2²² scores."""
    tokens = wanted.shape[0]
    together = jax.core.min_dim(tokens, max(1, 2**22 // choices.tree.classes))

    def some(state):
        wanted, classes = state
        _, rows = jax.lax.top_k(wanted.astype(jnp.int32), together)
        part = dataclasses.replace(choices, features=choices.features[rows])
        _, found = jax.lax.top_k(log_probabilities(part), k)
        return wanted.at[rows].set(False), classes.at[rows].set(found.astype(classes.dtype))

    # A loop instead of `cond`: under `vmap`, `cond` computes both branches.
    _, classes = jax.lax.while_loop(lambda state: state[0].any(), some, (wanted, classes))
    return classes
