"""The threshold τ of p = link(z − τ), Σ p = total: one solver for every regularizer and every row.

`solve` finds the place on a curve at which the masses sum to the total by a bracketed secant; one
sum over the row a step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._curves import Curve, Edge, Either, filled
from jsoftmax.core._floats import least_float
from jsoftmax.core._scores import Scores

_MOST_STEPS = 100


def solve(
    curve: Curve, scores: Scores, total: float | Array = 1.0, anchor: Array | None = None
) -> tuple[Array, Any]:
    """The anchor of each row, and the place on the curve where its masses sum to `total`.

    The anchor, from which scores are measured, is the maximum unless the curve wants the edge or
    another one is given.
    """
    # The peaks of a row are a row: solve there first, coarsely, then start from that place.
    rows = [scores]
    while (
        anchor is None and curve.from_edge is not True and (peaks := rows[-1].peaks()) is not None
    ):
        rows.append(peaks)
    top = rows[-1].max()
    if anchor is None:
        anchor = top
    if curve.from_edge is not False:
        anchor = _edge(curve, scores, total, anchor, top)
    eps = float(jnp.finfo(anchor.dtype).eps)
    place, slope = curve.start(anchor), filled(anchor, 1) * curve.slope
    for row in reversed(rows):
        precision, most = (4 * eps, _MOST_STEPS) if row is scores else (2**-8, 6)
        place, slope = _search(curve, row, anchor, total, place, slope, precision, most)
    return anchor, place


def _edge(curve: Curve, scores: Scores, total: float | Array, anchor: Array, top: Array) -> Array:
    """The smallest score with mass, where the curve is measured from there; elsewhere `anchor`.

    That is the least threshold which leaves no more than the total, moved up to the next score.
    """
    finite, start = float(jnp.finfo(anchor.dtype).max), curve.start(anchor)

    def fits(t):
        return scores.sum(lambda z: curve.masses(z, t, start)) <= total

    low = jnp.clip(top, -finite, finite)
    if isinstance(curve, Edge | Either):  # the largest class alone would have more than all
        low = low - 2 / jnp.maximum(curve.a, 1) - 4 * float(jnp.finfo(top.dtype).eps) * abs(low)
    else:
        low = filled(top, -jnp.inf)
    low = jnp.where(curve.from_edge, jnp.minimum(low, top), top)
    threshold = least_float(fits, low, top, scores.anywhere)
    edge = -scores.max(lambda z: jnp.where(z >= threshold, -z, -jnp.inf))
    return jnp.where(curve.from_edge & (top == top), edge, anchor)


def _search(curve, scores, anchor, total, place, slope, precision, most):
    """Secant steps on the gap, kept inside the bracket that its signs give; one sum a step.

    A row is finished where its gap is below `precision`, or where the step about to be taken will
    bring it there: what a secant leaves is of the order of the last two gaps' product.
    """
    eps = float(jnp.finfo(anchor.dtype).eps)
    near = eps ** (1 / curve.order)
    solvable = anchor > -jnp.inf

    def unfinished(state):
        count, *_, active = state
        return (count < most) & scores.anywhere(active)

    def advance(state):
        count, place, step, last, slope, left, right, _ = state
        gap = curve.gap(scores.sum(lambda z: curve.masses(z, anchor, place)), total)
        size = jnp.abs(gap)
        # The ends of the bracket are given by their distances from here.
        left, right = jnp.where(gap < 0, 0, left), jnp.where(gap > 0, 0, right)
        close = (size <= precision) | ((size <= near) & (size * jnp.abs(last) <= eps))
        active = solvable & ~close & (right - left > eps * eps)
        change = (gap - last) / jnp.where(step == 0, 1, step)
        # A difference of gaps that is all rounding tells nothing of the slope.
        tells = (step != 0) & (change > 0) & (jnp.abs(gap - last) > 16 * eps)
        slope = jnp.where(tells, change, slope)
        ahead = -gap / slope
        # Without an upper end the steps grow; with both, one that leaves the bracket, and now and
        # then one in any case, halves it.
        ahead = jnp.where(active & jnp.isinf(right), jnp.maximum(ahead, -2 * left), ahead)
        outside = (ahead <= left) | (ahead >= right) | (count % 8 == 7)
        halve = outside & active & jnp.isfinite(left) & jnp.isfinite(right)
        ahead = jnp.where(halve, (left + right) / 2, ahead)
        ahead = jnp.where(solvable & jnp.isfinite(ahead), ahead, 0)
        place = curve.move(place, ahead)
        return count + 1, place, ahead, gap, slope, left - ahead, right - ahead, active

    infinity = filled(anchor, jnp.inf)
    state = (0, place, filled(anchor, 0), filled(anchor, 1 / eps), slope, -infinity, infinity)
    _, place, _, _, slope, *_ = jax.lax.while_loop(unfinished, advance, (*state, anchor == anchor))
    return place, slope
