"""The rows of scores of a block of queries as a place that the threshold solver may ask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jsoftmax.core._arg_max import Hard, hardened

_CHUNK = 128  # keys of a row that lie in vectors at once
PEAK = 16  # keys of which the largest score is kept, to start the search from


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Scores that a kernel goes over tile by tile, each (keys, queries).

    `each` is given step(z, state) and the state where it begins.
    """

    each: Callable[[Callable[[Array, Any], Any], Any], Any]
    queries: int
    dtype: Any
    in_vectors: bool  # of a TPU, of which eight rows make one
    shorter: Tiles | None = None  # the largest of some neighbours, where they are kept
    hard: Hard = False
    floor: Any = None

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        return self._folded(fn, jnp.max, jnp.maximum, -jnp.inf)

    def sum(self, fn: Callable[[Array], Array]) -> Array:
        return self._folded(fn, jnp.sum, jnp.add, 0.0)

    def anywhere(self, flags: Array) -> Array:
        return jnp.max(jnp.where(flags, 1.0, 0.0)) > 0

    def level_of(self, top: Array) -> None:
        return None

    def peaks(self) -> Tiles | None:
        return None if self.hard is not False else self.shorter

    def hardened(self, hard: Hard, floor: Array) -> Tiles:
        """The largest scores alone, where α is ∞."""
        return dataclasses.replace(self, hard=hard, floor=floor)

    def _folded(self, fn, reduction, join, neutral):
        rows = 8 if self.in_vectors else 1

        def step(z, state):
            if self.hard is not False:
                z = hardened(self.hard, z, self.floor)
            return join(state, folded(fn(z), reduction, rows))

        found = self.each(step, jnp.full((rows, self.queries), neutral, self.dtype))
        return reduction(found, axis=0, keepdims=True)


def folded(x: Array, reduction: Callable, rows: int) -> Array:
    """(keys, queries) → (rows, queries), by whole vectors."""
    if x.shape[0] == rows:
        return x
    if rows == 1:
        return reduction(x, axis=0, keepdims=True)
    return reduction(x.reshape(-1, rows, x.shape[1]), axis=0)


def peaks_of(z: Array) -> Array:
    """The largest of every `PEAK` scores: (keys, queries) → (keys/PEAK, queries)."""
    keys, queries = z.shape
    return jnp.max(z.reshape(-1, PEAK, 8, queries), axis=1).reshape(keys // PEAK, queries)


def kept_rows(
    ref: Any, first: Any, last: Any, size: int, in_vectors: bool, shorter: Tiles | None = None
) -> Tiles:
    """Rows of scores that are kept on the chip; `first` and `last` count blocks of `size` keys."""
    chunk = min(_CHUNK, size)
    times = size // chunk

    def each(step, state):
        def turn(i, state):
            return step(ref[pl.ds(i * chunk, chunk), :], state)

        return jax.lax.fori_loop(first * times, last * times, turn, state)

    return Tiles(each, ref.shape[1], ref.dtype, in_vectors, shorter)
