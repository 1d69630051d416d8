"""Curves with clipped masses."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._scores import difference
from jsoftmax.core.curves._curve import Curve
from jsoftmax.core.curves._edge import Edge
from jsoftmax.core.curves._scaled import Scaled
from jsoftmax.core.curves._shift import Shift


@dataclasses.dataclass(frozen=True)
class Capped:
    """Any curve, with the masses clipped at `upper`."""

    curve: Curve
    upper: Array

    def __post_init__(self):
        if isinstance(self.curve, Scaled):
            object.__setattr__(self, "curve", dataclasses.replace(self.curve, has_above=True))

    @property
    def from_edge(self):
        return self.curve.from_edge

    @property
    def is_shift(self):
        """Whether coordinates are shifts of the scores."""
        return isinstance(self.curve, Shift)

    def start(self, anchor):
        return self.curve.start(anchor)

    def masses(self, z, anchor, place):
        far = self._far_above(z, anchor)
        p = self.curve.masses(jnp.where(far, anchor, z), anchor, place)
        return jnp.where(far, self.upper, jnp.minimum(p, self.upper))

    def deficits(self, z, anchor, place):
        """Return u − p."""
        if not isinstance(self.curve, Shift):
            return self.upper - self.masses(z, anchor, place)
        far = self._far_above(z, anchor)
        short = self.curve.complements(jnp.where(far, anchor, z), anchor, place)
        return jnp.where(far, 0, jnp.maximum((self.upper - 1) + short, 0))

    def _far_above(self, z, anchor):
        """Return where a score is capped, so far above the anchor that the curve would overflow."""
        return difference(z, anchor) > float(jnp.finfo(z.dtype).max) ** 0.5

    def coordinates(self, lowest, highest):
        """Return the coordinates of two masses of the anchor: shift, logarithm, or mass at an edge.

        The lowest is that of the smallest class with mass, and an edge below it may have none.
        """
        if self.from_edge:
            return filled(highest, 0), highest
        if self.is_shift:
            # No finite shift gives the mass 1 of a class by itself; half of it is a lower bound.
            lowest = jnp.minimum(lowest, 0.5)
            return tuple(self.curve.at_level(jnp.log(x))[0] for x in (lowest, highest))
        return jnp.log(lowest), jnp.log(highest)

    def at(self, coordinate, rest):
        """Return the place at a coordinate, given as a sum of two."""
        if self.is_shift:
            return coordinate, rest
        if isinstance(self.curve, Edge):
            return self.curve.at(coordinate)
        return self.curve.move(self.curve.at_level(coordinate), rest)
