"""The regularizers: three scalar functions each, from which every separable map is made.

    value  ω(p), convex                     entropy, losses
    link   (ω′)⁻¹(t), up to a shift in t    p = link(z − τ)
    slope  1/ω″(p)                          every derivative

Ω(p) = Σ ω(p_i), up to a constant that makes Ω of a one-hot vector zero.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


@dataclasses.dataclass(frozen=True)
class Tsallis:
    """Ω_α(p) = (Σ p^α − 1)/(α(α−1)), with Ω₁ = Σ p log p: softmax at 1, sparsemax at 2.

    `alpha` is a number where it is known while tracing, otherwise None; then every function takes
    it as an array that broadcasts against p.
    """

    alpha: float | None

    def exponent(self, alpha: Array | None) -> float | Array:
        """a = α − 1, a Python number where α is one."""
        if self.alpha is not None:
            return self.alpha - 1
        assert alpha is not None
        return alpha - 1

    def value(self, p: Array, alpha: Array | None = None) -> Array:
        """ω(p) = p (p^a − 1)/(α a), zero at 0 and at 1; differentiable in p and α."""
        a = self.exponent(alpha)
        if isinstance(a, float) and a == 0:
            return _p_log_p(p)
        return jnp.where(p == 0, 0, p * _box_cox(_positive(p), a)) / (1 + a)

    def marginal(self, p: Array, alpha: Array | None = None) -> Array:
        """ω′(p) = (p^a − 1)/a, up to a constant: −1/a at p = 0 for a > 0, −∞ for a ≤ 0."""
        a = self.exponent(alpha)
        is_finite = jnp.asarray(a) > 0
        at_zero = jnp.where(is_finite, -1 / jnp.where(is_finite, a, 1.0), -jnp.inf)
        return jnp.where(p > 0, _box_cox(_positive(p), a), at_zero.astype(p.dtype))

    def slope(self, p: Array, alpha: Array | None = None) -> Array:
        """1/ω″(p) = p^(2−α) on the support and 0 off it, where the power alone would be 1 or ∞."""
        power = 1 - self.exponent(alpha)
        if isinstance(power, float) and power in (0.0, 0.5, 1.0):
            if power == 1:
                return p
            s = jnp.ones_like(p) if power == 0 else jnp.sqrt(_positive(p))
        else:
            s = jnp.exp(power * jnp.log(_positive(p)))
        return jnp.where(p > 0, jnp.minimum(s, _large(p.dtype)), jnp.where(p == 0, 0, p))


@dataclasses.dataclass(frozen=True)
class FermiDirac:
    """ω(p) = p log p + (1−p) log(1−p), whose link is the logistic function."""

    def value(self, p: Array, alpha: Array | None = None) -> Array:
        """ω(p) = p log p + (1−p) log(1−p), zero at 0 and at 1."""
        return _entropy_term(p) + _entropy_term(1 - p)

    def marginal(self, p: Array, alpha: Array | None = None) -> Array:
        """ω′(p) = log(p/(1−p))."""
        return jnp.log(p) - jnp.log1p(-p)

    def slope(self, p: Array, alpha: Array | None = None) -> Array:
        """1/ω″(p) = p(1−p)."""
        return p * (1 - p)


def expq(t: Array, a: float | Array) -> Array:
    """The link of `Tsallis`: (1 + a t)₊^(1/a), the exponential at a = 0."""
    return jnp.exp(log_expq(t, a))


def log_expq(t: Array, a: float | Array) -> Array:
    """log(1 + a t)₊ / a, which is t at a = 0."""
    if isinstance(a, float) and a == 0:
        return t
    x = jnp.maximum(a * t, -1)
    return jnp.where(x == 0, t, jnp.log1p(x) / nonzero(a))


def nonzero(a: float | Array) -> float | Array:
    """`a`, with 1 in place of 0: for a quotient whose value at 0 is put in by its caller."""
    return a if isinstance(a, float) else jnp.where(a == 0, 1, a)


def q_log_from_log(log_p: Array, a: float | Array) -> Array:
    """(p^a − 1)/a from log p, which is log p at a = 0."""
    if isinstance(a, float) and a == 0:
        return log_p
    x = nonzero(a) * log_p
    return jnp.where((x == 0) | (jnp.asarray(a) == 0), log_p, jnp.expm1(x) / nonzero(a))


@jax.custom_jvp
def _p_log_p(p: Array) -> Array:
    return p * _bounded_log(p)


@_p_log_p.defjvp
def _p_log_p_jvp(primals, tangents):
    # 1/p, by which p is multiplied again in the rule for the logarithm, may overflow. At p = 0 the
    # derivative is 0, by a factor, which is fused into sums where a choice is not.
    (p,), (d_p,) = primals, tangents
    some = jnp.minimum(jax.lax.stop_gradient(p) / jnp.finfo(p.dtype).tiny, 1)
    return _p_log_p(p), some * (_bounded_log(p) + 1) * d_p


def _bounded_log(p: Array) -> Array:
    return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


@partial(jax.custom_jvp)
def _box_cox(p: Array, a: float | Array) -> Array:
    """L(p) = (p^a − 1)/a for p > 0, the logarithm at a = 0."""
    return q_log_from_log(jnp.log(p), a)


@partial(_box_cox.defjvp, symbolic_zeros=True)
def _box_cox_jvp(primals, tangents):
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
    return _box_cox(p, a), tangent


def second_order(x: Array) -> Array:
    """(x eˣ − eˣ + 1)/x² = Σ_k xᵏ/((k+2) k!), differentiable at 0 too."""
    small = jnp.abs(x) < 0.25
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.zeros_like(x)
    for k in range(12, -1, -1):  # 0.25¹³/13! is 2e-18
        series = series * near / (k + 1) + 1 / (k + 2)
    return jnp.where(small, series, (far * jnp.exp(far) - jnp.expm1(far)) / (far * far))


def _entropy_term(p: Array) -> Array:
    return jnp.where(p > 0, p * jnp.log(_positive(p)), jnp.where(p == 0, 0, p))


def _positive(p: Array) -> Array:
    """`p`, with 1 in place of 0, so that no infinity or NaN is formed where it is not used."""
    return jnp.where(p == 0, 1, p)


def _large(dtype) -> float:
    """So large that one more factor of any reasonable size does not overflow."""
    return float(jnp.finfo(dtype).max) ** 0.8
