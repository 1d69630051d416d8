"""Compute p and log p from the threshold, and the derivative that both share.

With a prior q the problem is max ⟨p, z⟩ − Σ q ω(p/q), so p = q link(z − τ) and, for r = p/q,
s = q slope(r). Differentiating Σ q link(z − τ) = 1 gives Σ s (d − τ̇) = 0 for

    d = ż − (∂ω′/∂θ)(r) θ̇ + (r/s) q̇,

since z − τ = ω′(r). So for every regularizer, and for every parameter θ of it,

    τ̇ = Σ s d / Σ s,    ṗ = s (d − τ̇),

written in p alone, so that each rule differentiates again and transposes. Without a prior q is 1.

Where the link is bounded, p rounds to the bound long before its slope vanishes: two classes have
equal slopes p(1 − p), though one p is 1. There s is written in t = z − τ = ω′(r), with the rule
ṫ = ż − τ̇.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._relative_mass import relative_to, times_prior, with_log_prior, without_log_prior
from jsoftmax.core._scores import Dense, difference
from jsoftmax.core._tangents import effective_tangent
from jsoftmax.core._threshold import solve
from jsoftmax.core.curves import bounded_marginals

_FLAT = -800.0  # a slope with this logarithm is 0 in every dtype


def probabilities(
    z: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> Array:
    """Return p = argmax ⟨p, z⟩ − Σ q ω(p/q) over the simplex.

    The prior is positive where z > −∞, and has the rank of z.
    """
    return solved_masses(z, prior, regularizer, classes)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def solved_masses(
    z: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> tuple[Array, Array | None]:
    """Return p, and t = ω′(p/q) for a bounded link."""
    if regularizer.is_exponential:
        return _softmax(with_log_prior(z, prior, classes), classes)[0], None
    return _solved(z, prior, regularizer, classes, False)


@partial(solved_masses.defjvp, symbolic_zeros=True)
def _solved_masses_jvp(classes, primals, tangents):
    z, prior, regularizer = primals
    d_z, d_prior, d_regularizer = tangents
    p, t = solved_masses(z, prior, regularizer, classes)
    r, movable = relative_to(prior, p), _movable(z, classes)
    s, weights = slopes(r, t, prior, regularizer, classes)
    s = s * movable
    d = effective_tangent(r, d_z, regularizer, d_regularizer, s, d_prior)
    if d is None:
        return (p, t), jax.tree.map(jnp.zeros_like, (p, t))
    away = _deviation(weights, d, regularizer, classes, prior)
    if t is None:
        return (p, t), (s * away, None)
    beside = effective_tangent(r, None, regularizer, d_regularizer, s, d_prior)
    return (p, t), (s * away, marginal_tangent(away, beside, movable > 0))


def log_probabilities(
    z: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> Array:
    """Return log p, accurate also where p underflows; −∞ off the support."""
    return solved_logarithms(z, prior, regularizer, classes)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def solved_logarithms(
    z: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> tuple[Array, Array | None]:
    """Return log p, and t = ω′(p/q) for a bounded link."""
    if regularizer.is_exponential:
        _, total, v = _softmax(with_log_prior(z, prior, classes), classes)
        # A finite score below one of +∞ has no mass, however large it is. (XLA fuses a factor per
        # row into sums, but not a `where` per entry.)
        finite = jnp.asarray(jnp.finfo(z.dtype).max, z.dtype)
        further = jnp.where(classes.max(z) == jnp.inf, finite, 1)
        return v * further - jnp.log(total), None
    log_r, t = _solved(z, prior, regularizer, classes, True)
    return with_log_prior(log_r, prior), t


@partial(solved_logarithms.defjvp, symbolic_zeros=True)
def _solved_logarithms_jvp(classes, primals, tangents):
    # ṗ/p = (s/p)(d − τ̇), and s/p = slope(r)/r.
    z, prior, regularizer = primals
    d_z, d_prior, d_regularizer = tangents
    log_p, t = solved_logarithms(z, prior, regularizer, classes)
    p = jnp.exp(log_p)
    movable = _movable(z, classes)
    r = relative_to(prior, p)
    s, weights = slopes(r, t, prior, regularizer, classes)
    s = s * movable
    d = effective_tangent(r, d_z, regularizer, d_regularizer, s, d_prior)
    if d is None:
        return (log_p, t), jax.tree.map(jnp.zeros_like, (log_p, t))
    if regularizer.is_exponential:
        # One mean, at the cost of jax.nn. It cancels where a p is near 1; `cross_entropy` does not.
        # The mean includes all tangents, since an excluded class counts with p = 0.
        own = jnp.where((log_p == -jnp.inf) | (movable == 0), 0, d)
        return (log_p, t), (own - classes.sum(movable * p * d), None)
    if t is None:
        log_r = without_log_prior(log_p, prior)
        relative = regularizer.relative_slope(jnp.where(p > 0, log_r, 0))
    else:
        relative = jnp.exp(regularizer.log_slope(t) - regularizer.log_link(t, t))
    away = _deviation(weights, d, regularizer, classes, prior)
    tangent = jnp.where((log_p == -jnp.inf) | (movable == 0), 0, movable * relative * away)
    if t is None:
        return (log_p, t), (tangent, None)
    beside = effective_tangent(r, None, regularizer, d_regularizer, s, d_prior)
    return (log_p, t), (tangent, marginal_tangent(away, beside, movable > 0))


def slopes(
    r: Array,
    t: Array | None,
    prior: Array | None,
    regularizer: Regularizer,
    classes: ClassAxis,
    still: Array | None = None,
) -> tuple[Array, Array]:
    """Return s = q slope(r), and weights proportional to it; both are 0 where p is `still`.

    τ̇ is the mean of d by these weights. For a bounded link they are s divided by the largest slope,
    so that the mean is right even if every s underflows.
    """
    if t is None:
        s = times_prior(prior, regularizer.slope(r))
        s = s if still is None else jnp.where(still, 0, s)
        return s, s
    log_slope = regularizer.log_slope(t)
    if still is not None:
        log_slope = jnp.where(still, -jnp.inf, log_slope)
    steepest = jnp.maximum(classes.max(log_slope), float(jnp.finfo(t.dtype).min))
    s, weights = (times_prior(prior, jnp.exp(x)) for x in (log_slope, log_slope - steepest))
    # Below that, every second derivative of p is 0, and that of a weight would overflow.
    held = jax.lax.stop_gradient(weights)
    return s, jnp.where(steepest > _FLAT, weights, held)


def marginal_tangent(away: Array, beside: Array | None, movable: Array) -> Array:
    """Return ṫ = ż − τ̇, which is d − τ̇ minus the terms of d `beside` ż; 0 in a constant row."""
    return jnp.where(movable, away if beside is None else away - beside, 0)


def _deviation(
    s: Array, d: Array, regularizer: Regularizer, classes: ClassAxis, prior: Array | None
) -> Array:
    """Return d − τ̇; τ̇ is the mean of d in the escort distribution s/Σs."""
    if regularizer.is_exponential:
        return classes.deviation(s, d)
    total = classes.sum(s)
    total = jnp.where(total > 0, total, 1)
    if prior is None and regularizer.has_equal_slopes:
        # Σ s counts classes: none outweighs the others, and its square does not vanish.
        return d - classes.sum(s * d) / total
    return classes.deviation(s, d, total)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=(3, 4), inline=True)
def _solved(z, prior, regularizer, classes, logarithm):
    """Return link(z − τ) times the prior, or the log of the link; and z − τ for a bounded link."""
    numbers, structure = jax.tree.flatten(regularizer)

    def rows(z, prior, *numbers):
        family = jax.tree.unflatten(structure, numbers)

        def solved(curve):
            anchor, place = solve(curve, Dense(z, classes, prior))
            masses = (curve.log_masses if logarithm else curve.masses)(z, anchor, place)
            return masses, bounded_marginals(curve, family, z, anchor, place)

        return family.on_curve(classes.anywhere, solved)

    masses, t = classes.by_rows(rows, z, prior, *numbers)
    return masses if logarithm else times_prior(prior, masses), t


def _movable(z: Array, classes: ClassAxis) -> Array:
    """Return 1, or 0 for a row with a score of +∞: there p is a limit with derivative 0."""
    return (classes.max(z) < jnp.inf).astype(z.dtype)


def _softmax(z: Array, classes: ClassAxis) -> tuple[Array, Array, Array]:
    """Return p, Σ eᵛ > 0 and v = z − max z."""
    v = difference(z, classes.max(z))
    weights = jnp.exp(v)
    total = classes.sum(weights)
    # Not `jnp.maximum`, which XLA fuses with the sum: it then loses a NaN.
    total = jnp.where(total == 0, 1, total)
    return weights / total, total, v
