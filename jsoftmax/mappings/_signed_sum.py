"""The logarithm of a weighted sum of exponentials, also with negative weights.

A signed weight b is a measure |b| and a sign. log |b| is added to the score, like that of a prior,
so that neither overflows; the signs enter only the sum. With L = log |Σ b eᵛ|, s the sign of the
sum, and e = s exp(v − L),

    L̇ = Σ b e v̇ + Σ e ḃ,        (T L(z/T))˙ = Σ b e ż + T Σ e ḃ + (L − Σ b e v) Ṫ,

also where b is 0, since the sum is smooth there too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._problem import Problem
from jsoftmax.core._scores import difference


def read_signed(function: str, b: Any, ask: Problem) -> Array:
    """Return b in the rank and dtype of the scores, times the prior; NaN where it is infinite.

    Raises:
        TypeError: for weights that are not real numbers.
        ValueError: for a shape that does not broadcast, or a known weight that is not finite.
    """
    known = checks.known_values(b)
    if known is not None and not np.isfinite(known).all():
        raise ValueError(f"jsoftmax.{function}: `b` must be finite; it holds infinity or NaN.")
    x = checks.aligned(function, "b", checks.as_array(function, "b", b), ask.z.shape)
    x = x.astype(ask.z.dtype)
    x = jnp.where(jnp.isfinite(x), x, jnp.nan)
    return x if ask.prior is None else x * ask.prior


def signed_sum(ask: Problem, b: Array) -> tuple[Array, Array]:
    """Return T log |Σ b exp(z/T)| and the sign of the sum, kept as size-1 axes."""
    value, sign = _signed_sum(ask.z, b, ask.temperature, ask.classes)
    return ask.sign * value, sign


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _signed_sum(
    z: Array, b: Array, temperature: Array | None, classes: ClassAxis
) -> tuple[Array, Array]:
    top, v = _from_the_top(z, b, temperature, classes)
    log, sign = _log_signed_sum(v, b, classes)
    # `top` identifies infinite scores, unless they have weights of both signs.
    infinite = (b != 0) & (z == jnp.inf)
    above, below = (classes.max(jnp.where(infinite & x, 1, 0)) for x in (b > 0, b < 0))
    undecided = (above > 0) & (below > 0)
    log = jnp.where(jnp.isfinite(top) | (log != log), log, 0)
    if temperature is not None:
        log = _grown(z, b, top, log, sign, temperature, classes)
    return jnp.where(undecided, jnp.nan, top + log), jnp.where(undecided, jnp.nan, sign)


@partial(_signed_sum.defjvp, symbolic_zeros=True)
def _signed_sum_jvp(classes, primals, tangents):
    (z, b, temperature), (d_z, d_b, d_temperature) = primals, tangents
    value, sign = _signed_sum(z, b, temperature, classes)
    _, v = _from_the_top(z, b, temperature, classes)
    log, _ = _log_signed_sum(v, b, classes)
    share, e = _shares(v, b, log)
    tangent = jnp.zeros_like(value)
    if not isinstance(d_z, SymbolicZero):
        tangent = tangent + sign * classes.sum(share * d_z)
    if not isinstance(d_b, SymbolicZero):
        along = sign * classes.sum(e * d_b)
        tangent = tangent + (along if temperature is None else temperature * along)
    if temperature is not None and not isinstance(d_temperature, SymbolicZero):
        mean = sign * classes.sum(share * jnp.where(v == -jnp.inf, 0, v))
        tangent = tangent + (log - mean) * d_temperature
    return (value, sign), (jnp.where(log > -jnp.inf, tangent, 0), jnp.zeros_like(sign))


def _from_the_top(z, b, temperature, classes) -> tuple[Array, Array]:
    """Return top, the largest score with b ≠ 0, and (z − top)/T; −∞ where b = 0 and z = ±∞."""
    z = jnp.where((b != 0) | jnp.isfinite(z), z, -jnp.inf)
    top = classes.max(jnp.where(b == 0, -jnp.inf, z))
    if temperature is None:
        return top, difference(z, top)
    return top, cooled(z, temperature, classes, top)


def _grown(z, b, top, log, sign, temperature, classes) -> Array:
    """Return T L, with its limits at T = 0 and T = ∞."""
    nothing = log == -jnp.inf
    grown = jnp.where(nothing, -jnp.inf, temperature * jnp.where(nothing, 0, log))
    grown = jnp.where(log == 0, log, grown)
    # At T = ∞ the logarithm outweighs everything. Where |Σ b| is 1, the mean of the scores remains.
    at_infinity = (temperature == jnp.inf) & jnp.isfinite(top)
    small = jnp.abs(log) <= 8 * float(jnp.finfo(log.dtype).eps)
    counted = (b != 0) & (z > -jnp.inf)
    mean = sign * classes.sum(jnp.where(counted, b * difference(z, top), 0))
    return jnp.where(at_infinity & small, mean, grown)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _log_signed_sum(v: Array, b: Array, classes: ClassAxis) -> tuple[Array, Array]:
    """Return log |Σ b eᵛ| and the sign of the sum, kept as size-1 axes; −∞ and 0 for a sum of 0."""
    weighted = jnp.where(b == 0, -jnp.inf, v + _log_size(b))
    finite = float(jnp.finfo(v.dtype).max)
    level = jnp.clip(classes.max(weighted), -finite, finite)
    total = classes.sum(jnp.sign(b) * jnp.exp(weighted - level))
    log = jnp.log(jnp.where(total == 0, 1, jnp.abs(total)))
    return jnp.where(total == 0, -jnp.inf, log + level), jnp.sign(total)


@_log_signed_sum.defjvp
def _log_signed_sum_jvp(classes, primals, tangents):
    (v, b), (d_v, d_b) = primals, tangents
    log, sign = _log_signed_sum(v, b, classes)
    share, e = _shares(v, b, log)
    tangent = sign * (classes.sum(share * d_v) + classes.sum(e * d_b))
    return (log, sign), (jnp.where(log > -jnp.inf, tangent, 0), jnp.zeros_like(sign))


def _shares(v: Array, b: Array, log: Array) -> tuple[Array, Array]:
    """Return the shares b exp(v − L) that sum to the sign of the sum, and exp(v − L).

    A sum of 0 has an infinite derivative, or is that of a fully masked row; its L is set to 0.
    """
    below = v - jnp.where(log == -jnp.inf, 0, log)
    # Where b is 0, v may be so high that the exponential overflows.
    e = jnp.exp(jnp.minimum(below, float(np.log(jnp.finfo(v.dtype).max)) - 1))
    share = jnp.sign(b) * jnp.exp(jnp.where(b == 0, 0, below) + _log_size(b))
    return jnp.where(b == 0, b * e, share), e


def _log_size(b: Array) -> Array:
    """Return log |b|, 0 at 0."""
    return jnp.log(jnp.abs(jnp.where(b == 0, 1, b)))
