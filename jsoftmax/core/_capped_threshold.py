"""Find the threshold of a row with caps, inside a bracket.

Classes at or above a *pivot* are counted by their deficits u − p, the others by their masses. With
the mass that is left when all classes of the first kind are full, rest = total − Σ u,

    below = Σ p + (−rest)₊     and     room = Σ (u − p) + rest₊

are sums of non-negative terms, and equal at the threshold. Nothing cancels, so masses and deficits
are right to a few eps however small they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._floats import least_float
from jsoftmax.core._scores import Scores, difference
from jsoftmax.core.curves import Capped, Shift, two_sum

_MOST_STEPS = 400  # above the steps that halving both the gap and the bracket can take


def solve_capped(curve: Capped, scores: Scores, total: Array, pivot: Array) -> tuple[Array, Any]:
    """Return the anchor of each row, and the place on the curve where its masses sum to `total`.

    The caps above the pivot sum to less than the total, those from the pivot on to at least the
    total: the pivot has mass, and is at or below its cap.
    """
    upper = curve.upper
    above, ties, lower, largest = (
        scores.sum(lambda z: jnp.where(z > pivot, upper, 0)),
        scores.sum(lambda z: jnp.where(z == pivot, upper, 0)),
        scores.sum(lambda z: jnp.where((z <= pivot) & (upper > 0), 1, 0).astype(pivot.dtype)),
        scores.max(lambda z: jnp.where(z >= pivot, upper, 0)),
    )
    missing = total - above
    full = missing > ties / 2
    rest = jnp.where(full, missing - ties, missing)

    def is_full(z):
        return jnp.where(full, z >= pivot, z > pivot)

    def sums(anchor, place):
        """Return `below` and `room`."""

        def mass(z):
            return jnp.where(is_full(z), 0, curve.masses(z, anchor, place))

        def deficit(z):
            return jnp.where(is_full(z), curve.deficits(z, anchor, place), 0)

        return (
            scores.sum(mass) + jnp.maximum(-rest, 0),
            scores.sum(deficit) + jnp.maximum(rest, 0),
        )

    def fits(t):
        below, room = sums(t, curve.start(t))
        return below <= room

    anchor = edge_below(fits, scores, pivot) if curve.from_edge else pivot
    alone = scores.level_of(pivot)  # with a prior the link is not the mass
    most = total if alone is None else total * jnp.exp(alone)
    levels = _levels(missing, lower, jnp.minimum(most, largest))
    low, high = curve.coordinates(*levels)
    if curve.is_shift:
        end = _end_of_shifts(curve, scores, pivot, above + ties, total, alone is None)
        high = jnp.maximum(jnp.minimum(high, end), low)
    guess = jnp.where(full & (anchor == pivot), high, low + (high - low) / 2)
    # An edge is measured by its mass, and all others by logarithms.
    unit = levels[0] if curve.from_edge else 1
    place = _search(curve, sums, anchor, low, guess, high, unit, scores.anywhere)
    if isinstance(curve.curve, Shift):
        tiny = jnp.finfo(pivot.dtype).tiny / jnp.finfo(pivot.dtype).eps
        below, room = sums(anchor, place)
        lost = (jnp.maximum(below, room) < float(tiny)) & (pivot > -jnp.inf)
        place = _by_logarithms(curve, is_full, scores, anchor, place, lost)
    return anchor, place


def solve_bounded(curve: Shift, scores: Scores) -> tuple[Array, Any]:
    """Return the anchor of each row, and the place where its masses sum to one; the link is ≤ 1.

    A score far above the others, or under a prior several of them, takes almost all the mass. The
    masses of the others then follow from the deficits alone.
    """
    top = scores.max()
    one, pivot = filled(top, 1), top
    if scores.level_of(top) is not None:

        def leaves_room(t):
            return scores.sum(lambda z: jnp.where(z > t, 1, 0).astype(z.dtype)) < 1

        lowest = -scores.max(lambda z: jnp.where(z > -jnp.inf, -z, -jnp.inf))
        pivot = least_float(leaves_room, jnp.minimum(lowest, top), top, scores.anywhere)
        pivot = jnp.where(top == top, pivot, top)
    return solve_capped(Capped(curve, jnp.ones((), top.dtype)), scores, one, pivot)


def _by_logarithms(curve, is_full, scores, anchor, place, lost):
    """Return the place from the logarithms of both sums, where these underflow.

    There all links are so far in their tails that the sums are exponentials of the shift, with
    slopes ±1.
    """
    shifts = curve.curve

    def log_mass(z):
        return jnp.where(is_full(z), -jnp.inf, shifts.log_masses(z, anchor, place))

    def log_deficit(z):
        uncounted = ~is_full(z) | (curve.upper < 1)
        return jnp.where(uncounted, -jnp.inf, shifts.log_complements(z, anchor, place))

    def logarithm(of):
        largest = scores.max(of)
        level = jnp.where(largest > -jnp.inf, largest, 0)
        return jnp.log(scores.sum(lambda z: jnp.exp(of(z) - level))) + level

    def moved():
        step = (logarithm(log_deficit) - logarithm(log_mass)) / 2
        return shifts.move(place, jnp.where(lost & jnp.isfinite(step), step, 0))

    return jax.lax.cond(scores.anywhere(lost), moved, lambda: place)


def edge_below(
    fits: Callable[[Array], Array], scores: Scores, high: Array, low: Array | None = None
) -> Array:
    """Return the smallest score with mass: the first at or above the least threshold that fits."""
    low = filled(high, -jnp.inf) if low is None else low
    threshold = least_float(fits, low, high, scores.anywhere)
    edge = -scores.max(lambda z: jnp.where(z >= threshold, -z, -jnp.inf))
    return jnp.where(high == high, edge, high)


def _levels(missing, lower, highest):
    """Return the least and the largest possible mass of the pivot.

    At the least mass, the classes not above the pivot share the missing mass evenly; at the
    largest, the classes from the pivot on are full.
    """
    tiny = float(jnp.finfo(missing.dtype).tiny)
    lowest = jnp.maximum(missing, tiny) / jnp.maximum(lower, 1)
    return lowest, jnp.maximum(highest, lowest)


def _end_of_shifts(curve, scores, pivot, count, total, is_plain):
    """Return a shift that is large enough, for a largest cap that no shift reaches.

    Where all caps are 1, the M classes from the pivot on must leave M − k, or the mass that the
    classes below the pivot take. They leave at most M link(−μ), and the next class takes
    link(v + μ), which is more at the place log(2M) − v/2.
    """
    tiny = float(jnp.finfo(pivot.dtype).tiny)
    enough = filled(pivot, -math.log(tiny))
    if not is_plain:
        return enough
    left = count - total
    behind = difference(scores.max(lambda z: jnp.where(z < pivot, z, -jnp.inf)), pivot)
    behind = jnp.maximum(behind, -float(jnp.finfo(pivot.dtype).max))
    end = jnp.log(2 * jnp.maximum(count, 1)) - behind / 2
    share = jnp.maximum(left, tiny) / jnp.maximum(count, 1)
    at_rest = -curve.curve.at_level(jnp.log(share))[0]
    end = jnp.where(left > 0, jnp.minimum(at_rest, end), end)
    least = -scores.max(lambda z: jnp.where(z > -jnp.inf, -curve.upper, -jnp.inf))
    return jnp.where(least >= 1, end, enough)


def _search(curve, sums, anchor, low, guess, high, unit, anywhere):
    """Take secant steps until the two sums agree or the bracket around the root is empty.

    The bracket counts as empty when it is at most an eps of the `unit` of coordinates wide. At
    least every other step halves the gap or the bracket: where a secant does neither, a bisection
    follows. A finished row stays where it is, so that it does not depend on its neighbours.
    """
    eps = float(jnp.finfo(anchor.dtype).eps)

    def advance(state):
        count, at, step, last, width, slope, low, high, active = state
        below, room = sums(anchor, curve.at(*at))
        gap = below - room if curve.from_edge else _log_ratio(below, room)
        low = tuple(jnp.where(gap < 0, new, old) for new, old in zip(at, low, strict=True))
        high = tuple(jnp.where(gap > 0, new, old) for new, old in zip(at, high, strict=True))
        left, right = ((end[0] - at[0]) + (end[1] - at[1]) for end in (low, high))
        agree = jnp.abs(below - room) <= 4 * eps * jnp.maximum(below, room)
        empty = right - left <= eps * unit
        # A class at the edge that has no mass at all is at the lower end.
        at = tuple(
            jnp.where(active & ~agree & empty, end, x) if curve.from_edge else x
            for end, x in zip(low, at, strict=True)
        )
        active = active & ~agree & (jnp.abs(gap) > 0) & ~empty
        change = (gap - last) / jnp.where(step == 0, 1, step)
        slope = jnp.where((step != 0) & (change > 0), change, slope)
        ahead = -gap / slope
        slow = (jnp.abs(gap) > jnp.abs(last) / 2) & (right - left > width / 2)
        inside = (ahead > left) & (ahead < right) & ~slow
        ahead = jnp.where(inside, ahead, left + (right - left) / 2)
        ahead = jnp.where(active, ahead, 0)
        at = two_sum(at[0], at[1] + ahead)
        return count + 1, at, ahead, gap, right - left, slope, low, high, active

    def unfinished(state):
        return (state[0] < _MOST_STEPS) & anywhere(state[-1])

    zero = filled(anchor, 0)
    at, low, high = ((x + zero, zero) for x in (guess, low, high))
    state = (0, at, zero, zero + float(jnp.finfo(anchor.dtype).max), high[0] - low[0], zero + 1)
    solvable = (anchor > -jnp.inf) & (high[0] >= low[0])
    _, at, *_ = jax.lax.while_loop(unfinished, advance, (*state, low, high, solvable))
    return curve.at(*at)


def _log_ratio(below, room):
    """Return log(below/room), with the sign of the difference however close they are."""
    tiny = float(jnp.finfo(room.dtype).tiny)
    below, room = jnp.maximum(below, tiny), jnp.maximum(room, tiny)
    excess = below - room
    near = jnp.abs(excess) < room / 4
    return jnp.where(
        near, jnp.log1p(jnp.where(near, excess, 0) / room), jnp.log(below) - jnp.log(room)
    )
