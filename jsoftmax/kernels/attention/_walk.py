"""Iterate over tiles of arrays on the chip, or of arrays copied there tile by tile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jsoftmax.kernels.attention._spec import remainder
from jsoftmax.kernels.attention._visits import Visits

Step = Callable[[Any, list[Array], Any], Any]  # (number of the tile, tiles, state) → state


@dataclasses.dataclass(frozen=True)
class Source:
    """An array (heads, ·, ·) that a kernel visits in tiles along one of the last two axes.

    Or, along axis 0, an array (positions, heads, width).

    `ref` holds few heads, on the chip; or all heads, in main memory. Then the next tile is copied
    to one of two buffers while the one before it is used.
    """

    ref: Any
    axis: int
    size: int  # of a tile
    head: Any = 0  # or, of pages, a function of the tile
    row: Any = 0  # of the head among those on the chip
    buffers: Any = None
    semaphores: Any = None

    def at(self, tile: Any) -> Array:
        """Return a tile of an array on the chip."""
        return self.ref[self._place(self.row, tile)]

    def copy(self, tile: Any, slot: Any) -> Any:
        """Return the copy of a tile to a buffer."""
        place = (
            self._place(self.head(tile), 0)
            if callable(self.head)
            else (self._place(self.head, tile))
        )
        return pltpu.make_async_copy(
            self.ref.at[place], self.buffers.at[slot], self.semaphores.at[slot]
        )

    def _place(self, head, tile):
        places = pl.ds(tile * self.size, self.size)
        if self.axis == 0:
            return places, head, slice(None)
        return (head, places, slice(None)) if self.axis == 1 else (head, slice(None), places)


def walk(sources: Sequence[Source], visits: Visits, step: Step, state: Any) -> Any:
    """Fold step(i, tiles, state) over every visited tile i."""
    first, last = visits.first, visits.last
    if all(source.buffers is None for source in sources):

        def turn(place, state):
            i = visits.at(place)
            return step(i, [source.at(i) for source in sources], state)

        return jax.lax.fori_loop(first, last, turn, state)

    @pl.when(first < last)
    def _():
        for source in sources:
            source.copy(visits.at(first), 0).start()

    def turn(place, state):
        slot = remainder(place - first, 2)

        @pl.when(place + 1 < last)
        def _():
            for source in sources:
                source.copy(visits.at(place + 1), 1 - slot).start()

        i = visits.at(place)
        for source in sources:
            source.copy(i, slot).wait()
        return step(i, [source.buffers[slot] for source in sources], state)

    return jax.lax.fori_loop(first, last, turn, state)
