"""Sum over examples with a relative error of 1e-6 for 10⁸ of them, in float32 too.

A plain running sum in float32 stops growing at 2²⁴ times the added number.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.sampling._wide_integers import Words, from_limbs

_KEPT = 48  # summed bits of every float32, from the highest bit of the largest down


def total(x: Array, over: Hashable | None = None) -> Array:
    """Return the sum over the first axis, which is removed, and over the parts on a mesh axis."""
    return _total(x) if over is None else jax.lax.psum(_total(x), over)


@jax.custom_jvp
def _total(x: Array) -> Array:
    # In pairs that keep their rounding errors: s + e = a + b exactly (Knuth's two-sum). The
    # rounding of the summed errors is of order ε² log n, so that the sum is right to about one ε of
    # Σ |x| for every n.
    if not isinstance(x.shape[0], int):  # a symbol of `jax.export`
        return jnp.sum(x, 0)
    x = _not_folded(x)
    high, low = x, jnp.zeros_like(x)
    while (n := high.shape[0]) > 1:
        if n % 2:
            odd = [(0, 1)] + [(0, 0)] * (x.ndim - 1)
            high, low = jnp.pad(high, odd), jnp.pad(low, odd)
        half = (n + 1) // 2
        a, b = high[:half], high[half:]
        high = a + b
        of_b = high - a
        low = (low[:half] + low[half:]) + ((a - (high - of_b)) + (b - of_b))
    # Not where the sum is infinite or NaN, since the error is then ∞ − ∞.
    spoiled = ~jnp.isfinite(high)
    return jnp.sum(jnp.where(spoiled, high, high + jnp.where(spoiled, 0, low)), 0)


@_total.defjvp
def _total_jvp(primals, tangents):
    return _total(*primals), jnp.sum(tangents[0], 0)


def for_rows(x: Array, shape: tuple[int, ...]) -> Array:
    """Broadcast `x`, of size 1 along rows, to the rows; the gradient is the `total` over them."""
    return jnp.asarray(_for_rows(x, shape))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _for_rows(x: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(x, shape)


def _for_rows_back(shape, sizes, slopes):
    rows = [a for a, (n, m) in enumerate(zip(sizes, shape, strict=True)) if n != m]
    kept = [m for a, m in enumerate(shape) if a not in rows]
    slopes = jnp.moveaxis(slopes, rows, range(len(rows))).reshape(-1, *kept)
    return (total(slopes).reshape(sizes),)


_for_rows.defvjp(lambda x, shape: (jnp.broadcast_to(x, shape), x.shape), _for_rows_back)


def cumulative(w: Array) -> Array:
    """Return partial sums of numbers ≥ 0 [n], in an arbitrary unit."""
    # In integers of as many bits as leave room for the sum in 64: 36 for 10⁸ of them, so that each
    # is right to 2⁻³⁶ of the largest.
    n = w.shape[0]
    if not isinstance(n, int):  # a symbol of `jax.export`: there, one after another
        return jnp.cumsum(w)
    bits, w = min(_KEPT, 63 - n.bit_length()), _not_folded(w)
    exponent = _exponent(w)
    high, low, *_ = _limbs(w, exponent - (bits - _KEPT), 24)
    return _as_float(from_limbs(high, low, 24).cumulative(0), w.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def bin_sums(values: tuple[Array, ...], which: Array, bins: int) -> tuple[Array, ...]:
    """Return the sum of values ≥ 0 [n] in each bin; `which` holds bin numbers."""
    # In integers, so that neither the order nor the number of examples matters. Limbs of few rows
    # fit a word together: 2⁸ of 24 bits, or for many bins 2¹⁶ of 16. The truncation is 2⁻⁴⁸ of the
    # largest value for each example, for any n; below n = 2³¹ nothing overflows 64 bits.
    n = which.shape[0]
    if not isinstance(n, int):  # a symbol of `jax.export`: there, one after another
        return tuple(jnp.zeros(bins, v.dtype).at[which].add(v) for v in values)
    bits = 24 if bins <= 64 else 16
    rows = 2 ** (32 - bits)
    blocks = -(-n // rows)
    slot = jnp.arange(n, dtype=jnp.int32) // rows * bins + which

    def of_bins(limb: Array) -> Words:
        parts = jnp.zeros(blocks * bins, jnp.uint32).at[slot].add(limb)
        return _sum_of_words(parts.reshape(blocks, bins))

    def summed(v: Array) -> Array:
        v = _not_folded(v)
        exponent = _exponent(v)
        sums = [_as_float(of_bins(limb), v.dtype) for limb in _limbs(v, exponent, bits)]
        value = jnp.zeros_like(sums[0])
        for s in reversed(sums):
            value = value * 2.0**-bits + s
        return jnp.ldexp(value, exponent - bits)

    return tuple(summed(v) for v in values)


@bin_sums.defjvp
def _bin_sums_jvp(bins, primals, tangents):
    (values, which), (moved, _) = primals, tangents
    sums = tuple(jnp.zeros(bins, d.dtype).at[which].add(d) for d in moved)
    return bin_sums(values, which, bins), sums


def _not_folded(x: Array) -> Array:
    """Return `x`, hidden from the compiler, which would fold constants such as weights of 1."""
    return jax.lax.optimization_barrier(x)


def _exponent(v: Array) -> Array:
    """Return e such that all v are below 2^e."""
    return jnp.frexp(jnp.max(v, initial=0))[1]


def _limbs(v: Array, exponent: Array, bits: int) -> list[Array]:
    """Return the bits of v/2^e from the highest, `bits` per uint32; 48 in all, 96 of float64."""
    rest = jnp.ldexp(jnp.maximum(v, 0), bits - exponent)
    limbs = []
    for _ in range((_KEPT if v.dtype.itemsize == 4 else 2 * _KEPT) // bits):
        limb = jnp.floor(rest)
        rest = (rest - limb) * 2.0**bits
        limbs.append(limb.astype(jnp.uint32))
    return limbs


def _sum_of_words(parts: Array) -> Words:
    """Return the sum of uint32 over the first axis."""
    # A word holds the sum of 2¹⁶ half words.
    groups = max(1, -(-len(parts) // 2**16))
    parts = jnp.pad(parts, [(0, -len(parts) % groups), (0, 0)]).reshape(groups, -1, parts.shape[-1])
    high, low = (jnp.sum(x, 1, jnp.uint32) for x in (parts >> 16, parts & 0xFFFF))
    return from_limbs(high, low, 16).cumulative(0).map(lambda x: x[-1])


def _as_float(words: Words, dtype) -> Array:
    return words.high.astype(dtype) * 2.0**32 + words.low.astype(dtype)
