"""Search for the place on a curve where the masses of a row sum to one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._scores import Scores
from jsoftmax.core.curves import Curve, has_slopes

MOST_STEPS = 100


def search(
    curve: Curve,
    scores: Scores,
    anchor: Array,
    place: Any = None,
    slope: Array | None = None,
    precision: float | None = None,
    most: int = MOST_STEPS,
) -> tuple[Any, Array]:
    """Find a root of the gap by steps inside the bracket of its signs, with one pass per step.

    A row is finished when its gap is below `precision`, or when the next step will bring it there.
    It takes that step and then stays, so that it does not depend on its neighbours. Returns the
    place and the slope of the gap there, as the start of another search.
    """
    eps = float(jnp.finfo(anchor.dtype).eps)
    goal = max(eps, scores.rounding)
    precision = 4 * goal if precision is None else precision
    place = curve.start(anchor) if place is None else place
    slope = filled(anchor, 1) * curve.slope if slope is None else slope
    near = goal ** (1 / curve.order)
    look = _by_slopes if scores.joins_sums and has_slopes(curve) else _by_secant

    def unfinished(state):
        count, *_, active = state
        return (count < most) & scores.anywhere(active)

    def advance(state):
        count, place, step, last, pace, left, right, moving = state
        moved = moving & (step != 0)
        mass, gap, ahead, pace, left_over = look(
            curve, scores, anchor, place, _Last(moved, step, last, pace)
        )
        size = jnp.abs(gap)
        # The ends of the bracket are given by their distances from here.
        left, right = jnp.where(gap < 0, 0, left), jnp.where(gap > 0, 0, right)
        # Never where the gap is NaN.
        far = (size > precision) & ((size > near) | (left_over > goal))
        active = moving & far & (right - left > eps * eps)
        # Without an upper end the steps grow; with both ends, a step that leaves the bracket
        # becomes a bisection, and so does every eighth step.
        ahead = jnp.where(active & jnp.isinf(right), jnp.maximum(ahead, -2 * left), ahead)
        outside = (ahead <= left) | (ahead >= right) | (count % 8 == 7)
        halve = outside & active & jnp.isfinite(left) & jnp.isfinite(right)
        ahead = jnp.where(halve, (left + right) / 2, jnp.clip(ahead, left, right))
        # XLA's maxima may miss a NaN of the row, sums do not: pass it on to the place.
        ahead = jnp.where(moving & jnp.isfinite(ahead), ahead, jnp.where(mass == mass, 0, mass))
        place = curve.move(place, ahead)
        return count + 1, place, ahead, gap, pace, left - ahead, right - ahead, active

    zero, infinity = filled(anchor, 0), filled(anchor, jnp.inf)
    start = (0, place, zero, filled(anchor, 1 / eps), 1 / slope, -infinity, infinity)
    _, place, _, _, pace, *_ = jax.lax.while_loop(unfinished, advance, (*start, anchor > -jnp.inf))
    return place, 1 / pace


class _Last(NamedTuple):
    """The previous place of a search."""

    moved: Array  # whether there is one
    step: Array  # from there
    gap: Array
    pace: Array  # ∂place/∂gap, there or between


def _by_secant(curve, scores, anchor, place, last):
    """Return (mass, gap, next step, pace, estimate of the next gap) by a secant.

    The estimate is the product of the last two gaps. A difference of gaps that is all rounding says
    nothing about the pace, except that the step was too short.
    """
    mass = scores.sum(lambda z: curve.masses(z, anchor, place))
    gap = curve.gap(mass)
    eps = float(jnp.finfo(gap.dtype).eps)
    apart = gap - last.gap
    change = last.step / jnp.where(apart == 0, 1, apart)
    tells = (change > 0) & (jnp.abs(apart) > 16 * eps)
    short = (jnp.abs(apart) <= 16 * eps) & (jnp.abs(gap) > 32 * eps)
    pace = jnp.where(last.moved & short, 4 * last.pace, last.pace)
    pace = jnp.where(last.moved & tells, change, pace)
    return mass, gap, -gap * pace, pace, jnp.abs(gap * last.gap)


def _by_slopes(curve, scores, anchor, place, last):
    """Return the same by Hermite's cubic of place by gap, through two places with their paces.

    Without a cubic the step is Newton's, and it is never far from Newton's: the remaining gap is of
    the order of its square, which `search` uses.
    """
    shares = scores.sum(lambda z: curve.shares(z, anchor, place))
    mass, slopes = (x * factor for x, factor in zip(shares, curve.factors(), strict=True))
    gap = curve.gap(mass)
    growth = curve.drift(place) * slopes
    pace = jnp.where(growth > 0, mass / jnp.where(growth > 0, growth, 1), last.pace)
    apart = gap - last.gap
    tells = last.moved & (jnp.abs(apart) > 2**10 * float(jnp.finfo(gap.dtype).eps))
    inverse = 1 / jnp.where(tells, apart, 1)
    mean = last.step * inverse
    bend = (pace - mean) * inverse
    twist = (2 * mean - pace - last.pace) * inverse * inverse
    newton, most = -gap * pace, jnp.abs(gap * pace) / 2
    change = jnp.clip(gap * gap * (bend + last.gap * twist), -most, most)
    return mass, gap, newton + jnp.where(tells, change, 0), pace, 0.0
