"""Solve for the threshold and every log p together, for regularizers that give no link.

A nested search inverts ω′ to full precision at every step, long before τ is known. Here each class
of a row in memory keeps x = log p, and a step of the search is also a step of the inversion: for
the current marginals t = z − τ, x takes one step towards ω′(eˣ) = t, and τ one Newton step towards
Σ eˣ = 1. Both together converge quadratically, with one evaluation of ω′ and of the slope per step.
Rows that do not converge are solved by the nested search, inside a bracket.

Scores are accessed by `max` and `sum` alone, and x is laid out as they are: split classes stay
split.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._inverse_marginal import LOWEST, inverse_marginal, stepped
from jsoftmax.core._scores import Dense, difference
from jsoftmax.core.curves import Level, LevelPlace, two_sum

_MOST_STEPS = 40
_MOST_CAREFUL_STEPS = 200
_PATIENCE = 8  # steps before τ waits for classes that enter and leave the support


class _Joint(NamedTuple):
    step: Array | int
    shift: Array  # the marginal of the largest score, as a sum of two
    rest: Array
    x: Array  # log p of every class
    low: Array  # shifts that bracket the answer
    high: Array
    active: Array


class _Careful(NamedTuple):
    step: Array | int
    shift: Array
    rest: Array
    x: Array
    left: Array  # distances to the ends of the bracket
    right: Array
    active: Array


def solve_jointly(curve: Level, scores: Dense) -> tuple[Array, LevelPlace]:
    """Return the maximum of each row, and the place where its masses sum to one, with all log p."""
    regularizer, anchor = curve.regularizer, scores.max()
    eps = float(jnp.finfo(anchor.dtype).eps)
    # Clipped against overflow: scores are far below one of +∞, and at the end of its domain ω′ is
    # infinite.
    huge = float(jnp.finfo(anchor.dtype).max) ** 0.8
    v = difference(scores.values, anchor)
    v = jnp.where(v > -jnp.inf, jnp.maximum(v, -huge), v)
    bottom = regularizer.marginal(filled(anchor, 0))
    # The mass of the largest score lies between that of equal scores and all of it.
    alone = scores.level_of(anchor)
    alone = filled(anchor, 0) if alone is None else alone
    count = scores.sum(lambda z: jnp.where(z == z, (z > -jnp.inf).astype(z.dtype), z))
    even = jnp.minimum(-jnp.log(jnp.where(count > 0, count, 1)), alone)
    solvable = count > 0  # False for NaN

    def is_solved(shift, mass, slope):
        # Marginals are rounded, and where p is steep this limits how near to one the sum can be.
        floor = jnp.maximum(4, jnp.abs(shift) * slope / mass)
        return jnp.abs(jnp.log(mass)) <= eps * floor

    def unfinished(state):
        return (state.step < _MOST_STEPS) & scores.anywhere(state.active)

    def advance(state):
        t = (v + state.shift) + state.rest
        some = t > bottom
        step = stepped(regularizer, state.x, t, bottom)
        x = jnp.clip(state.x + step.ahead, LOWEST, alone)
        x = jnp.where(some & (x == x), x, state.x)
        p = jnp.where(some, jnp.exp(x), 0)
        mass, slope = scores.sum(lambda _: p), scores.sum(lambda _: p * step.slope_ahead)
        gap = jnp.log(mass)
        size = scores.max(lambda _: jnp.where(some & (x > LOWEST), step.size, 0))
        solved = is_solved(state.shift, mass, slope)
        # The sign of the gap is reliable if it exceeds the error of the unconverged classes.
        unsure = scores.sum(lambda _: p * jnp.minimum(jnp.abs(step.ahead), 1))
        is_sure = unsure <= jnp.abs(mass - 1) / 2
        low = jnp.where(is_sure & (gap < 0), state.shift, state.low)
        high = jnp.where(is_sure & (gap > 0), state.shift, state.high)
        # Newton's step for (Σ p)^a, which is almost straight where p is almost a power of t.
        a = scores.max(lambda z: jnp.where(z == anchor, step.bend, -jnp.inf))
        a = jnp.clip(jnp.where(a == a, a, 0), -1, 2)
        a = jnp.where(jnp.abs(a) < 2**-6, 2**-6, a)
        ahead = jnp.expm1(-a * gap) / a * mass / slope
        new = state.shift + ahead
        outside = (new <= low) | (new >= high)
        ahead = jnp.where(outside, (jnp.where(new <= low, low, high) - state.shift) / 2, ahead)
        # τ waits for classes that alternately enter and leave the support.
        waits = solved | (~is_sure & (state.step >= _PATIENCE))
        ahead = jnp.where(waits | ~jnp.isfinite(ahead), 0, ahead)
        shift, rest = two_sum(state.shift, state.rest + ahead)
        # A finished row takes this step and then stays, independent of its neighbours.
        shift, rest, x = map(
            partial(jnp.where, state.active), (shift, rest, x), (state.shift, state.rest, state.x)
        )
        active = state.active & solvable & ~(solved & (size <= 16 * eps))
        return _Joint(state.step + 1, shift, rest, x, low, high, active)

    def search(state):
        start = _Careful(
            0, state.shift, state.rest, state.x, filled(anchor, -jnp.inf), filled(anchor, jnp.inf),
            state.active,
        )  # fmt: skip
        found = jax.lax.while_loop(unsolved, search_on, start)
        chosen = partial(jnp.where, state.active)
        return tuple(map(chosen, (found.shift, found.rest, found.x), (shift, rest, state.x)))

    def unsolved(state):
        return (state.step < _MOST_CAREFUL_STEPS) & scores.anywhere(state.active)

    def search_on(state):
        t = (v + state.shift) + state.rest
        x = inverse_marginal(regularizer, t, state.x)
        x = jnp.where(state.active & (x > -jnp.inf), x, state.x)
        p = jnp.where(t > bottom, jnp.exp(x), 0)
        s = p * jnp.where(p > 0, regularizer.relative_slope(x), 0)
        mass, slope = scores.sum(lambda _: p), scores.sum(lambda _: s)
        left = jnp.where(mass < 1, 0, state.left)
        right = jnp.where(mass > 1, 0, state.right)
        ahead = -jnp.log(mass) * mass / slope
        unit = 1 + jnp.abs(state.shift)
        ahead = jnp.where(jnp.isfinite(ahead), ahead, jnp.where(mass > 1, -unit, unit))
        halve = (ahead <= left) | (ahead >= right) | (state.step % 4 == 3)
        halve = halve & jnp.isfinite(left) & jnp.isfinite(right)
        ahead = jnp.where(halve, (left + right) / 2, jnp.clip(ahead, -8 * unit, 8 * unit))
        done = is_solved(state.shift, mass, slope) | (right - left <= eps * eps * unit)
        active = state.active & ~done & (mass == mass)
        ahead = jnp.where(active, ahead, 0)
        shift, rest = two_sum(state.shift, state.rest + ahead)
        return _Careful(state.step + 1, shift, rest, x, left - ahead, right - ahead, active)

    shift, low, high = (regularizer.log_marginal(x) for x in ((even + alone) / 2, even, alone))
    shift = jnp.clip(shift, -huge, huge)
    low, high = low - (1 + jnp.abs(low)) * 16 * eps, high + (1 + jnp.abs(high)) * 16 * eps
    start = filled(v, 0) + (even + alone) / 2
    state = _Joint(0, shift, filled(anchor, 0), start, low, high, anchor == anchor)
    state = jax.lax.while_loop(unfinished, advance, state)
    shift, rest, x = state.shift, state.rest, state.x
    shift, rest, x = jax.lax.cond(
        scores.anywhere(state.active), search, lambda _: (shift, rest, x), state
    )
    t = (v + shift) + rest
    log_p = jnp.where(count == count, jnp.where(t > bottom, x, -jnp.inf), count)
    # The place is the log-mass of the largest score, and the rest of the shift.
    level = jnp.where(count == 0, 0, scores.max(lambda _: log_p))
    rest = ((shift - regularizer.log_marginal(level)) + rest) * regularizer.relative_slope(level)
    return anchor, LevelPlace(level, jnp.where(jnp.isfinite(rest), rest, 0), log_p)
