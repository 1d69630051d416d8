"""The curve of small integer powers, without exponentials: p = (c + a v)₊^(1/a)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._scores import difference
from jsoftmax.core.curves._curve import FromTop, exact_sum, two_sum

_EXACT = 1, 2, 4  # powers 1/a with exact division by a


@dataclasses.dataclass(frozen=True)
class Power(FromTop):
    """Curve of a from about 1/5 to 1: p = (c + a v)₊^(1/a). The place is c, as a sum of two.

    Sparsemax, 1.5-entmax and all integer powers up to the fourth need no exponentials. For a > 1
    only large p are accurate, which is enough to locate the edge of the support roughly.
    """

    a: float | Array

    @property
    def slope(self):
        return 1 + self.a

    @property
    def order(self):
        return min(1 / self.a, 2.0) if isinstance(self.a, float) else jnp.minimum(1 / self.a, 2)

    def start(self, anchor):
        return filled(anchor, 1), filled(anchor, 0)

    def at_level(self, level):
        return jnp.exp(self.a * level), filled(level, 0)

    def masses(self, z, anchor, place):
        t = self._base(z, anchor, place)
        if (power := self._whole_power()) is not None:
            return jax.lax.integer_pow(t, power)
        if isinstance(self.a, float) and self.a == 2:
            return jnp.sqrt(t)
        return jnp.exp(jnp.log(t) * (1 / self.a))

    def log_masses(self, z, anchor, place):
        return jnp.log(self._base(z, anchor, place)) * (1 / self.a)

    @property
    def has_slopes(self):
        return not isinstance(self.a, float) or self.a <= 1

    def shares(self, z, anchor, place):
        power = self._whole_power()
        if power is None:
            t = self._base(z, anchor, place)
            s = jnp.exp(jnp.log(t) * (1 / self.a - 1))
            s = jnp.where(t > 0, s, t)  # 0 off the support, NaN of a NaN
        else:
            of = self._above if power in _EXACT else self._base
            t = of(z, anchor, place)
            s = jax.lax.integer_pow(t, power - 1) if power > 1 else jnp.where(t > 0, 1, t)
        return t * s, s

    def factors(self):
        power = self._whole_power()
        if power not in _EXACT:
            return 1.0, 1.0
        return (1 / power) ** power, (1 / power) ** (power - 1)

    def drift(self, place):
        c, rest = place
        return c + rest

    def _whole_power(self):
        """Return 1/a if it is a small integer known while tracing, otherwise None."""
        if not isinstance(self.a, float):
            return None
        power = round(1 / self.a)
        return power if abs(self.a * power - 1) < 1e-15 and 1 <= power <= 4 else None

    def _base(self, z, anchor, place):
        c, rest = place
        return jnp.maximum((difference(z, anchor) * self.a + c) + rest, 0)

    def _above(self, z, anchor, place):
        """Return z − τ on the support, in two operations: τ has as many digits as the place."""
        most = float(jnp.finfo(z.dtype).max)
        tau, rest = exact_sum(jnp.clip(anchor, -most, most), -place[0] / self.a)
        return jnp.maximum((z - tau) - (rest - place[1] / self.a), 0)

    def move(self, place, step):
        c, rest = place
        exponent = jnp.minimum(self.a * step, math.log(jnp.finfo(step.dtype).max) / 2)
        near = jnp.abs(exponent) < 1 / 16
        grown = (c + rest) * jnp.where(near, _growth(exponent), jnp.exp(exponent))
        return two_sum(jnp.where(near, c, 0), jnp.where(near, rest + grown, grown))

    def threshold(self, anchor, place):
        """Return the score where p leaves zero."""
        return anchor - (place[0] + place[1]) / self.a


def _growth(x: Array) -> Array:
    """Return eˣ − 1 near 0, to about an eps of x.

    `jnp.expm1` costs as much as a sum over 64 classes.
    """
    return x * relative_growth(x)


def relative_growth(x: Array) -> Array:
    """Return (eˣ − 1)/x near 0."""
    return 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5)))
