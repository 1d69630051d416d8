"""Divide scores by a temperature, with the limits at 0 and ∞."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._scores import difference


def cooled(
    z: Array, temperature: Array | None, classes: ClassAxis, anchor: Array | None = None
) -> Array:
    """Return (z − max z)/T for T ≥ 0, with its limits: arg max at T = 0, all ties at T = ∞.

    None means T = 1 and returns z itself. An anchor other than the maximum keeps the differences of
    finite scores where a score of +∞ is above it; at T = 0 scores above the anchor go to +∞.

    −∞ stays −∞ at every T. At T = 0 and T = ∞ the result no longer depends on z or T, and the
    derivative is zero.
    """
    if temperature is None:
        return z
    anchor = classes.max(z) if anchor is None else anchor
    # Classes at −∞ are excluded, and so are finite scores beside +∞ at a finite T.
    beaten = (anchor == jnp.inf) & (temperature < jnp.inf) & (z < jnp.inf)
    takes_part = (z > -jnp.inf) & ~beaten
    v = difference(z, anchor)
    # The difference of two finite scores may overflow, but must not look like an excluded class.
    v = jnp.where(takes_part, jnp.maximum(v, -jnp.finfo(z.dtype).max), 0)
    cold, y = is_zero(temperature), quotient(v, temperature)
    y = jnp.where(takes_part & ~(cold & (v < 0)), y, -jnp.inf)
    y = jnp.where(cold & (v > 0), jnp.inf, y)
    return jnp.where(z == z, y, z)


def is_zero(temperature: Array) -> Array:
    """Return where T ≥ 0 is 0, or so small that hardware may flush it to 0."""
    return temperature < jnp.finfo(temperature.dtype).tiny


def quotient(x: Array, temperature: Array) -> Array:
    """Return x/T for finite x and T ≥ 0, kept finite; 0 at T = 0, where callers put the limit."""
    return _over_power(x, temperature, 1)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _over_power(x: Array, temperature: Array, power: int) -> Array:
    """Return x/Tⁿ, kept finite; 0 at T = 0.

    For classes without mass x/Tⁿ overflows although its product with p is 0. From n = 2 on it is
    therefore clipped further, so that sums over classes stay finite.
    """
    dtype = jnp.finfo(x.dtype)
    none, most = is_zero(temperature), float(dtype.max) * (1 - 4 * float(dtype.eps))
    divisor = jnp.where(none, 1, temperature)
    for n in range(1, power + 1):
        # Clipped first, so that no intermediate result overflows.
        bound = (most if n == 1 else most / 2**24) * jnp.minimum(temperature, 1)
        x = jnp.where(none, 0, jnp.clip(x, -bound, bound) / divisor)
    return x


@_over_power.defjvp
def _over_power_jvp(power, primals, tangents):
    (x, temperature), (d_x, d_temperature) = primals, tangents
    value = _over_power(x, temperature, power)
    along_x = _over_power(jnp.ones_like(temperature), temperature, power)
    bend = power * _over_power(x, temperature, power + 1)
    return value, along_x * d_x - bend * d_temperature
