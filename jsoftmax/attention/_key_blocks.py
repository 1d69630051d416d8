"""Group queries and keys into blocks, and cut and join arrays accordingly.

All functions act on tuples of `Moving` and `Fixed`. Their arrays share their axes.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.attention._attention_problem import Rule, Stripe
from jsoftmax.core._named_trees import Trees, by_name, overlaid

# Where the axes of queries and of keys are.
QUERIES = {
    "q": -2, "bias": -2, "mask": -2, "rows": -2, "row_segments": -2, "row_places": -2,
    "row_spoiled": -2, "before": -2, "after": -2, "scale": -2, "of_queries": -2, "offset": -2,
    "tau": -2, "floor": -2, "anchor": -2, "level": -2, "total": -2, "mean": -2,
}  # fmt: skip
KEYS = {
    "k": -1, "v": -1, "bias": -1, "mask": -1, "columns": -1, "column_segments": -1,
    "column_places": -1, "column_spoiled": -1, "of_keys": -1,
}  # fmt: skip
WHOLE = "whole"  # arrays of a score function that are not cut into blocks


def looped(function: Callable, rule: Rule, trees: Trees) -> Any:
    """Call function(rule, *trees) on blocks of queries, and on a CPU on parts of the batch too."""
    lead = trees[0].q.shape[:-3]
    together = _together(rule, trees[0].q)
    whole = partial(_striped, function, rule)
    if together == lead:
        return whole(trees)

    def over(trees, axes):
        if not axes:
            return whole(trees)
        (axis, size), *others = axes
        return mapped(lambda trees: over(trees, others), trees, axis, size)

    def by_parts(trees):
        return over(trees, list(enumerate(together)))

    return jax.lax.platform_dependent(trees, cpu=by_parts, default=whole)


def _together(rule: Rule, q: Array) -> tuple[int, ...]:
    """Return how many batch entries and heads a CPU computes at once, the last axes first."""
    *lead, groups, _, _ = q.shape
    if rule.scores is None:
        return tuple(lead)
    left = rule.scores // (groups * rule.block_q * rule.block_k)
    sizes = []
    for i, size in enumerate(lead):
        inner = math.prod(lead[i + 1 :])
        fitting = (n for n in range(size, 1, -1) if size % n == 0 and n * inner <= left)
        sizes.append(next(fitting, 1))
    return tuple(sizes)


def _striped(function: Callable, rule: Rule, trees: Trees) -> Any:
    """Call function(rule, *trees) on blocks of queries with the keys that they may see."""
    if not rule.stripes:
        return mapped(lambda trees: function(rule, *trees), trees, QUERIES, rule.block_q)
    lists = by_name(trees, lambda name, x: _stripes_of(name, x, rule.stripes))
    results = []
    for i, stripe in enumerate(rule.stripes):
        part = jax.tree.map(operator.itemgetter(i), lists, is_leaf=lambda x: isinstance(x, list))
        own = partial(function, dataclasses.replace(rule, block_k=stripe.block_k))
        results.append(mapped(lambda trees, own=own: own(*trees), part, QUERIES, rule.block_q))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=-2), *results)


def _stripes_of(name: str, x: Array, stripes: tuple[Stripe, ...]) -> list[Array]:
    """Return the part of an array that each stripe needs."""
    xs = [x] * len(stripes)
    if _has(name, x, QUERIES):
        xs = _cut(x, QUERIES[name], [stripe.queries for stripe in stripes])
        if _has(name, x, KEYS):
            xs = [_cut(y, KEYS[name], [s.keys])[0] for y, s in zip(xs, stripes, strict=True)]
    elif _has(name, x, KEYS):
        xs = _cut(x, KEYS[name], [stripe.keys for stripe in stripes])
    return xs


def _cut(x: Array, axis: int, ranges: list[tuple[int, int]]) -> list[Array]:
    """Slice x along an axis, for each range from start to stop.

    The slices are concatenations of pieces that no range divides. The backward pass adds up the
    pieces, each only as often as it was used; that of a slice would add zeros of the whole length.
    """
    size = x.shape[axis]
    bounds = sorted({0, size}.union(*ranges))
    axis %= x.ndim
    pieces = jax.lax.split(x, np.diff(bounds).tolist(), axis=axis)
    used = (pieces[bounds.index(low) : bounds.index(high)] for low, high in ranges)
    return [jnp.concatenate(some, axis=axis) for some in used]


def mapped(function: Callable, trees: Trees, axes: dict[str, int] | int, block: Any) -> Any:
    """Map function(trees) over blocks along an axis, in sequence; concatenate the results.

    The results have the axis where queries have theirs, or, for an int, at that place.
    """
    size = _size(trees, axes)
    if size == block or size < block:  # in this order, since a symbol can be equal only
        return function(trees)
    assert size % block == 0
    axis = axes if isinstance(axes, int) else -2
    parts, rest = split(trees, axes, block)
    stacked = jax.lax.map(lambda part: function(overlaid(part, rest)), parts)
    return jax.tree.map(lambda x: _merged(x, axis), stacked)


def split(trees: Trees, axes: dict[str, int] | int, block: int) -> tuple[Trees, Trees]:
    """Return the arrays that have the axis, in blocks along a new first axis; and the others."""

    def stacked(x, axis):
        axis %= x.ndim
        shape = (*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    def others(name, x):
        return None if _has(name, x, axes) else x

    return _each(trees, axes, stacked, None), by_name(trees, others)


def taken(trees: Trees, axes: dict[str, int], start: int, stop: int) -> Trees:
    """Slice from `start` to `stop` along an axis."""
    return _each(trees, axes, lambda x, axis: jax.lax.slice_in_dim(x, start, stop, axis=axis))


def padded(trees: Trees, axes: dict[str, int], before: int, after: int) -> Trees:
    """Pad an axis with zeros before and after; in a mask these are False."""

    def pad(x, axis):
        widths = [(0, 0)] * x.ndim
        widths[axis] = (before, after)
        return jnp.pad(x, widths)

    return _each(trees, axes, pad)


def resized(trees: Trees, axes: dict[str, int], size: int) -> Trees:
    """Pad or cut the end of an axis to a size."""
    excess = size - _size(trees, axes)
    return padded(trees, axes, 0, excess) if excess > 0 else taken(trees, axes, 0, size)


def windows(trees: Trees, length: int, before: int, after: int) -> Trees:
    """Stack blocks of `length` queries along a new first axis, each with the keys it may see.

    Keys have `before` positions before the first query and `after` behind the last.
    """
    count = _size(trees, QUERIES) // length

    def queries(x, axis):
        axis %= x.ndim
        shape = (*x.shape[:axis], count, length, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    def overlapping(x, axis):
        def cut(start, width):
            part = jax.lax.slice_in_dim(x, start, start + count * length, axis=axis)
            shape = (*part.shape[:axis], count, length, *part.shape[axis + 1 :])
            part = jnp.moveaxis(part.reshape(shape), axis, 0)
            return jax.lax.slice_in_dim(part, 0, width, axis=axis + 1)

        axis %= x.ndim
        parts = (cut(0, before), cut(before, length), cut(before + length, after))
        return jnp.concatenate(parts, axis=axis + 1)

    def both(name, x):
        if _has(name, x, QUERIES) and _has(name, x, KEYS):
            x = queries(x, QUERIES[name])
            return jax.vmap(lambda y, s: jax.lax.dynamic_slice_in_dim(
                y, s, before + length + after, axis=y.ndim + KEYS[name]
            ))(x, jnp.arange(count) * length)  # fmt: skip
        if _has(name, x, QUERIES):
            return queries(x, QUERIES[name])
        if _has(name, x, KEYS):
            return overlapping(x, KEYS[name])
        return x if name == WHOLE else x[None]

    return by_name(trees, both)


def _size(trees: Trees, axes: dict[str, int] | int) -> Any:
    sizes = []
    for tree in trees:
        for name, x in zip(tree._fields, tree, strict=True):
            axis = _axis(name, axes)
            if axis is not None:
                sizes += [y.shape[axis] for y in jax.tree.leaves(x)]
    return next((n for n in sizes if _is_long(n)), max(sizes))


def _has(name: str, x: Array, axes: dict[str, int] | int) -> bool:
    axis = _axis(name, axes)
    return axis is not None and _is_long(x.shape[axis])


def _axis(name: str, axes: dict[str, int] | int) -> int | None:
    if isinstance(axes, int):
        return None if name == WHOLE else axes
    return axes.get(name)


def _is_long(size: Any) -> bool:
    """Whether an array of this size has the axis; true of a symbolic size."""
    return not isinstance(size, int) or size > 1


def _each(trees: Trees, axes, function: Callable[[Array, int], Array], *otherwise) -> Trees:
    """Apply `function` to every array that has the axis; leave the others, or take `otherwise`."""

    def chosen(name, x):
        if _has(name, x, axes):
            return function(x, axes if isinstance(axes, int) else axes[name])
        return otherwise[0] if otherwise else x

    return by_name(trees, chosen)


def _merged(x: Array, axis: int) -> Array:
    """Concatenate blocks stacked along the first axis, along another of their axes."""
    axis %= x.ndim - 1
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], math.prod(x.shape[axis : axis + 2]), *x.shape[axis + 2 :])
