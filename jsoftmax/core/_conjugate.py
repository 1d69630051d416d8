"""The conjugate of a regularizer, T Ω*(z/T), and its derivatives.

Its derivatives, at T = 1, are (conjugate)˙ = Σ p ż − (∂Ω/∂θ) θ̇ − Σ (ω(r) − r ω′(r)) q̇, r = p/q.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._relative_mass import relative_to, times_prior, with_log_prior
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import probabilities
from jsoftmax.core._tangents import along_parameters


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def conjugate(
    z: Array,
    prior: Array | None,
    regularizer: Regularizer,
    temperature: Array | None,
    classes: ClassAxis,
) -> Array:
    """Return T Ω*(z/T) = max ⟨p, z⟩ − T Ω(p), kept as a size-1 axis; None means T = 1.

    `z` is not yet divided by T ≥ 0.
    """
    top = classes.max(z)
    y = cooled(z, temperature, classes)
    if regularizer.is_exponential:
        weighted = with_log_prior(y, prior, classes)
        # Not `difference`: a minimum may lose a NaN, and `top` identifies infinite rows.
        finite = float(jnp.finfo(z.dtype).max)
        level = jnp.clip(classes.max(weighted), -finite, finite)
        total = classes.sum(jnp.exp(weighted - level))
        excess = jnp.log(jnp.where(total == 0, 1, total))
        if prior is not None:
            excess = excess + level  # scores with a prior are measured from max y
    else:
        # Σ p v − Ω(p): the first sum is from −log n to 0, the second from 0 to log n.
        p = probabilities(y, prior, regularizer, classes)
        v = jnp.where(p > 0, difference(y, classes.max(y)), 0)
        excess = classes.sum(p * v) + entropy_of(p, prior, regularizer, classes)
    # The maximum of a row may lose a NaN; its sum does not.
    excess = jnp.where(jnp.isfinite(top) | (excess != excess), excess, 0)
    if temperature is None:
        return top + excess
    # At T = ∞ the excess outweighs everything. Where the excess is zero, ⟨p, z⟩ remains: the score
    # of the only class, or with a prior of mass 1 the mean.
    grown = jnp.where(excess == 0, excess, temperature * excess)
    if prior is not None:
        nothing = jnp.abs(excess) <= 8 * float(jnp.finfo(z.dtype).eps)
        p = probabilities(y, prior, regularizer, classes)
        mean = classes.sum(jnp.where(p > 0, p * difference(z, top), 0))
        at_infinity = (temperature == jnp.inf) & jnp.isfinite(top)
        grown = jnp.where(at_infinity & nothing, mean, grown)
    return top + grown


@partial(conjugate.defjvp, symbolic_zeros=True)
def _conjugate_jvp(classes, primals, tangents):
    z, prior, regularizer, temperature = primals
    d_z, d_prior, d_regularizer, d_temperature = tangents
    value = conjugate(z, prior, regularizer, temperature, classes)
    p = probabilities(cooled(z, temperature, classes), prior, regularizer, classes)
    tangent = jnp.zeros_like(value)
    if not isinstance(d_z, SymbolicZero):
        tangent = tangent + classes.sum(p * d_z)
    if temperature is not None and not isinstance(d_temperature, SymbolicZero):
        tangent = tangent + entropy_of(p, prior, regularizer, classes) * d_temperature
    along = along_parameters(lambda x: entropy_of(p, prior, x, classes), regularizer, d_regularizer)
    if prior is not None and not isinstance(d_prior, SymbolicZero):
        shares = classes.sum(-height(relative_to(prior, p), regularizer) * d_prior)
        along = shares if along is None else along + shares
    if along is not None:
        tangent = tangent + (along if temperature is None else temperature * along)
    return value, tangent


def entropy_of(
    p: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> Array:
    """Return −Σ q ω(p/q), kept as a size-1 axis."""
    return -classes.sum(times_prior(prior, regularizer.value(relative_to(prior, p))))


def height(r: Array, regularizer: Regularizer) -> Array:
    """Return ω(r) − r ω′(r), the derivative of q ω(p/q) in q; 0 at r = 0 and where ω is +∞."""
    inside = (r > 0) & ~(regularizer.value(r) == jnp.inf)
    some = jnp.where(inside, r, 0.5)
    inner = regularizer.value(some) - some * regularizer.derivative(some)
    return jnp.where(inside, inner, jnp.where(r == r, 0, r))
