"""Distributions with caps p_i ≤ u_i or another mass Σ p = k, from the same link, clipped.

Where a cap binds p does not move, so s = 0 there, and for the rest the derivative is that of
`_simplex`; a change of k or of the binding caps is spread over them in proportion to s:

    ṗ = s (d − τ̇) + s (k̇ − Σ_cap u̇)/Σ s,   and ṗ = u̇ where the cap binds.

Where Σ s = 0, every class is at 0 or at its cap, and the derivative in k is 0.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._capped_threshold import solve_capped
from jsoftmax.core._filled import filled
from jsoftmax.core._floats import least_float, ratio
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._relative_mass import relative_to, times_prior
from jsoftmax.core._scores import Dense
from jsoftmax.core._simplex import marginal_tangent, slopes
from jsoftmax.core._tangents import effective_tangent
from jsoftmax.core.curves import Capped, bounded_marginals

_MOST_SORTED = 128  # for a higher rank rows are bisected, not sorted


@partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def capped_masses(
    y: Array,
    prior: Array | None,
    regularizer: Regularizer,
    upper: Array,
    total: Array,
    classes: ClassAxis,
    filled_ones: int | None = None,
) -> tuple[Array, Array | None]:
    """Return p = argmax ⟨p, y⟩ − Σ q ω(p/q) over 0 ≤ p ≤ upper, Σ p = total, for cooled scores.

    `upper` is 0 where `y` is −∞ and broadcasts to `y`; `total` has a size-1 class axis. p is NaN
    where the caps sum to less than the total, and 0 in a fully masked row. The second result is
    t = y − τ for a bounded link, otherwise None. `filled_ones` is ⌈total⌉ where it is known while
    tracing and all caps are 1.
    """
    if prior is not None and regularizer.bound < jnp.inf:
        filled_ones = None  # the prior times the bound is a cap too
    return _solved(y, prior, regularizer, upper, total, classes, filled_ones)


@partial(capped_masses.defjvp, symbolic_zeros=True)
def _capped_masses_jvp(classes, filled_ones, primals, tangents):
    y, prior, regularizer, upper, total = primals
    d_y, d_prior, d_regularizer, d_upper, d_total = tangents
    p, t = capped_masses(y, prior, regularizer, upper, total, classes, filled_ones)
    binds = _binds(p, t, prior, regularizer, upper)
    still = binds | (y == jnp.inf)
    r = relative_to(prior, p)
    s, weights = slopes(r, t, prior, regularizer, classes, still)
    weight = classes.sum(weights)
    e = ratio(weights, jnp.where(weight > 0, weight, 1))
    tangent = jnp.zeros_like(p)
    away, gained = tangent, jnp.zeros_like(weight)  # the mass gained by classes below their caps
    d = effective_tangent(r, d_y, regularizer, d_regularizer, s, d_prior)
    if d is not None:
        away = classes.deviation(e, jnp.where(weights > 0, d, 0))
        tangent = tangent + s * away
    if not isinstance(d_total, SymbolicZero):
        gained = d_total
        tangent = tangent + e * d_total
    if not isinstance(d_upper, SymbolicZero):
        held = jnp.where(binds & (upper > 0), d_upper, 0)
        lost = classes.sum(held)
        gained = gained - lost
        tangent = tangent + held - e * lost
    if t is None:
        return (p, t), (tangent, None)
    # A gain of mass lowers τ: it is −τ̇ Σ s.
    steepness = classes.sum(s)
    away = away + ratio(gained, jnp.where(steepness > 0, steepness, 1))
    beside = effective_tangent(r, None, regularizer, d_regularizer, s, d_prior)
    return (p, t), (tangent, marginal_tangent(away, beside, ~still))


def _binds(p, t, prior, regularizer, upper):
    """Return where a cap binds p. A bound of the link does not, though p may round to it."""
    binds = p >= upper
    if t is None:
        return binds
    bound = times_prior(prior, jnp.full((), regularizer.bound, p.dtype))
    return binds & ((upper < bound) | (t >= float(jnp.finfo(p.dtype).max)))


def threshold_of(
    p: Array,
    y: Array,
    prior: Array | None,
    regularizer: Regularizer,
    upper: Array,
    classes: ClassAxis,
) -> Array:
    """Return τ with y − τ = ω′(p/q) at the classes strictly between 0 and their caps.

    Without such a class any τ between the lowest capped and the highest empty class solves the
    problem; the result is the τ that brings the lowest capped class exactly to its cap.
    """
    p = jax.lax.stop_gradient(p)
    inside = (p > 0) & (p < upper)
    some = classes.max(jnp.where(inside, 1, 0)) > 0
    r = relative_to(prior, p)
    marginal = regularizer.marginal(jnp.where(r > 0, r, 1))
    lowest_capped = -classes.max(jnp.where((p > 0) & ~inside, marginal - y, -jnp.inf))
    chosen = classes.max(jnp.where(inside, y, -jnp.inf))
    of_chosen = classes.max(jnp.where(inside & (y == chosen), marginal, -jnp.inf))
    return jnp.where(some, chosen - of_chosen, lowest_capped)


@partial(jax.jit, static_argnums=(3, 4), inline=True)
def anchor_of(
    y: Array, upper: Array, total: Array, classes: ClassAxis, filled_ones: int | None = None
) -> Array:
    """Return the largest score t for which the caps of the scores ≥ t sum to at least the total.

    Scores are measured from t, since the largest classes may be capped however far above the rest
    they are. With caps of 1, t is the score of rank `filled_ones`, found by a short sort.
    """
    y = jax.lax.stop_gradient(y)
    if filled_ones is None or filled_ones > min(_MOST_SORTED, classes.size_here(y)):
        return _bisected(y, upper, total, classes)
    # XLA on CPU sorts more slowly than it bisects, though that takes a pass over the row per bit.
    return jax.lax.platform_dependent(
        y,
        upper,
        total,
        cpu=partial(_bisected, classes=classes),
        default=partial(_ranked, classes=classes, rank=filled_ones),
    )


def _bisected(y, upper, total, classes):
    caps = jnp.broadcast_to(upper, y.shape)

    def leaves_room(t):
        return classes.sum(jnp.where(y > t, caps, 0)) < total

    # Derived from all inputs of a row. Without room for the total, or with NaN in the row, the row
    # is not solved and any anchor will do.
    top = classes.max(y)
    high = top + 0 * filled(total, 1)
    anchor = least_float(leaves_room, filled(high, -jnp.inf), high, classes.anywhere)
    return jnp.where(top == top, jnp.minimum(anchor, top), top)


def _ranked(y, upper, total, classes, rank):
    top = classes.max(y)
    return jnp.where(top == top, classes.ranked(y, rank) + 0 * filled(total, 1), top)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=(5, 6), inline=True)
def _solved(y, prior, regularizer, upper, total, classes, filled_ones):
    numbers, structure = jax.tree.flatten(regularizer)
    if regularizer.bound < jnp.inf:
        upper = jnp.minimum(upper, times_prior(prior, jnp.full((), regularizer.bound, y.dtype)))

    def rows(y, prior, upper, total, *numbers):
        pivot = anchor_of(y, upper, total, classes, filled_ones)
        # q times the link is capped at `upper`, so the link at upper/q.
        cap = upper if prior is None else upper / jnp.where(prior > 0, prior, 1)

        def solved(curve):
            capped = Capped(curve, cap)
            anchor, place = solve_capped(capped, Dense(y, classes, prior), total, pivot)
            masses = capped.masses(y, anchor, place)
            return masses, bounded_marginals(curve, family, y, anchor, place)

        family = jax.tree.unflatten(structure, numbers)
        masses, t = family.on_curve(classes.anywhere, solved)
        return times_prior(prior, masses), t

    p, t = classes.by_rows(rows, y, prior, upper, total, *numbers)
    room = classes.sum(jnp.broadcast_to(upper, y.shape))
    p = jnp.where(total >= room, upper, p)
    if t is not None:
        t = jnp.where((total >= room) & (upper > 0), float(jnp.finfo(t.dtype).max), t)
    fits = (total > 0) & (total <= room * (1 + 4 * jnp.finfo(y.dtype).eps))
    top = classes.max(y)  # one NaN makes the whole row NaN
    p = jnp.where(room == 0, 0, jnp.where(fits, p, jnp.nan))
    return jnp.where(top == top, p, top), t
