"""Decide which classes of a row stay; excluded classes have scores of −∞.

At least one class stays in a row that is not fully masked. A NaN always stays, to remain visible.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._scores import difference
from jsoftmax.sampling.truncation._cut_search import cut_at


def kept_by_rank(z: Array, k: Array, classes: ClassAxis) -> Array:
    """Keep the k largest scores, with all ties of the last of them."""
    total = classes.sum((z > -jnp.inf).astype(jnp.int32)).astype(z.dtype)
    lowest = -classes.max(jnp.where(z > -jnp.inf, -z, -jnp.inf))
    target = jnp.minimum(jnp.maximum(k, 1), total)
    zero = jnp.zeros_like(total)
    return at_least(z, cut_at(z, None, total, target, lowest, zero, zero, classes))


def kept_by_mass(
    z: Array, p: Array, temperature: Array | None, top: Array, classes: ClassAxis
) -> Array:
    """Keep the largest scores that together have probability p, with all ties of the last."""
    w = jnp.exp(relative(z, temperature, top, classes))
    total = classes.sum(w)
    p = jnp.clip(p, 0, 1)
    # Of n classes, those below a share (1 − p)/n of the largest have at most 1 − p together.
    t = jnp.ones((), z.dtype) if temperature is None else temperature
    lowest = top + _product(jnp.log((1 - p) / classes.size(z)), t)
    return at_least(z, cut_at(z, w, total, p * total, lowest, top, 1 / t, classes))


def kept_by_typicality(
    z: Array, p: Array, temperature: Array | None, top: Array, classes: ClassAxis
) -> Array:
    """Keep the classes with −log p closest to the entropy that together have probability p."""
    v, w, total, v_mean = _weighed(z, temperature, top, classes)  # log p + H is v − its mean
    nearness = jnp.where(v > -jnp.inf, -jnp.abs(v - v_mean), v)
    lowest = -classes.max(jnp.where(nearness > -jnp.inf, -nearness, -jnp.inf))
    one = jnp.ones((), z.dtype)
    target = jnp.clip(p, 0, 1) * total
    # At a distance d from the mean a class weighs at least exp(mean − d).
    cut = cut_at(nearness, w, total, target, lowest, -v_mean, one, classes, is_monotone=False)
    return at_least(nearness, cut)


def kept_by_ratio(
    z: Array, ratio: Array, temperature: Array | None, top: Array, classes: ClassAxis
) -> Array:
    """Keep classes with at least this ratio of the largest probability."""
    return at_least(relative(z, temperature, top, classes), jnp.log(jnp.clip(ratio, 0, 1)))


def kept_by_deviation(z: Array, n: Array, top: Array, classes: ClassAxis) -> Array:
    """Keep scores within n standard deviations of the largest."""
    v = relative(z, None, top, classes)
    takes_part = v > -jnp.inf
    v_here = jnp.where(takes_part, v, 0)
    count = jnp.maximum(classes.sum(takes_part.astype(z.dtype)), 1)
    mean = classes.sum(v_here) / count
    variance = classes.sum(jnp.where(takes_part, (v_here - mean) ** 2, 0)) / count
    return at_least(v, -jnp.maximum(n, 0) * jnp.sqrt(variance))


def kept_by_entropy(
    z: Array, epsilon: Array, temperature: Array | None, top: Array, classes: ClassAxis
) -> Array:
    """Keep classes with probability at least min(ε, √ε exp(−H))."""
    v, _, total, v_mean = _weighed(z, temperature, top, classes)
    log_total = jnp.log(total)
    entropy = log_total - v_mean
    log_epsilon = jnp.log(jnp.clip(epsilon, 0, 1))
    least = jnp.minimum(log_epsilon, log_epsilon / 2 - entropy)
    # Since log max p ≥ −H, rounding alone could leave nothing.
    return at_least(v, jnp.minimum(least + log_total, 0))


def at_least(order: Array, cut: Array) -> Array:
    """Return where the order is at or above the cut, but never where it is −∞; and every NaN."""
    return ~(order < cut) & (order != -jnp.inf)


def relative(z: Array, temperature: Array | None, top: Array, classes: ClassAxis) -> Array:
    """Return (z − max z)/T with its limits; −∞ for classes without mass beside one of +∞."""
    if temperature is not None:
        return cooled(z, temperature, classes, top)
    v = difference(z, top)
    return jnp.where((top == jnp.inf) & (z < jnp.inf), -jnp.inf, v)


def _weighed(
    z: Array, temperature: Array | None, top: Array, classes: ClassAxis
) -> tuple[Array, Array, Array, Array]:
    """Return v = (z − max z)/T, w = eᵛ, Σ w, and the mean of v by w."""
    v = relative(z, temperature, top, classes)
    w = jnp.exp(v)
    total = classes.sum(w)
    mean = classes.sum(w * jnp.where(w > 0, v, 0)) / jnp.where(total > 0, total, 1)
    return v, w, total, mean


def _product(log_share: Array, temperature: Array) -> Array:
    """Return T log(share), 0 at T = 0."""
    is_cold = temperature < jnp.finfo(temperature.dtype).tiny
    most = jnp.finfo(temperature.dtype).max
    finite = jnp.maximum(log_share, -most) * jnp.where(is_cold, 0, jnp.minimum(temperature, most))
    return jnp.maximum(finite, -most)
