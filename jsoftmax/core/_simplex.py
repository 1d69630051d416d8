"""From a threshold to p, its one derivative, its logarithm and its conjugate.

With a prior q the problem is max ⟨p, z⟩ − Σ q ω(p/q), so p = q link(z − τ) and, for r = p/q,
s = q slope(r). Differentiating Σ q link(z − τ) = 1 gives Σ s (d − τ̇) = 0 for

    d = ż − (∂ω′/∂θ)(r) θ̇ + (r/s) q̇,

since z − τ = ω′(r). So for every regularizer, and for every parameter θ of it,

    τ̇ = Σ s d / Σ s,    ṗ = s (d − τ̇),
    (conjugate)˙ = Σ p ż − (∂Ω/∂θ) θ̇ − Σ (ω(r) − r ω′(r)) q̇,

written in p alone, so that each rule differentiates again and transposes. Without a prior q is 1.

Where the link is bounded, p rounds to the bound long before its slope is nothing: two classes have
equal slopes p(1 − p), though one p is 1. There s is written in t = z − τ = ω′(r), of which the rule
is ṫ = ż − τ̇.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._curves import bounded_marginals
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._scores import Dense, difference
from jsoftmax.core._threshold import solve

_FLAT = -800.0  # a slope with this logarithm is 0 in every dtype


def probabilities(
    z: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> Array:
    """p = argmax ⟨p, z⟩ − Σ q ω(p/q) over the simplex.

    The prior is positive where z > −∞, and has the rank of z.
    """
    return solved_masses(z, prior, regularizer, classes)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def solved_masses(
    z: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> tuple[Array, Array | None]:
    """p, and t = ω′(p/q) where the link has a bound."""
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
    """log p, right where p underflows; −∞ off the support."""
    return solved_logarithms(z, prior, regularizer, classes)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def solved_logarithms(
    z: Array, prior: Array | None, regularizer: Regularizer, classes: ClassAxis
) -> tuple[Array, Array | None]:
    """log p, and t = ω′(p/q) where the link has a bound."""
    if regularizer.is_exponential:
        _, total, v = _softmax(with_log_prior(z, prior, classes), classes)
        # A finite score below one of +∞ has no mass, however large it is. (A factor a row is fused
        # into sums, a choice an entry is not.)
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
        # One mean, at the cost of jax.nn: what cancels at a p near 1 is right in `cross_entropy`.
        # The mean is taken of all tangents, for it counts an excluded class with p = 0.
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
    """s = q slope(r), and weights in proportion to it; both are 0 where p is `still`.

    τ̇ is the mean of d by these weights. Where the link has a bound they are s divided by the
    largest slope, so that the mean is right even if every s underflows.
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
    # Below, every second derivative of p is 0, and that of a weight would overflow on the way.
    held = jax.lax.stop_gradient(weights)
    return s, jnp.where(steepest > _FLAT, weights, held)


def slope_at(r: Array, t: Array | None, regularizer: Regularizer) -> Array:
    """1/ω″(r), of t = ω′(r) where the link has a bound."""
    return regularizer.slope(r) if t is None else jnp.exp(regularizer.log_slope(t))


def marginal_tangent(away: Array, beside: Array | None, movable: Array) -> Array:
    """ṫ = ż − τ̇: d − τ̇ without what d holds `beside` ż. It is 0 in a row that does not move."""
    return jnp.where(movable, away if beside is None else away - beside, 0)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def conjugate(
    z: Array,
    prior: Array | None,
    regularizer: Regularizer,
    temperature: Array | None,
    classes: ClassAxis,
) -> Array:
    """T Ω*(z/T) = max ⟨p, z⟩ − T Ω(p), kept as a size-1 axis; T is 1 where it is None.

    `z` is not yet divided by T ≥ 0.
    """
    top = classes.max(z)
    y = cooled(z, temperature, classes)
    if regularizer.is_exponential:
        weighted = with_log_prior(y, prior, classes)
        # Not `difference`: a minimum may lose a NaN, and infinite rows are told by their top.
        finite = float(jnp.finfo(z.dtype).max)
        level = jnp.clip(classes.max(weighted), -finite, finite)
        total = classes.sum(jnp.exp(weighted - level))
        excess = jnp.log(jnp.where(total == 0, 1, total))
        if prior is not None:
            excess = excess + level  # scores with a prior are measured from max y
    else:
        # Σ p v − Ω(p), every term of which is between −log n and 0 or between 0 and log n.
        p = probabilities(y, prior, regularizer, classes)
        v = jnp.where(p > 0, difference(y, classes.max(y)), 0)
        excess = classes.sum(p * v) + entropy_of(p, prior, regularizer, classes)
    # The maximum of a row may lose a NaN, its sum does not.
    excess = jnp.where(jnp.isfinite(top) | (excess != excess), excess, 0)
    if temperature is None:
        return top + excess
    # At T = ∞ the excess outweighs everything. Where it is zero ⟨p, z⟩ is left: the score of the
    # only class, or with a prior of mass 1 the mean.
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
    """−Σ q ω(p/q), kept as a size-1 axis."""
    return -classes.sum(times_prior(prior, regularizer.value(relative_to(prior, p))))


