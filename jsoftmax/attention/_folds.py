"""Reduce over the keys of a block of queries, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._dropout import kept
from jsoftmax.attention._key_blocks import KEYS, split, taken
from jsoftmax.attention._products import weighted_values
from jsoftmax.core._filled import filled
from jsoftmax.core._named_trees import Trees, overlaid


def fold(rule: Rule, step: Callable, state: Any, trees: Trees) -> Any:
    """Fold step(state, trees) over the blocks of keys."""
    if key_blocks(rule, trees[1]) == 1:
        return step(state, trees)
    parts, rest = split(trees, KEYS, rule.block_k)
    state, _ = jax.lax.scan(lambda s, part: (step(s, overlaid(part, rest)), None), state, parts)
    return state


def summed(rule: Rule, sums: Callable[[Trees], Any], trees: Trees) -> Any:
    """Return the sum of sums(trees) over the blocks of keys, and over the parts of a split row."""
    if key_blocks(rule, trees[1]) == 1:
        total = sums(trees)
    else:
        again = recomputed(sums)
        moving, fixed, *_ = trees
        zero = like_rows(moving, fixed, 0)
        shapes = jax.eval_shape(sums, taken(trees, KEYS, 0, 1))
        zeros = jax.tree.map(lambda s: jnp.broadcast_to(zero, s.shape), shapes)

        def step(state, trees):
            return jax.tree.map(jnp.add, state, again(trees))

        total = fold(rule, step, zeros, trees)
    return over_parts(total, rule.axis_name)


def over_parts(sums: Any, axis_name: Any) -> Any:
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def recomputed(function: Callable, static_argnums: tuple[int, ...] = ()) -> Callable:
    """Rematerialize: `function` saves no intermediate; the backward pass recomputes them.

    Custom derivatives in the body of a loop need this also to survive a second reverse pass: JAX
    drops them where it looks for loop-invariant computations.
    """
    # The compiler cannot merge repeated computations in a loop; outside of one it may.
    return jax.checkpoint(function, prevent_cse=False, static_argnums=static_argnums)


def key_blocks(rule: Rule, fixed: Fixed) -> int:
    keys = fixed.column_places.shape[-1]
    return 1 if keys == rule.block_k else -(-keys // rule.block_k)


def like_rows(moving: Moving, fixed: Fixed, value: float) -> Array:
    """Return one value for each row, in an array that varies over a mesh as the data do."""
    rows = fixed.row_spoiled + fixed.column_spoiled[..., :1]
    own = *moving.numbers, *moving.of_heads, *moving.of_queries, *moving.of_keys
    for x in (moving.bias, fixed.mask, moving.scale, *own):
        if x is not None:
            rows = jnp.where(x[..., :1] == x[..., :1], rows, rows)
    return filled(rows, value)


def mixed_values(weights: Array, v: Array, fixed: Fixed, rule: Rule) -> Array:
    """Return Σ w v of each row, without the dropped weights."""
    return weighted_values(weights * kept(fixed, rule), v, rule)


def row_sum(x: Array) -> Array:
    return jnp.sum(x, axis=-1, keepdims=True)
