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
    """A link that is a symmetric distribution function: p = link(v + μ), 1 − p = link(−v − μ).

    The place is μ, as a sum of two.
    """

    regularizer: Regularizer

    order = 1.0  # near 1, or at a kink, no more is sure
    slope = 1.0
    highest = math.log(0.5)

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0)

    def at_level(self, level):
        return self.regularizer.log_marginal(level), filled(level, 0)

    def masses(self, z, anchor, place):
        return self.regularizer.link(self.marginals(z, anchor, place))

    def is_near_one(self, place):
        """Whether the anchor has so much mass that the slopes of all masses sum to little."""
        return place[0] > self.at_level(filled(place[0], math.log(0.75)))[0]

    def complements(self, z, anchor, place):
        """1 − p."""
        return self.regularizer.complement(self.marginals(z, anchor, place))

    def log_masses(self, z, anchor, place):
        t = self.marginals(z, anchor, place)
        return jnp.where(z == -jnp.inf, -jnp.inf, self.regularizer.log_link(t, t))

    def log_complements(self, z, anchor, place):
        """log(1 − p)."""
        t = -self.marginals(z, anchor, place)
        return self.regularizer.log_link(t, t)

    def marginals(self, z, anchor, place):
        """ω′(p)."""
        shift, rest = place
        return (difference(z, anchor) + shift) + rest

    def move(self, place, step):
        shift, rest = place
        return two_sum(shift, rest + step)
