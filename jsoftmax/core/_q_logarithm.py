"""The q-logarithm (p^a − 1)/a and its inverse, continuous through a = 0 with their derivatives."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


def log_expq(t: Array, a: float | Array) -> Array:
    """Return log(1 + a t)₊ / a, which is t at a = 0."""
    if isinstance(a, float) and a == 0:
        return t
    x = jnp.maximum(a * t, -1)
    return jnp.where(x == 0, t, _log1p(x) / nonzero(a))


def _log1p(x: Array) -> Array:
    """Return log(1 + x), accurate also near −0.4, where XLA's log1p in float64 on CPU is not.

    There it is off by 100 units in the last place.
    """
    if x.dtype != jnp.float64:
        return jnp.log1p(x)
    between = (x > -0.6) & (x < -0.25)
    u = jnp.where(between, 1 + x, 1)
    # u − 1 is x as rounded in u.
    lost = jnp.where(between, x, 1) / jnp.where(between, u - 1, 1)
    return jnp.where(between, jnp.log(u) * jax.lax.stop_gradient(lost), jnp.log1p(x))


def nonzero(a: float | Array) -> float | Array:
    """Return `a`, with 1 in place of 0: a divisor, where the caller replaces the quotient at 0."""
    return a if isinstance(a, float) else jnp.where(a == 0, 1, a)


def q_log_from_log(log_p: Array, a: float | Array) -> Array:
    """Return (p^a − 1)/a from log p, which is log p at a = 0."""
    if isinstance(a, float) and a == 0:
        return log_p
    x = nonzero(a) * log_p
    return jnp.where((x == 0) | (jnp.asarray(a) == 0), log_p, jnp.expm1(x) / nonzero(a))


@jax.custom_jvp
def p_log_p(p: Array) -> Array:
    """Return p log p, 0 at 0, as cheap as its plain formula."""
    return p * _bounded_log(p)


@p_log_p.defjvp
def _p_log_p_jvp(primals, tangents):
    # The rule of the logarithm would form p · 1/p, and 1/p may overflow. At p = 0 the derivative is
    # made 0 by a factor, since XLA fuses a factor into sums, but not a `where`.
    (p,), (d_p,) = primals, tangents
    some = jnp.minimum(jax.lax.stop_gradient(p) / jnp.finfo(p.dtype).tiny, 1)
    return p_log_p(p), some * (_bounded_log(p) + 1) * d_p


def _bounded_log(p: Array) -> Array:
    return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


@partial(jax.custom_jvp)
def q_log(p: Array, a: float | Array) -> Array:
    """Return (p^a − 1)/a for p > 0, the logarithm at a = 0."""
    return q_log_from_log(jnp.log(p), a)


@partial(q_log.defjvp, symbolic_zeros=True)
def _q_log_jvp(primals, tangents):
    # ∂L/∂p = p^(a−1).  With x = a log p:  ∂L/∂a = (log p)² (x eˣ − eˣ + 1)/x²,  which tends to
    # (log p)²/2. The numerator is ∫₀ˣ t eᵗ dt; below |x| = 1/4 it is summed as a series.
    p, a = primals
    d_p, d_a = tangents
    a_array = jnp.asarray(a, p.dtype)
    tangent = jnp.zeros_like(p)
    if not isinstance(d_p, SymbolicZero):
        tangent = tangent + jnp.exp((a_array - 1) * jnp.log(p)) * d_p
    if not isinstance(d_a, SymbolicZero):
        log_p = jnp.log(p)
        tangent = tangent + log_p * log_p * second_order(a_array * log_p) * d_a
    return q_log(p, a), tangent


def second_order(x: Array) -> Array:
    """Return (x eˣ − eˣ + 1)/x² = Σ_k xᵏ/((k+2) k!), differentiable at 0 too."""
    small = jnp.abs(x) < 0.25
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.zeros_like(x)
    for k in range(12, -1, -1):  # 0.25¹³/13! is 2e-18
        series = series * near / (k + 1) + 1 / (k + 2)
    return jnp.where(small, series, (far * jnp.exp(far) - jnp.expm1(far)) / (far * far))
