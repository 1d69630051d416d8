"""Bisection over the floats themselves, through integers of the same order."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def least_float(
    holds: Callable[[Array], Array],
    low: Array,
    high: Array,
    anywhere: Callable[[Array], Array],
) -> Array:
    """Return the least float from `low` to `high` that satisfies a condition, a step per bit.

    The condition must be monotone and hold at `high`.
    """
    of_float, to_float = _orders(low.dtype)

    def unfinished(bounds):
        low, high = bounds
        return anywhere(low < high)

    def halve(bounds):
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, which cannot overflow
        enough = holds(to_float(middle))
        settled = low >= high
        return (
            jnp.where(enough | settled, low, middle + 1),
            jnp.where(enough & ~settled, middle, high),
        )

    _, least = jax.lax.while_loop(unfinished, halve, (of_float(low), of_float(high)))
    return to_float(least)


@jax.custom_jvp
def ratio(x: Array, y: Array) -> Array:
    """Return x/y, with derivatives that never divide by y²."""
    return x / y


@ratio.defjvp
def _ratio_jvp(primals, tangents):
    (x, y), (d_x, d_y) = primals, tangents
    value = ratio(x, y)
    return value, (d_x - value * d_y) * inverse(y)


@jax.custom_jvp
def inverse(y: Array) -> Array:
    """Return 1/y, with derivatives that never divide by y², which underflows where y is small."""
    return 1 / y


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    value = inverse(*primals)
    return value, -value * (value * tangents[0])


def _orders(dtype):
    """Return functions from floats to integers of the same order, and back."""
    integers = {4: jnp.int32, 8: jnp.int64}[dtype.itemsize]
    most = jnp.iinfo(integers).max

    def of_float(x):
        code = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), integers)  # −0 is 0
        return jnp.where(code < 0, code ^ most, code)

    def to_float(code):
        return jax.lax.bitcast_convert_type(jnp.where(code < 0, code ^ most, code), dtype)

    return of_float, to_float
