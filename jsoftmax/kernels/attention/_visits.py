"""Tiles that a kernel visits: a range of them, or a list without tiles that have no mass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Visits:
    """The range [first, last) of tiles, or of entries of a list of tiles."""

    first: Any
    last: Any
    order: Any = None  # the reference to the list

    def at(self, place: Any) -> Any:
        """Return the tile at an index of the range."""
        return place if self.order is None else self.order[place]


def listed(visits: Visits, order: Any, is_wanted: Callable[[Any], Array]) -> Visits:
    """Return visits of the wanted tiles only, written to `order`, which may be their own list."""

    def turn(place, count):
        tile = visits.at(place)
        order[count] = tile  # overwritten by the next one if it is not wanted
        return count + jnp.where(is_wanted(tile), 1, 0)

    return Visits(0, jax.lax.fori_loop(visits.first, visits.last, turn, 0), order)
