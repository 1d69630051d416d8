"""From a threshold to p, its one derivative, its logarithm and its conjugate.

Differentiating Σ link(z − τ) = 1 gives Σ s (d − τ̇) = 0 for s = slope(p) and
d = ż − (∂ω′/∂α)(p) α̇, since z − τ = ω′(p). So for every regularizer, and for every parameter,

    τ̇ = Σ s d / Σ s,    ṗ = s (d − τ̇),    (conjugate)˙ = Σ p ż − (∂Ω/∂α) α̇

written in p alone, so that each rule differentiates again and transposes.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._curves import by_curve
from jsoftmax.core._regularizers import Tsallis
from jsoftmax.core._scores import Dense, difference
from jsoftmax.core._threshold import solve


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def probabilities(z: Array, alpha: Array | None, family: Tsallis, classes: ClassAxis) -> Array:
    """p = argmax ⟨p, z⟩ − Ω(p) over the simplex."""
    if family.alpha == 1:
        return _softmax(z, classes)[0]
    return _solved(z, alpha, family, classes, False)


@partial(probabilities.defjvp, symbolic_zeros=True)
def _probabilities_jvp(family, classes, primals, tangents):
    (z, alpha), (d_z, d_alpha) = primals, tangents
    p = probabilities(z, alpha, family, classes)
    s = family.slope(p, alpha) * _movable(z, classes)
    d = effective_tangent(p, d_z, alpha, d_alpha, family)
    return p, jnp.zeros_like(p) if d is None else s * _deviation(s, d, family, classes)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def log_probabilities(z: Array, alpha: Array | None, family: Tsallis, classes: ClassAxis) -> Array:
    """log p, right where p underflows; −∞ off the support."""
    if family.alpha == 1:
        _, total, v = _softmax(z, classes)
        # A finite score below one of +∞ has no mass, however large it is. (A factor a row is fused
        # into sums, a choice an entry is not.)
        finite = jnp.asarray(jnp.finfo(z.dtype).max, z.dtype)
        further = jnp.where(classes.max(z) == jnp.inf, finite, 1)
        return v * further - jnp.log(jnp.where(total == 0, 1, total))
    return _solved(z, alpha, family, classes, True)


@partial(log_probabilities.defjvp, symbolic_zeros=True)
def _log_probabilities_jvp(family, classes, primals, tangents):
    # ṗ/p = (s/p)(d − τ̇), and s/p = p^(1−α).
    (z, alpha), (d_z, d_alpha) = primals, tangents
    log_p = log_probabilities(z, alpha, family, classes)
    p = jnp.exp(log_p)
    d = effective_tangent(p, d_z, alpha, d_alpha, family)
    if d is None:
        return log_p, jnp.zeros_like(p)
    movable = _movable(z, classes)
    if family.alpha == 1:
        # One mean, at the cost of jax.nn: what cancels at a p near 1 is right in `cross_entropy`.
        # The mean is taken of all tangents, for it counts an excluded class with p = 0.
        own = jnp.where((log_p == -jnp.inf) | (movable == 0), 0, d)
        return log_p, own - classes.sum(movable * p * d)
    a = family.exponent(alpha)
    relative = movable * jnp.exp(-a * jnp.where(p > 0, log_p, 0))
    s = family.slope(p, alpha) * movable
    tangent = relative * _deviation(s, d, family, classes)
    return log_p, jnp.where((log_p == -jnp.inf) | (movable == 0), 0, tangent)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def conjugate(
    z: Array, alpha: Array | None, temperature: Array | None, family: Tsallis, classes: ClassAxis
) -> Array:
    """T Ω*(z/T) = max ⟨p, z⟩ − T Ω(p), kept as a size-1 axis; T is 1 where it is None.

    `z` is not yet divided by T ≥ 0.
    """
    top = classes.max(z)
    y = cooled(z, temperature, classes)
    if family.alpha == 1:
        _, total, _ = _softmax(y, classes)
        excess = jnp.log(jnp.where(total > 0, total, 1))
    else:
        # Σ p v − Ω(p), every term of which is between −log n and 0 or between 0 and log n.
        p = probabilities(y, alpha, family, classes)
        v = jnp.where(p > 0, difference(y, classes.max(y)), 0)
        excess = classes.sum(p * v) + entropy_of(p, alpha, family, classes)
    excess = jnp.where(jnp.isfinite(top), excess, 0)
    if temperature is None:
        return top + excess
    # At T = ∞ the excess outweighs everything, unless one class is left and it is zero.
    return top + jnp.where(excess == 0, excess, temperature * excess)


@partial(conjugate.defjvp, symbolic_zeros=True)
def _conjugate_jvp(family, classes, primals, tangents):
    (z, alpha, temperature), (d_z, d_alpha, d_temperature) = primals, tangents
    value = conjugate(z, alpha, temperature, family, classes)
    p = probabilities(cooled(z, temperature, classes), alpha, family, classes)
    tangent = jnp.zeros_like(value)
    if not isinstance(d_z, SymbolicZero):
        tangent = tangent + classes.sum(p * d_z)
    if temperature is not None and not isinstance(d_temperature, SymbolicZero):
        tangent = tangent + entropy_of(p, alpha, family, classes) * d_temperature
    if alpha is not None and not isinstance(d_alpha, SymbolicZero):
        _, along_alpha = jax.jvp(lambda a: entropy_of(p, a, family, classes), (alpha,), (d_alpha,))
        tangent = tangent + (along_alpha if temperature is None else temperature * along_alpha)
    return value, tangent


def entropy_of(p: Array, alpha: Array | None, family: Tsallis, classes: ClassAxis) -> Array:
    """−Ω(p), kept as a size-1 axis."""
    return -classes.sum(family.value(p, alpha))


def cooled(
    z: Array, temperature: Array | None, classes: ClassAxis, anchor: Array | None = None
) -> Array:
    """(z − max z)/T for T ≥ 0, with its limits: arg max at T = 0, all ties at T = ∞.

    Where T is None, which stands for 1, it is z itself. Another anchor than the maximum keeps the
    differences of finite scores where one of +∞ is above it; at T = 0 scores above it go to +∞.

    −∞ stays −∞ at every T. At T = 0 and T = ∞ nothing depends on z or T any more, and the
    derivative is zero.
    """
    if temperature is None:
        return z
    anchor = classes.max(z) if anchor is None else anchor
    # −∞ takes no part, nor does a finite score beside +∞ at a finite T.
    beaten = (anchor == jnp.inf) & (temperature < jnp.inf) & (z < jnp.inf)
    takes_part = (z > -jnp.inf) & ~beaten
    v = difference(z, anchor)
    # The difference of two finite scores may overflow, and is still not that of an excluded class.
    v = jnp.where(takes_part, jnp.maximum(v, -jnp.finfo(z.dtype).max), 0)
    cold, y = is_zero(temperature), quotient(v, temperature)
    y = jnp.where(takes_part & ~(cold & (v < 0)), y, -jnp.inf)
    y = jnp.where(cold & (v > 0), jnp.inf, y)
    return jnp.where(z == z, y, z)


def is_zero(temperature: Array) -> Array:
    """Where T ≥ 0 is 0, or so small that hardware may take it for 0."""
    return temperature < jnp.finfo(temperature.dtype).tiny


@jax.custom_jvp
def quotient(x: Array, temperature: Array) -> Array:
    """x/T for finite x and T ≥ 0, kept finite; 0 at T = 0, where its callers put the limit."""
    dtype = jnp.finfo(x.dtype)
    none, most = is_zero(temperature), float(dtype.max) * (1 - 4 * float(dtype.eps))
    # Clipped first, since nothing is to overflow on the way.
    bound = most * jnp.minimum(temperature, 1)
    return jnp.where(none, 0, jnp.clip(x, -bound, bound) / jnp.where(none, 1, temperature))


@quotient.defjvp
def _quotient_jvp(primals, tangents):
    # ẋ/T − (x/T)/T Ṫ. Of classes without mass x/T² overflows where its product with p is 0, so it
    # is clipped, and by so much more that sums over classes stay finite.
    (x, temperature), (d_x, d_temperature) = primals, tangents
    value = quotient(x, temperature)
    most = float(jnp.finfo(x.dtype).max) / 2**24
    bend = jnp.clip(quotient(value, temperature), -most, most)
    return value, quotient(jnp.ones_like(temperature), temperature) * d_x - bend * d_temperature


def effective_tangent(p, d_z, alpha, d_alpha, family) -> Array | None:
    """d = ż − (∂ω′/∂α)(p) α̇, or None where nothing moves."""
    d = None if isinstance(d_z, SymbolicZero) else d_z
    if alpha is None or d_alpha is None or isinstance(d_alpha, SymbolicZero):
        return d
    positive = jnp.where(p > 0, p, 1)
    _, bend = jax.jvp(lambda a: family.marginal(positive, a), (alpha,), (d_alpha,))
    return -bend if d is None else d - bend


def _deviation(s: Array, d: Array, family: Tsallis, classes: ClassAxis) -> Array:
    """d − τ̇, with the mean of the escort distribution s/Σs."""
    if family.alpha == 1:
        return classes.deviation(s, d)
    total = classes.sum(s)
    total = jnp.where(total > 0, total, 1)
    if family.alpha == 2:  # equal weights: none outweighs the others
        return d - classes.sum(s * d) / total
    return classes.deviation(s, d, total)


# Compiled once for a shape also when it is called outside of `jit`; inside it leaves no trace.
@partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _solved(z, alpha, family, classes, logarithm):
    def rows(z, alpha):
        def solved(curve):
            anchor, place = solve(curve, Dense(z, classes))
            return (curve.log_masses if logarithm else curve.masses)(z, anchor, place)

        return by_curve(family.exponent(alpha), classes.anywhere, solved)

    return classes.by_rows(rows, z, alpha)


def _movable(z: Array, classes: ClassAxis) -> Array:
    """1, but 0 for a row that holds +∞: there p is a limit that no finite change of z alters."""
    return (classes.max(z) < jnp.inf).astype(z.dtype)


def _softmax(z: Array, classes: ClassAxis) -> tuple[Array, Array, Array]:
    """p, Σ eᵛ and v = z − max z."""
    v = difference(z, classes.max(z))
    weights = jnp.exp(v)
    total = classes.sum(weights)
    return weights / jnp.maximum(total, jnp.finfo(z.dtype).tiny), total, v