def height(r: Array, regularizer: Regularizer) -> Array:
    """ω(r) − r ω′(r), how much an entry of q adds to Σ q ω(p/q); 0 at r = 0 and where ω is +∞."""
    inside = (r > 0) & ~(regularizer.value(r) == jnp.inf)
    some = jnp.where(inside, r, 0.5)
    inner = regularizer.value(some) - some * regularizer.derivative(some)
    return jnp.where(inside, inner, jnp.where(r == r, 0, r))


def relative_to(prior: Array | None, p: Array) -> Array:
    """p/q, 0 where there is no prior mass."""
    return p if prior is None else jnp.where(prior == 0, 0, p / jnp.where(prior == 0, 1, prior))


def times_prior(prior: Array | None, x: Array) -> Array:
    """q x."""
    return x if prior is None else jnp.where(prior == 0, 0, prior * x)


def with_log_prior(z: Array, prior: Array | None, classes: ClassAxis | None = None) -> Array:
    """z + log q, −∞ where there is no prior mass; less max z where `classes` are given.

    Beside large scores a logarithm of q would be rounded away.
    """
    if prior is None:
        return z
    if classes is not None:
        top = classes.max(z)
        z = z - jnp.where(jnp.isfinite(top), top, 0)
    return jnp.where(prior == 0, -jnp.inf, z + jnp.log(jnp.where(prior == 0, 1, prior)))


def without_log_prior(log_p: Array, prior: Array | None) -> Array:
    """log(p/q), −∞ where there is no mass."""
    return log_p if prior is None else log_p - jnp.log(jnp.where(prior > 0, prior, 1))


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


def quotient(x: Array, temperature: Array) -> Array:
    """x/T for finite x and T ≥ 0, kept finite; 0 at T = 0, where its callers put the limit."""
    return _over_power(x, temperature, 1)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _over_power(x: Array, temperature: Array, power: int) -> Array:
    """x/Tⁿ, kept finite; 0 at T = 0.

    Of classes without mass x/Tⁿ overflows where its product with p is 0, so from T² on it is
    clipped by so much more that sums over classes stay finite.
    """
    dtype = jnp.finfo(x.dtype)
    none, most = is_zero(temperature), float(dtype.max) * (1 - 4 * float(dtype.eps))
    divisor = jnp.where(none, 1, temperature)
    for n in range(1, power + 1):
        # Clipped first, since nothing is to overflow on the way.
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


def effective_tangent(
    r: Array,
    d_z: Any,
    regularizer: Regularizer,
    d_regularizer: Any,
    s: Array | None = None,
    d_prior: Any = None,
) -> Array | None:
    """d = ż − (∂ω′/∂θ)(r) θ̇ + (r/s) q̇, or None where nothing moves."""
    d = None if _is_still(d_z) else d_z
    some = jnp.where(r > 0, r, 1)
    bend = along_parameters(lambda x: x.marginal(some), regularizer, d_regularizer)
    if bend is not None:
        d = -bend if d is None else d - bend
    if s is not None and not _is_still(d_prior):
        grown = jnp.where(s > 0, r / jnp.where(s > 0, s, 1), 0) * d_prior
        d = grown if d is None else d + grown
    return d


def along_parameters(
    function: Callable[[Regularizer], Array], regularizer: Regularizer, d_regularizer: Any
) -> Array | None:
    """The tangent of a function of the regularizer; None where none of its numbers moves."""
    numbers, structure = jax.tree.flatten(regularizer)
    tangents = structure.flatten_up_to(d_regularizer) if d_regularizer is not None else numbers
    moving = [i for i, d in enumerate(tangents) if d_regularizer is not None and not _is_still(d)]
    if not moving:
        return None

    def at(*moved):
        changed = list(numbers)
        for i, x in zip(moving, moved, strict=True):
            changed[i] = x
        return function(jax.tree.unflatten(structure, changed))

    return jax.jvp(at, tuple(numbers[i] for i in moving), tuple(tangents[i] for i in moving))[1]


def _is_still(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)


def _deviation(
    s: Array, d: Array, regularizer: Regularizer, classes: ClassAxis, prior: Array | None
) -> Array:
    """d − τ̇, with the mean of the escort distribution s/Σs."""
    if regularizer.is_exponential:
        return classes.deviation(s, d)
    total = classes.sum(s)
    total = jnp.where(total > 0, total, 1)
    if prior is None and regularizer.has_equal_slopes:
        # Σ s counts classes: none outweighs the others, and its square does not vanish.
        return d - classes.sum(s * d) / total
    return classes.deviation(s, d, total)


# Compiled once for a shape also when it is called outside of `jit`; inside it leaves no trace.
@partial(jax.jit, static_argnums=(3, 4), inline=True)
def _solved(z, prior, regularizer, classes, logarithm):
    """link(z − τ) times the prior, or the logarithm of the link; and z − τ where it has a bound."""
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
    """1, but 0 for a row that holds +∞: there p is a limit that no finite change of z alters."""
    return (classes.max(z) < jnp.inf).astype(z.dtype)


def _softmax(z: Array, classes: ClassAxis) -> tuple[Array, Array, Array]:
    """p, Σ eᵛ > 0 and v = z − max z."""
    v = difference(z, classes.max(z))
    weights = jnp.exp(v)
    total = classes.sum(weights)
    # A choice and no `jnp.maximum`, which XLA fuses with the sum: it then loses a NaN.
    total = jnp.where(total == 0, 1, total)
    return weights / total, total, v
