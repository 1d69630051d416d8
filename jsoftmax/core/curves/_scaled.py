"""The curve of a ≤ 1 on its own scale: p = e^λ (1 + a (w + δ))₊^(1/a)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._q_logarithm import log_expq
from jsoftmax.core._scores import difference
from jsoftmax.core.curves._curve import FromTop, two_sum
from jsoftmax.core.curves._power import relative_growth


@dataclasses.dataclass(frozen=True)
class Scaled(FromTop):
    """Curve of a ≤ 1: p = e^λ (1 + a (w + δ))₊^(1/a), w = v e^(−aλ), at a = 0 too.

    The place is λ, δ, and the scale e^(−aλ), stored so that it is not recomputed for each class.
    Any two places with the same e^(aλ) (1 + aδ) are equal. Near the end of a search only δ moves: a
    rounding of the scale would move classes with little mass by an eps of the largest.
    """

    a: float | Array
    has_above: bool = False  # whether scores may be above the anchor, where p can be infinite

    @property
    def slope(self):
        return 1 + self.a

    @property
    def order(self):
        if isinstance(self.a, float):
            return min(1 / self.a, 2.0) if self.a > 0 else 2.0
        return 1 / jnp.clip(self.a, 0.5, 1)

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0), filled(anchor, 1)

    def at_level(self, level):
        return level, filled(level, 0), jnp.exp(-self.a * level)

    def masses(self, z, anchor, place):
        return jnp.exp(self.log_masses(z, anchor, place))

    def log_masses(self, z, anchor, place):
        level, rest, scale = place
        w = difference(z, anchor) * scale + rest
        if isinstance(self.a, float) and self.a <= -0.2:  # far from 0, log loses nothing
            power = 1 + self.a * w
            if self.has_above:
                # A score may be so far above the anchor that its mass is infinite.
                least = float(jnp.finfo(w.dtype).max) ** (self.a / 2)
                power = jnp.where(power < least, least, power)
            return level + jnp.log(power) * (1 / self.a)
        return level + log_expq(w, self.a)

    def move(self, place, step):
        level, rest, scale = place
        # A small δ is accurate to a small part of an eps.
        near = jnp.abs(rest) + jnp.abs(step) < 2**-12
        x = jnp.where(near, step, 0)
        grown = rest + (1 + self.a * rest) * (x * relative_growth(self.a * x))
        far, left = two_sum(level, log_expq(rest, self.a) + step)
        rest = jnp.where(near, grown, left)
        return jnp.where(near, level, far), rest, jnp.where(near, scale, jnp.exp(-self.a * far))
