"""Rows of scores of a block of queries, for the threshold solver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jsoftmax.core._arg_max import Hard, hardened
from jsoftmax.kernels.attention._spec import Spec, quotient

# States of a tile of scores.
UNFORMED, FORMED, MASS = -1, 0, 1
_CHUNK = 32  # scores of a row in vectors at once
TOGETHER = 4  # tiles of peaks in one turn of a loop


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Scores that a kernel visits tile by tile, each (keys, queries).

    `each` takes step(z, state) and the initial state.
    """

    each: Callable[[Callable[[Array, Any], Any], Any], Any]
    spec: Spec
    shorter: Tiles | None = None  # the largest of each few neighbours, where they are kept
    top: Any = None  # the largest score, where it is known: then no other is +∞
    hard: Hard = False
    floor: Any = None

    joins_sums = True

    @property
    def rounding(self) -> float:
        return self.spec.rounding

    def max(self, fn: Callable[[Array], Array] | None = None) -> Array:
        if fn is None and self.top is not None:
            return self.top
        return self._folded(fn or (lambda z: z), jnp.max, jnp.maximum, -jnp.inf)

    def sum(self, fn: Callable[[Array], Any]) -> Any:
        def of_finite(z):
            return fn(z if self.top is not None else finite_above(z))

        return self._folded(of_finite, jnp.sum, jnp.add, 0.0)

    def anywhere(self, flags: Array) -> Array:
        return jnp.max(jnp.where(flags, 1.0, 0.0)) > 0

    def level_of(self, top: Array) -> None:
        return None

    def peaks(self) -> Tiles | None:
        return None if self.hard is not False else self.shorter

    def hardened(self, hard: Hard, floor: Array) -> Tiles:
        """Return only the largest scores, where α is ∞."""
        return dataclasses.replace(self, hard=hard, floor=floor, top=None)

    def _folded(self, fn, reduction, join, neutral):
        spec, rows = self.spec, self.spec.rows

        def step(z, state):
            if self.hard is not False:
                z = hardened(self.hard, z, self.floor)
            return jax.tree.map(lambda x, y: join(x, folded(y, reduction, rows)), state, fn(z))

        row = jax.eval_shape(fn, jax.ShapeDtypeStruct((1, spec.block_q), spec.computing))
        start = jax.tree.map(lambda x: jnp.full((rows, spec.block_q), neutral, x.dtype), row)
        found = self.each(step, start)
        return jax.tree.map(lambda x: reduction(x, axis=0, keepdims=True), found)


def finite_above(z: Array) -> Array:
    """Replace +∞ in scores by the largest number."""
    return jnp.minimum(z, float(jnp.finfo(z.dtype).max))


def folded(x: Array, reduction: Callable, rows: int) -> Array:
    """Reduce (keys, queries) to (rows, queries), by whole vectors."""
    if x.shape[0] == rows:
        return x
    if rows == 1:
        return reduction(x, axis=0, keepdims=True)
    return reduction(x.reshape(-1, rows, x.shape[1]), axis=0)


def peaks_shape(spec: Spec, keys: int) -> tuple[int, int]:
    """Return the shape of the peaks of `keys` keys, with room for a turn beyond the last."""
    return (keys // spec.block_k + TOGETHER - 1) * spec.peaks, spec.block_q


def peaks_at(spec: Spec, tile: Any) -> Any:
    """Return the slice of the peaks of a tile."""
    return pl.ds(tile * spec.peaks, spec.peaks)


def rows_of_peaks(spec: Spec, peaks: Any, first: Any, last: Any) -> Tiles:
    """Return the peaks of the tiles in [first, last), as rows."""
    for i in range(TOGETHER - 1):
        peaks[peaks_at(spec, last + i), :] = jnp.full(
            (spec.peaks, spec.block_q), -jnp.inf, peaks.dtype
        )
    turns = quotient(last - first + (TOGETHER - 1), TOGETHER)
    return rows_in(spec, peaks, first * spec.peaks, turns, TOGETHER * spec.peaks)


def rows_in(spec: Spec, ref: Any, start: Any, turns: Any, size: int) -> Tiles:
    """Return rows in a reference, from `start` on, visited `size` at a time."""

    def each(step, state):
        def turn(i, state):
            for j in range(0, size, chunk):
                state = step(ref[pl.ds(start + i * size + j, chunk), :], state)
            return state

        return jax.lax.fori_loop(0, turns, turn, state)

    chunk = min(_CHUNK, size)
    return Tiles(each, spec)
