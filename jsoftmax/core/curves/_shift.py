"""The curve of a link that is a symmetric distribution function."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jsoftmax.core._filled import filled
from jsoftmax.core._scores import difference
from jsoftmax.core.curves._curve import FromTop, two_sum

if TYPE_CHECKING:
    from jsoftmax.core._regularizer import Regularizer


@dataclasses.dataclass(frozen=True)
class Shift(FromTop):
    """Curve of a symmetric distribution function as link: p = link(v + μ), 1 − p = link(−v − μ).

    The place is μ, as a sum of two.
    """

    regularizer: Regularizer

    order = 1.0  # near p = 1, or at a kink, no higher order is certain
    slope = 1.0
    highest = math.log(0.5)

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0)

    def at_level(self, level):
        return self.regularizer.log_marginal(level), filled(level, 0)

    def masses(self, z, anchor, place):
        return self.regularizer.link(self.marginals(z, anchor, place))

    def is_near_one(self, place):
        """Return whether the mass of the anchor is so near 1 that the slopes sum to little."""
        return place[0] > self.at_level(filled(place[0], math.log(0.75)))[0]

    def complements(self, z, anchor, place):
        """Return 1 − p."""
        return self.regularizer.complement(self.marginals(z, anchor, place))

    def log_masses(self, z, anchor, place):
        t = self.marginals(z, anchor, place)
        return jnp.where(z == -jnp.inf, -jnp.inf, self.regularizer.log_link(t, t))

    def log_complements(self, z, anchor, place):
        """Return log(1 − p)."""
        t = -self.marginals(z, anchor, place)
        return self.regularizer.log_link(t, t)

    def marginals(self, z, anchor, place):
        """Return ω′(p)."""
        shift, rest = place
        return (difference(z, anchor) + shift) + rest

    def move(self, place, step):
        shift, rest = place
        return two_sum(shift, rest + step)
