"""64-bit integers as pairs of 32-bit words, for sums that do not depend on their order."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Words(NamedTuple):
    """The integers high · 2³² + low, of two uint32: exact without x64, the same on every device."""

    high: Array
    low: Array

    def plus(self, other: Words) -> Words:
        """Return the sum, modulo 2⁶⁴."""
        low = self.low + other.low
        carry = (low < other.low).astype(jnp.uint32)
        return Words(self.high + other.high + carry, low)

    def minus(self, other: Words) -> Words:
        """Return the difference, modulo 2⁶⁴."""
        borrow = (self.low < other.low).astype(jnp.uint32)
        return Words(self.high - other.high - borrow, self.low - other.low)

    def below(self, other: Words) -> Array:
        """Return whether this is the smaller number."""
        return (self.high < other.high) | ((self.high == other.high) & (self.low < other.low))

    def positive(self) -> Array:
        """Return whether it is not zero."""
        return (self.high | self.low) > 0

    def cumulative(self, axis: int) -> Words:
        """Return all inclusive partial sums along an axis."""
        return jax.lax.associative_scan(Words.plus, self, axis=axis)

    def map(self, function) -> Words:
        """Apply a reshape, slice or transpose to both words."""
        return Words(function(self.high), function(self.low))


def from_limbs(high: Array, low: Array, bits: int) -> Words:
    """Return high · 2^bits + low, of two uint32 limbs, for 0 < bits < 32."""
    return Words(high >> (32 - bits), high << bits).plus(Words(jnp.zeros_like(low), low))


def product_high(x: Words, y: Words) -> Words:
    """Return the upper 64 of the 128 bits of x · y: a fraction x/2⁶⁴ of y, rounded down."""
    middle = _product(x.high, y.low)
    other = _product(x.low, y.high)
    zero = jnp.zeros_like(middle.low)
    # The carry out of the lower half: x.low·y.low contributes its high word only.
    carry = Words(zero, _product(x.low, y.low).high)
    carry = carry.plus(Words(zero, middle.low)).plus(Words(zero, other.low))
    top = _product(x.high, y.high)
    return (
        top.plus(Words(zero, middle.high))
        .plus(Words(zero, other.high))
        .plus(Words(zero, carry.high))
    )


def _product(x: Array, y: Array) -> Words:
    """Return all 64 bits of a product of two uint32."""
    half = jnp.uint32(0xFFFF)
    x1, x0, y1, y0 = x >> 16, x & half, y >> 16, y & half
    low, middle, other = x0 * y0, x1 * y0, x0 * y1
    carry = (low >> 16) + (middle & half) + (other & half)
    return Words(x1 * y1 + (middle >> 16) + (other >> 16) + (carry >> 16), x * y)
