"""The curve of a > 1, measured from the edge of the support."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._safe_log import safe_log
from jsoftmax.core._scores import difference


@dataclasses.dataclass(frozen=True)
class Edge:
    """Curve of a > 1: p = (xᵃ + a v)₊^(1/a) for the mass x at the edge. The place is (x, xᵃ)."""

    a: float | Array

    from_edge = True
    slope = 1.0
    order = 1.0  # near x = 0 the slope changes as fast as x

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0)

    def at_level(self, level):
        return jnp.exp(level), jnp.exp(self.a * level)

    def masses(self, z, anchor, place):
        power = jnp.maximum(self.argument(z, anchor, place), 0)
        root = isinstance(self.a, float) and self.a == 2
        p = jnp.sqrt(power) if root else jnp.exp(jnp.log(power) * (1 / self.a))
        if isinstance(self.a, float) and self.a <= 4:
            return p  # an xᵃ that underflows is that of a mass below an eps
        return jnp.where(z == anchor, place[0], p)

    def log_masses(self, z, anchor, place):
        log_p = jnp.log(jnp.maximum(self.argument(z, anchor, place), 0)) / self.a
        return jnp.where(z == anchor, safe_log(place[0]), log_p)

    def argument(self, z, anchor, place):
        """Return p^a, negative below the support; at the anchor xᵃ may underflow."""
        return self.a * difference(z, anchor) + place[1]

    def gap(self, mass):
        return mass - 1

    def move(self, place, step):
        return self.at(place[0] + step)

    def at(self, x):
        """Return the place where the class at the edge has the mass x."""
        return x, jnp.exp(self.a * jnp.log(jnp.maximum(x, 0)))
