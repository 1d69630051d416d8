"""Solve for the threshold τ of p = link(z − τ), Σ p = 1, for every regularizer and kind of row.

`solve` finds the place on a curve where the masses sum to one, with one pass over the row per step.
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
from jsoftmax.core._search import MOST_STEPS, search
from jsoftmax.core.curves import Curve, Edge, Level, Power, Shift

_NEAR_STEPS = 10  # towards the edge of the support
_MOST_CLASSES = 16  # tried one by one before bisection


def solve(curve: Curve, scores: Scores) -> tuple[Array, Any]:
    """Return the anchor of each row, and the place on the curve where its masses sum to one.

    Scores are measured from the anchor: the maximum, or, for a curve anchored at the edge of the
    support, the smallest score with mass.
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
    chex.assert_equal_shape([anchor, *jax.tree.leaves(place)])  # one of each per row
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
        place, slope = search(curve, scores, anchor, curve.at(x), slope)
        return anchor, place
    anchor, place, _ = _from_top(curve, scores)
    if not isinstance(curve, Shift):
        return anchor, place
    # Where one class has almost all the mass, a sum near one says little about the others.
    found, far = (anchor, place), curve.is_near_one(place)

    def closer():
        bounded = solve_bounded(curve, scores)
        return jax.tree.map(lambda x, y: jnp.where(far, x, y), bounded, found)

    return jax.lax.cond(scores.anywhere(far), closer, lambda: found)


def _from_top(curve, scores, precision=None, most=MOST_STEPS):
    """Run `search` with the maximum as the anchor."""
    # The peaks of a row are a row: solve there first, coarsely, then start from that place.
    rows = [scores]
    while (peaks := rows[-1].peaks()) is not None:
        rows.append(peaks)
    top = rows[-1].max()
    level = rows[-1].level_of(top)
    place = slope = None
    if level is not None:
        place = curve.at_level(jnp.minimum(level, curve.highest))
    # The peaks hold almost all the mass of a sparse row, so its threshold is nearly theirs.
    is_sparse = isinstance(curve.order, float) and curve.order < 2
    enough, few = (2**-14, 10) if is_sparse else (2**-9, 6)
    for row in rows[:0:-1]:
        place, slope = search(curve, row, top, place, slope, enough, few)
    return top, *search(curve, scores, top, place, slope, precision, most)


def _edge_near(curve, scores, guess, top) -> Array:
    """Return the smallest score with mass, found class by class from a guess."""

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
