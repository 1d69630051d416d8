"""Which tiles a kernel goes over: a range of them, or a list that leaves out what has no mass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Visits:
    """Places from `first` to before `last`: of the tiles themselves, or of a list of tiles."""

    first: Any
    last: Any
    order: Any = None  # the reference to the list

    def at(self, place: Any) -> Any:
        """The tile at a place."""
        return place if self.order is None else self.order[place]


def listed(visits: Visits, order: Any, is_wanted: Callable[[Any], Array]) -> Visits:
    """Visits of the wanted tiles alone, written to the reference `order`, which may be theirs."""

    def turn(place, count):
        tile = visits.at(place)
        order[count] = tile  # overwritten by the next one if it is not wanted
        return count + jnp.where(is_wanted(tile), 1, 0)

    return Visits(0, jax.lax.fori_loop(visits.first, visits.last, turn, 0), order)
