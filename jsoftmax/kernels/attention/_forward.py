"""Forward kernel: scores of a block of queries, their threshold, Σ p v.

A block of queries computes its scores tile by tile, on the chip if a row of them fits, and the
solver of the mappings finds the threshold there. A last pass over the tiles computes p and the
mixtures, and skips tiles without mass.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jsoftmax.core._arg_max import floor_of, hardened, higher, where_hard
from jsoftmax.core._filled import filled
from jsoftmax.core._scores import WithMore, difference
from jsoftmax.core._solved_row import below_bound, mean_of
from jsoftmax.core._threshold import solve
from jsoftmax.core.curves import has_slopes, is_asked, masses_and_slopes
from jsoftmax.kernels.attention._block import Block, finite, product
from jsoftmax.kernels.attention._layout import write
from jsoftmax.kernels.attention._row import MASS, finite_above, folded, peaks_at
from jsoftmax.kernels.attention._row_of_block import row_of
from jsoftmax.kernels.attention._spec import Spec
from jsoftmax.kernels.attention._tile_sums import summed
from jsoftmax.kernels.attention._visits import listed

ROWS = ("tau", "floor", "anchor", "level", "total")  # residuals of a query, up to eight


def forward(spec: Spec, refs: SimpleNamespace) -> None:
    """Run the kernel for one block of queries of one head."""
    block = Block(spec, refs, pl.program_id(0), pl.program_id(1))
    row = row_of(block)
    by = _softmax if spec.is_softmax else _by_threshold
    mixed, mean, stats = by(block, row)
    if spec.hides:  # a query spoiled by a value that it sees is so in all features
        spoiled = jnp.max(jnp.where(mixed == mixed, 0.0, 1.0), axis=0, keepdims=True) > 0
        mixed = jnp.where(spoiled, jnp.nan, mixed)
        stats = [jnp.where(spoiled, jnp.nan, x) for x in stats]
    write(spec, refs.out, mixed)
    if refs.mean is not None:
        write(spec, refs.mean, mean)
    if refs.rows is not None:
        stats = [*stats, *([jnp.zeros_like(stats[0])] * (8 - len(stats)))]
        refs.rows[0] = _stacked(stats)


def _stacked(rows):
    """Stack eight rows in one array."""
    number = jax.lax.broadcasted_iota(jnp.int32, (8, rows[0].shape[1]), 0)
    found = jnp.zeros(number.shape, rows[0].dtype)
    for i, x in enumerate(rows):
        found = jnp.where(number == i, x, found)
    return found


def _softmax(block, row):
    """Compute weights relative to the largest score, and their sum."""
    sink, tiles = block.numbers.get("sinks"), row.tiles
    top = (tiles if tiles.shorter is None else tiles.shorter).max()
    top = top if sink is None else jnp.maximum(top, sink)
    mixed, _, total = _mixed(block, row, lambda z: (jnp.exp(difference(z, top)), None))
    if sink is not None:
        total = total + jnp.exp(difference(sink, top))
    some = jnp.where(total == 0, 1, total)
    log_total = jnp.log(some)
    out = mixed / some
    return out, out, [top + log_total, top, top, -log_total, filled(top, 1)]


def _by_threshold(block, row):
    """Find the threshold by the solver of the mappings."""
    spec, hard, regularizer = block.spec, block.hard, block.regularizer
    sink, tiles = block.numbers.get("sinks"), row.tiles
    top = floor = None
    if hard is not False:
        top = tiles.max()
        pair = top, tiles.max(lambda z: jnp.where(z < top, z, -jnp.inf))
        if sink is not None:
            pair = higher(pair, (sink, filled(top, -jnp.inf)))
        top, floor = pair[0], floor_of(pair)
        tiles = tiles.hardened(hard, floor)
        sink = None if sink is None else hardened(hard, sink, floor)

    def on_curve(curve):
        anchor, place = solve(curve, tiles if sink is None else WithMore(tiles, sink))

        by_shares = hard is False and has_slopes(curve)

        def weights(z):
            if by_shares:
                return curve.shares(z if spec.on_chip else finite_above(z), anchor, place)
            z = z if floor is None else hardened(hard, z, floor)
            p, s = masses_and_slopes(curve, regularizer, z, anchor, place)
            return p, where_hard(hard, p, s)

        of_mass, of_slope = curve.factors() if by_shares else (1.0, 1.0)
        mixed, mean, total = _mixed(block, row, weights, is_asked(curve))
        mixed = mixed * of_mass
        if mean is not None:
            total = total if sink is None else total + weights(finite_above(sink))[1]
            mean = mean_of(mean, total)  # their factor cancels
            total = total * of_slope
        level = curve.log_masses(anchor, anchor, place)
        # Of a fully masked row, too: ω′ of a link with a bound is infinite at p = 1.
        level = below_bound(jnp.where(anchor == -jnp.inf, 0, level), regularizer)
        mixed = jnp.where(level == level, mixed, jnp.nan)  # also for α = NaN
        if mean is None:
            return mixed, mixed, anchor, level, level
        return mixed, mean, anchor, level, total

    mixed, mean, anchor, level, total = regularizer.on_curve(tiles.anywhere, on_curve)
    tau = jnp.where(anchor > -jnp.inf, anchor - regularizer.log_marginal(level), anchor)
    tau = tau if top is None else where_hard(hard, top, tau)
    floor = anchor if floor is None else where_hard(hard, floor, anchor)
    return mixed, mean, [tau, floor, anchor, level, total]


def _mixed(block, row, weights, asked: Any = True) -> tuple[Any, Any, Any]:
    """Return Σ p v, Σ s v and Σ s of weights(z) = (p, s); for softmax Σ p v and Σ p.

    Only for the queries that are `asked`, if given.
    """
    spec, refs = block.spec, block.refs
    size, rows = spec.block_k, spec.rows
    with_mean = not spec.is_softmax and refs.mean is not None
    width = refs.out.shape[1 if spec.is_tpu else 2], spec.block_q
    shapes = (
        width,
        width if with_mean else None,
        (rows, spec.block_q) if with_mean or spec.is_softmax else None,
    )

    def terms(i, tiles):
        v, *keys = tiles
        z = block.scores(i, *keys, refs.q[0]).z if keys else refs.z[pl.ds(i * size, size), :]
        p, s = weights(z)
        scale = block.kept(i)
        by_values = _by_values(block, i, v, z)
        mixed = by_values(p * scale)
        mean = by_values(s * scale) if with_mean else None
        return mixed, mean, folded(p if s is None else s, jnp.sum, rows)

    def is_alive(i):
        p, _ = weights(refs.peaks[peaks_at(spec, i), :])
        empty = p <= 0 if asked is True else (p <= 0) | ~asked
        return jnp.max(jnp.where(empty, 0.0, 1.0)) > 0  # a row of NaN is alive

    def tell(i):
        alive = is_alive(i)
        refs.alive[0, 0, i] = jnp.where(alive, MASS, refs.alive[0, 0, i])
        return alive

    visits = listed(row.visits, refs.alive_order, tell) if spec.lists else row.visits
    kept = [refs.mixed, refs.mean_sum, refs.total] if spec.is_tpu else None
    sources = [
        block.source("v", 1 if spec.has_rows_of_values else 2),
        *([] if spec.on_chip else [block.source("k")]),
    ]
    by_turns = tell if refs.alive is not None and not spec.lists else None
    mixed, mean, total = summed(kept, shapes, spec.computing, sources, visits, terms, by_turns)
    return mixed, mean, None if total is None else jnp.sum(total, axis=0, keepdims=True)


def _by_values(block, i, v, z):
    """Return Σ w v of a tile, as a function of w.

    Where keys are hidden, a value that is not finite spoils the queries that see it, and no others.
    """
    spec = block.spec

    axes = ((0,), (0,)) if spec.has_rows_of_values else ((1,), (0,))

    def of(w):
        return product(v, w.astype(v.dtype), axes, spec.precision)

    if not spec.hides:
        return of

    def careful(w):
        clean, spoiled = finite(v)
        seen = z > -jnp.inf
        if spec.has_rows_of_values:
            hit = jnp.where(seen, jnp.max(spoiled, axis=1, keepdims=True), 0.0)
        else:
            spoiled = jnp.max(spoiled, axis=0, keepdims=True)
            spoiled = jnp.broadcast_to(spoiled, (8, spec.block_k)).astype(v.dtype)
            seen = jnp.where(seen, 1.0, 0.0).astype(v.dtype)
            hit = product(spoiled, seen, ((1,), (0,)), None)
        hit = jnp.max(hit, axis=0, keepdims=True) > 0
        found = product(clean, w.astype(v.dtype), axes, spec.precision)
        return jnp.where(hit, jnp.nan, found)

    if spec.hides_everywhere:
        return careful

    def chosen(w):
        # Outside of the branch as in `Block.scores`, where registers of a GPU suffice: for one sum.
        found = None if spec.is_tpu or block.refs.mean is not None else of(w)
        return jax.lax.cond(
            block.is_whole(i), lambda: of(w) if found is None else found, lambda: careful(w)
        )

    return chosen
