"""Going through the keys of a block of queries, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._arguments import Fixed, Moving, Rule
from jsoftmax.attention._blocks import KEYS, Trees, joined, split, taken
from jsoftmax.attention._dropout import kept
from jsoftmax.attention._scores import scores
from jsoftmax.core._curves import filled


def fold(rule: Rule, step: Callable, state: Any, trees: Trees) -> Any:
    """step(state, trees) over the blocks of keys."""
    if key_blocks(rule, trees[0]) == 1:
        return step(state, trees)
    parts, rest = split(trees, KEYS, rule.block_k)
    state, _ = jax.lax.scan(lambda s, part: (step(s, joined(part, rest)), None), state, parts)
    return state


def summed(rule: Rule, sums: Callable[[Trees], Any], trees: Trees) -> Any:
    """The sum of sums(trees) over the blocks of keys, and over the parts of a split row."""
    if key_blocks(rule, trees[0]) == 1:
        total = sums(trees)
    else:
        again = recomputed(sums)
        moving, fixed, *_ = trees
        like = like_rows(rule, moving, fixed)
        shapes = jax.eval_shape(sums, taken(trees, KEYS, 0, 1))
        zeros = jax.tree.map(lambda s: jnp.broadcast_to(filled(like, 0), s.shape), shapes)

        def step(state, trees):
            return jax.tree.map(jnp.add, state, again(trees))

        total = fold(rule, step, zeros, trees)
    return over_parts(total, rule.axis_name)


def over_parts(sums: Any, axis_name: Any) -> Any:
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def recomputed(function: Callable) -> Callable:
    """`function`, of whose work nothing is kept for the way back: there it is done again.

    Custom derivatives in the body of a loop need this also to survive a second reverse pass: JAX
    drops them where it looks for what a loop need not compute at each turn.
    """
    # In a loop the compiler cannot merge what is computed twice; where there is none it may.
    return jax.checkpoint(function, prevent_cse=False)


def key_blocks(rule: Rule, moving: Moving) -> int:
    return -(-moving.k.shape[-2] // rule.block_k)


def like_rows(rule: Rule, moving: Moving, fixed: Fixed) -> Array:
    """Some number for each row that varies over a mesh as the data do."""
    return scores(*taken((moving, fixed), KEYS, 0, 1), rule=rule)


def mixed_values(weights: Array, v: Array, fixed: Fixed, rule: Rule) -> Array:
    """Σ w v of each row, without the weights that dropout drops."""
    weights = weights * kept(fixed, rule)
    *lead, groups, queries, keys = weights.shape
    rows = jnp.matmul(weights.reshape(*lead, groups * queries, keys), v[..., 0, :, :])
    return rows.reshape(*rows.shape[:-2], groups, queries, v.shape[-1])


def row_sum(x: Array) -> Array:
    return jnp.sum(x, axis=-1, keepdims=True)
