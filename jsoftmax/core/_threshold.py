"""The threshold τ of p = link(z − τ), Σ p = total: one solver for every regularizer and every row.

`solve` finds the place on a curve at which the masses sum to the total by a bracketed secant; one
sum over the row a step.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import is_known
from jsoftmax.core._capped_threshold import edge_below, solve_bounded
from jsoftmax.core._filled import filled
from jsoftmax.core._joint_threshold import solve_jointly
from jsoftmax.core._scores import Dense, Scores
from jsoftmax.core.curves import Curve, Edge, Level, Power, Shift

_MOST_STEPS = 100
_NEAR_STEPS = 10  # towards the edge of the support
_MOST_CLASSES = 16  # gone through one by one before bisection


def solve(curve: Curve, scores: Scores) -> tuple[Array, Any]:
    """The anchor of each row, and the place on the curve where its masses sum to one.

    The anchor, from which scores are measured, is the maximum, or the smallest score with mass
    where the curve wants the edge.
    """
    if (
        isinstance(curve, Level)
        and not curve.regularizer.knows_link
        and isinstance(scores, Dense)
        # A row of unknown length, as in a kernel, may have no room for a number of each class.
        and is_known(scores.classes.size(scores.values))
    ):
        anchor, place = solve_jointly(curve, scores)
        chex.assert_equal_shape([anchor, place.level, place.rest])
        return anchor, place
    anchor, place = _solved(curve, scores)
    chex.assert_equal_shape([anchor, *jax.tree.leaves(place)])  # one of each a row
    return anchor, place


def _solved(curve, scores):
    if isinstance(curve, Edge):
        # Almost at the threshold, found from the top: the class above it is at the edge, or nearly.
        coarse = Power(curve.a)
        top, place, slope = _from_top(coarse, scores, 2**-8, _NEAR_STEPS)
        anchor = _edge_near(curve, scores, coarse.threshold(top, place), top)
        x, largest = (coarse.masses(z, top, place) for z in (anchor, top))
        # On both curves the same c moves: x^(a−1) dx = p_max^a d log p_max.
        largest = jnp.maximum(largest, float(jnp.finfo(top.dtype).tiny))
        slope = jnp.maximum(slope * (x / largest) ** (curve.a - 1) / largest, 1)
        place, slope = _search(curve, scores, anchor, curve.at(x), slope)
        return anchor, place
    anchor, place, _ = _from_top(curve, scores)
    if not isinstance(curve, Shift):
        return anchor, place
    # Where one class has almost all the mass, a sum near one says little of the others'.
    found, far = (anchor, place), curve.is_near_one(place)

    def closer():
        bounded = solve_bounded(curve, scores)
        return jax.tree.map(lambda x, y: jnp.where(far, x, y), bounded, found)

    return jax.lax.cond(scores.anywhere(far), closer, lambda: found)


def _from_top(curve, scores, precision=None, most=_MOST_STEPS):
    """`_search` with the maximum as the anchor."""
    # The peaks of a row are a row: solve there first, coarsely, then start from that place.
    rows = [scores]
    while (peaks := rows[-1].peaks()) is not None:
        rows.append(peaks)
    top = rows[-1].max()
    level = rows[-1].level_of(top)
    place = slope = None
    if level is not None:
        place = curve.at_level(jnp.minimum(level, curve.highest))
    # They hold almost all the mass of a sparse row, whose threshold is then nearly theirs.
    is_sparse = isinstance(curve.order, float) and curve.order < 2
    enough, few = (2**-14, 10) if is_sparse else (2**-9, 6)
    for row in rows[:0:-1]:
        place, slope = _search(curve, row, top, place, slope, enough, few)
    return top, *_search(curve, scores, top, place, slope, precision, most)


def _edge_near(curve, scores, guess, top) -> Array:
    """The smallest score with mass, found from class to class beginning with a guess."""

    def enough(t):
        start = curve.start(t)
        return scores.sum(lambda z: curve.masses(z, t, start)) <= 1

    def advance(state):
        count, t, low, high, active = state
        fits = enough(t)
        low, high = jnp.where(fits, low, t), jnp.where(fits, t, high)
        sign = jnp.where(fits, 1, -1).astype(t.dtype)
        adjacent = scores.max(lambda z: jnp.where(sign * z < sign * t, sign * z, -jnp.inf)) * sign
        active = active & jnp.where(fits, adjacent > low, adjacent < high)
        return count + 1, jnp.where(active, adjacent, t), low, high, active

    def unfinished(state):
        return (state[0] < _MOST_CLASSES) & scores.anywhere(state[-1])

    above = -scores.max(lambda z: jnp.where(z >= guess, -z, -jnp.inf))
    t = jnp.where(above <= top, above, top)
    state = (0, t, filled(top, -jnp.inf), top, top > -jnp.inf)
    _, _, low, high, active = jax.lax.while_loop(unfinished, advance, state)
    return jax.lax.cond(
        scores.anywhere(active),
        lambda: jnp.where(active, edge_below(enough, scores, high, low), high),
        lambda: high,
    )


def _search(curve, scores, anchor, place=None, slope=None, precision=None, most=_MOST_STEPS):
    """Secant steps on the gap, kept inside the bracket that its signs give; one sum a step.

    A row is finished where its gap is below `precision`, or where the step about to be taken will
    bring it there: what a secant leaves is of the order of the last two gaps' product. It takes
    that step and then stays, so that it does not depend on its neighbours. Returns the place and
    the slope of the gap there, from which another search can start.
    """
    eps = float(jnp.finfo(anchor.dtype).eps)
    precision = 4 * eps if precision is None else precision
    place = curve.start(anchor) if place is None else place
    slope = filled(anchor, 1) * curve.slope if slope is None else slope
    near = eps ** (1 / curve.order)

    def unfinished(state):
        count, *_, active = state
        return (count < most) & scores.anywhere(active)

    def advance(state):
        count, place, step, last, slope, left, right, moving = state
        mass = scores.sum(lambda z: curve.masses(z, anchor, place))
        gap = curve.gap(mass)
        size = jnp.abs(gap)
        # The ends of the bracket are given by their distances from here.
        left, right = jnp.where(gap < 0, 0, left), jnp.where(gap > 0, 0, right)
        # Never where the gap is NaN.
        far = (size > precision) & ((size > near) | (size * jnp.abs(last) > eps))
        active = moving & far & (right - left > eps * eps)
        change = (gap - last) / jnp.where(step == 0, 1, step)
        # A difference of gaps that is all rounding tells nothing of the slope, but that the step
        # was too short.
        moved = moving & (step != 0)
        tells = (change > 0) & (jnp.abs(gap - last) > 16 * eps)
        short = (jnp.abs(gap - last) <= 16 * eps) & (size > 32 * eps)
        slope = jnp.where(moved & tells, change, jnp.where(moved & short, slope / 4, slope))
        ahead = -gap / slope
        # Without an upper end the steps grow; with both, one that leaves the bracket, and now and
        # then one in any case, halves it.
        ahead = jnp.where(active & jnp.isinf(right), jnp.maximum(ahead, -2 * left), ahead)
        outside = (ahead <= left) | (ahead >= right) | (count % 8 == 7)
        halve = outside & active & jnp.isfinite(left) & jnp.isfinite(right)
        ahead = jnp.where(halve, (left + right) / 2, jnp.clip(ahead, left, right))
        # XLA's maxima may miss a NaN of the row, sums do not: let the place have it.
        ahead = jnp.where(moving & jnp.isfinite(ahead), ahead, jnp.where(mass == mass, 0, mass))
        place = curve.move(place, ahead)
        return count + 1, place, ahead, gap, slope, left - ahead, right - ahead, active

    infinity = filled(anchor, jnp.inf)
    state = (0, place, filled(anchor, 0), filled(anchor, 1 / eps), slope, -infinity, infinity)
    _, place, _, _, slope, *_ = jax.lax.while_loop(unfinished, advance, (*state, anchor > -jnp.inf))
    return place, slope
