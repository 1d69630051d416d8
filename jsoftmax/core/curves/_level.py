"""The curve of any regularizer, from its log-link."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._scores import difference
from jsoftmax.core.curves._curve import FromTop, two_sum

if TYPE_CHECKING:
    from jsoftmax.core._regularizer import Regularizer


class LevelPlace(NamedTuple):
    """A place on `Level`: a log-mass as a sum of two, and log p of the scores if solved for."""

    level: Array
    rest: Array
    known: Array | None = None  # log p, for scores in memory


@dataclasses.dataclass(frozen=True)
class Level(FromTop):
    """Curve of any regularizer: log p = log_link(ω′(e^λ) + v). The place is λ."""

    regularizer: Regularizer

    order = 1.0  # where a class enters the support, the slope may jump
    slope = 1.0

    def start(self, anchor):
        return LevelPlace(filled(anchor, 0), filled(anchor, 0))

    def at_level(self, level):
        return LevelPlace(level, filled(level, 0))

    def masses(self, z, anchor, place):
        if not self.regularizer.knows_link:
            return jnp.exp(self.log_masses(z, anchor, place))
        p = self.regularizer.link(self.marginals(z, anchor, place))
        return jnp.where(z == -jnp.inf, 0, p)

    def log_masses(self, z, anchor, place):
        if place.known is not None and place.known.shape == z.shape:
            return place.known
        log_p = self.regularizer.log_link(self.marginals(z, anchor, place), place.level)
        return jnp.where(z == -jnp.inf, -jnp.inf, log_p)

    def marginals(self, z, anchor, place):
        """Return ω′(p)."""
        huge = float(jnp.finfo(z.dtype).max) ** 0.5
        # The marginal of the anchor, which is infinite at the end of a domain.
        t = jnp.clip(self.regularizer.log_marginal(place.level), -huge, huge)
        relative = self.regularizer.relative_slope(place.level)
        t = difference(z, anchor) + t
        return t + place.rest / jnp.where(relative > 0, relative, 1)

    def move(self, place, step):
        level, rest = two_sum(place.level, place.rest + step)
        return place._replace(level=level, rest=rest)
