"""Rows of scores of a block of queries: kept on the chip, or recomputed for each pass.

Where a score far below the largest has no mass, a tile need not be computed at all if none of its
keys can have a score that is high enough. With keys between two bounds, in each feature,

    q·k ≤ Σ max(q_d low_d, q_d high_d),

and the scores of the tile with the largest bound give the level: z > top − ω′(1) + ω′(0).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jsoftmax.kernels.attention._block import Block, product
from jsoftmax.kernels.attention._row import (
    FORMED,
    UNFORMED,
    Tiles,
    finite_above,
    folded,
    peaks_at,
    rows_in,
    rows_of_peaks,
)
from jsoftmax.kernels.attention._spec import PEAK, remainder
from jsoftmax.kernels.attention._visits import Visits, listed
from jsoftmax.kernels.attention._walk import walk


class Row(NamedTuple):
    """Scores, and the tiles that hold them."""

    tiles: Tiles
    visits: Visits


def row_of(block: Block) -> Row:
    """Return the rows of scores of a block."""
    visits = block.visits()
    if block.spec.on_chip:
        return Row(_kept(block, visits), visits)
    return _with_peaks(block, visits) if block.spec.peaks else Row(_again(block, visits), visits)


def _kept(block, visits):
    """Compute scores once and keep them; the lowest score where a tile can have no mass.

    If a threshold is to be found, this finds their largest, and replaces +∞ by the largest number,
    once.
    """
    spec, refs, q = block.spec, block.refs, block.refs.q[0]
    size, (first, last) = spec.block_k, (visits.first, visits.last)

    def put(i, z):
        refs.z[pl.ds(i * size, size), :] = z
        refs.peaks[peaks_at(spec, i), :] = _peaks_of(z)

    def form(i, tiles, state):
        def keep(seen):
            z = block.formed(i, tiles[0], q).z
            put(i, z if seen is None else jnp.where(seen, z, -jnp.inf))
            if spec.is_sparse:
                refs.alive[0, 0, i] = FORMED
            return 0

        block.where_whole(i, keep)
        return state

    if spec.has_bounds:

        def clear(i, _):
            put(i, jnp.full((size, spec.block_q), -jnp.inf, spec.computing))
            refs.alive[0, 0, i] = UNFORMED
            return 0

        jax.lax.fori_loop(first, last, clear, 0)
        visits = _within_bounds(block, visits)
    walk([block.source("k")], visits, form, 0)
    shorter = rows_of_peaks(spec, refs.peaks, first, last)
    row = rows_in(spec, refs.z, first * size, last - first, size)
    if spec.is_softmax or "hard" in spec.has or spec.is_hard:
        return dataclasses.replace(row, shorter=shorter)
    top = shorter.max()

    @pl.when(row.anywhere(top == jnp.inf))
    def _():
        def cut(i, _):
            for ref, here in ((refs.z, pl.ds(i * size, size)), (refs.peaks, peaks_at(spec, i))):
                ref[here, :] = finite_above(ref[here, :])
            return 0

        jax.lax.fori_loop(first, last, cut, 0)

    shorter = dataclasses.replace(shorter, top=top)
    return dataclasses.replace(row, shorter=shorter, top=top)


def _peaks_of(z):
    """Return the largest of every `PEAK` scores: (keys, queries) → (keys/PEAK, queries)."""
    keys, queries = z.shape
    return jnp.max(z.reshape(-1, PEAK, 8, queries), axis=1).reshape(keys // PEAK, queries)


def _again(block, visits):
    """Recompute scores for each pass."""
    q = block.refs.q[0]

    def each(step, state):
        def turn(i, tiles, state):
            return step(block.scores(i, tiles[0], q).z, state)

        return walk([block.source("k")], visits, turn, state)

    return Tiles(each, block.spec)


def _with_peaks(block, visits):
    """Recompute only the tiles that had a score with possible mass in the first pass."""
    spec, peaks, q = block.spec, block.refs.peaks, block.refs.q[0]
    sight, lowest = visits, jnp.full((spec.peaks, spec.block_q), -jnp.inf, spec.computing)

    def clear(i, _):
        peaks[peaks_at(spec, i), :] = lowest
        if spec.lists:
            block.refs.alive[0, 0, i] = UNFORMED
        return 0

    jax.lax.fori_loop(sight.first, sight.last, clear, 0)
    if spec.has_bounds:
        visits = _within_bounds(block, visits)

    def look(i, tiles, top):
        z = block.scores(i, tiles[0], q).z
        found = folded(z, jnp.max, spec.peaks)
        # The tile may not be visited again, and maxima may miss a NaN.
        spoiled = folded(jnp.where(z == z, 0.0, 1.0), jnp.max, spec.peaks) > 0
        found = jnp.where(spoiled, jnp.nan, found)
        peaks[peaks_at(spec, i), :] = finite_above(found)
        if spec.lists:
            block.refs.alive[0, 0, i] = FORMED
        return jnp.maximum(top, found)

    top = walk([block.source("k")], visits, look, lowest)
    top = jnp.max(top, axis=0, keepdims=True)
    if spec.lists:
        visits = _high_enough(block, visits, peaks, spec.peaks, top)
    shorter = dataclasses.replace(rows_of_peaks(spec, peaks, sight.first, sight.last), top=top)
    row = _again(block, visits)
    if "hard" in spec.has or spec.is_hard:  # +∞ differs from the largest number
        return Row(row, visits)

    def each(step, state):
        return row.each(lambda z, state: step(finite_above(z), state), state)

    return Row(Tiles(each, spec, shorter, top), visits)


def _within_bounds(block, visits):
    """Return the tiles with key bounds that allow a score with mass."""
    limits, q = block.refs.limits, block.refs.q[0]
    _write_limits(block)
    count = limits.shape[0] // (block.refs.alive.shape[2])

    def higher(i, best):
        # Where all queries see all keys, so that the scores there are a floor of all.
        largest = jnp.max(limits[pl.ds(i * count, count), :])
        largest = jnp.where(block.is_seen(i), largest, -jnp.inf)
        is_higher = largest > best[0]
        return jnp.where(is_higher, largest, best[0]), jnp.where(is_higher, i, best[1])

    lowest = jnp.asarray(-jnp.inf, block.spec.computing)
    _, best = jax.lax.fori_loop(visits.first, visits.last, higher, (lowest, visits.first))

    def top_of(i, tiles, top):
        return jnp.maximum(top, jnp.max(block.scores(i, tiles[0], q).z, axis=0, keepdims=True))

    one = Visits(best, jnp.minimum(best + 1, visits.last))
    start = jnp.full((1, block.spec.block_q), -jnp.inf, block.spec.computing)
    return _high_enough(block, visits, limits, count, walk([block.source("k")], one, top_of, start))


def _write_limits(block):
    """Write upper bounds of scores in parts of tiles; −∞ for queries that see none of them."""
    spec, refs = block.spec, block.refs
    q, scale = refs.q[0], block.numbers["scale"]
    up, down = jnp.maximum(q, 0).astype(q.dtype), jnp.minimum(q, 0).astype(q.dtype)
    rows, head = block.rows_and_heads()
    size = refs.limits.shape[0]
    axes, precision = ((1,), (1,)), jax.lax.Precision.HIGHEST if q.dtype.itemsize > 2 else None
    chunk = next(n for n in (256, 128, 64, 32, 16, 8) if size % n == 0)

    def write(i, _):
        here = pl.ds(i * chunk, chunk)
        low, high = refs.low[0, here, :], refs.high[0, here, :]

        def bound(above, below):
            terms = (product(x, y, axes, precision) for x, y in ((above, up), (below, down)))
            return sum(terms)

        most, least = bound(high, low), bound(low, high)
        z = block.capped(jnp.where(scale > 0, scale * most, scale * least)).z
        is_seen = rows < block.queries
        if head is not None:
            places = i * chunk + jax.lax.broadcasted_iota(jnp.int32, (chunk, 1), 0)
            is_seen = is_seen & (head == remainder(places, spec.joined[1]))
        refs.limits[here, :] = jnp.where(is_seen, z, -jnp.inf)
        return 0

    jax.lax.fori_loop(0, size // chunk, write, 0)


def _high_enough(block, visits, limits, count, top):
    """Return the tiles that may have a score with mass beside the largest so far, `top`.

    `limits` has `count` upper bounds of the scores of each tile, for each query.
    """
    one = jnp.ones(top.shape, top.dtype)
    marginal = block.regularizer.marginal
    floor = top - (marginal(one) - marginal(0 * one))

    def is_wanted(i):
        z = limits[pl.ds(i * count, count), :]
        is_low = (z < floor) | (z == -jnp.inf)  # NaN is not low
        return jnp.max(jnp.where(is_low, 0.0, 1.0)) > 0

    return listed(visits, block.refs.order, is_wanted)
