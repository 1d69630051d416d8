"""τ and every log p of rows in memory at once, for regularizers whose link is not known.

A search for τ that inverts ω′ anew at every step does so to rounding long before τ is known. Here
each class keeps x = log p, and a step of the search is one of the inversion too: with the marginal
t = z − τ of now, x goes one step towards ω′(eˣ) = t, and τ one of Newton's towards Σ eˣ = 1. Both
together converge quadratically, with one evaluation of ω′ and of the slope a step.

The rows of which nothing proves the answer are left to the search with a bracket.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._curves import Level, LevelPlace, two_sum
from jsoftmax.core._filled import filled
from jsoftmax.core._inverse_marginal import LOWEST, bend_of, stepped
from jsoftmax.core._scores import Dense, difference

_MOST_STEPS = 50
_PATIENCE = 8


class _State(NamedTuple):
    count: Array | int
    shift: Array  # the marginal of the largest score, as a sum of two
    rest: Array
    x: Array  # log p of every class,
    top: Array  # and of the largest score
    low: Array  # shifts between which the answer is
    high: Array
    active: Array


def solve_jointly(curve: Level, scores: Dense) -> tuple[Array, LevelPlace, Array]:
    """The maximum of each row, the place where its masses sum to one, and where that is not sure.

    The place holds log p, from which `curve.masses` then has one step to go.
    """
    regularizer, anchor = curve.regularizer, scores.max()
    eps = float(jnp.finfo(anchor.dtype).eps)
    v = difference(scores.values, anchor)
    bottom = regularizer.marginal(filled(anchor, 0))
    # e^λ of the largest score is at least what equal scores have, at most what it has alone.
    alone = scores.level_of(anchor)
    alone = filled(anchor, 0) if alone is None else alone
    count = scores.sum(lambda z: (z > -jnp.inf).astype(z.dtype))
    even = jnp.minimum(-jnp.log(jnp.where(count > 0, count, 1)), alone)
    start = (even + alone) / 2

    def unfinished(state):
        return (state.count < _MOST_STEPS) & scores.anywhere(state.active)

    def advance(state):
        t = (v + state.shift) + state.rest
        some = t > bottom
        step = stepped(regularizer, state.x, t, bottom)
        x = jnp.where(some, jnp.clip(state.x + step.ahead, LOWEST, alone), state.x)
        p = jnp.where(some, jnp.exp(x), 0)
        mass, slope = scores.sum(lambda _: p), scores.sum(lambda _: p * step.slope_ahead)
        gap = jnp.log(mass)
        size = scores.max(lambda _: jnp.where(some & (x > LOWEST), step.size, 0))
        # A marginal is rounded, and where p is steep the sum cannot be nearer to one than that.
        is_solved = jnp.abs(gap) <= eps * jnp.maximum(4, jnp.abs(state.shift) * slope / mass)
        # The gap has the right sign where the classes moved by less.
        unsure = scores.sum(lambda _: p * jnp.minimum(jnp.abs(step.ahead), 1))
        is_sure = unsure <= jnp.abs(mass - 1) / 2
        low = jnp.where(is_sure & (gap < 0), state.shift, state.low)
        high = jnp.where(is_sure & (gap > 0), state.shift, state.high)
        # Newton's step for (Σ p)^a, which is almost straight where p is almost a power of t.
        own = stepped(regularizer, state.top, state.shift + state.rest, bottom)
        top = jnp.clip(state.top + own.ahead, LOWEST, alone)
        a = jnp.clip(bend_of(regularizer, top), -1, 2)
        a = jnp.where(jnp.abs(a) < 2**-6, 2**-6, a)
        ahead = jnp.expm1(-a * gap) / a * mass / slope
        new = state.shift + ahead
        outside = (new <= low) | (new >= high)
        ahead = jnp.where(outside, (jnp.where(new <= low, low, high) - state.shift) / 2, ahead)
        # Classes that enter and leave the support by turns are waited for.
        waits = is_solved | (~is_sure & (state.count >= _PATIENCE))
        ahead = jnp.where(waits | ~jnp.isfinite(ahead), 0, ahead)
        shift, rest = two_sum(state.shift, state.rest + ahead)
        active = (anchor > -jnp.inf) & ~(is_solved & (size <= 16 * eps))
        return _State(state.count + 1, shift, rest, x, top, low, high, active)

    shift = regularizer.log_marginal(start)
    low, high = (regularizer.log_marginal(x) for x in (even, alone))
    low, high = low - (1 + jnp.abs(low)) * 16 * eps, high + (1 + jnp.abs(high)) * 16 * eps
    state = _State(
        0, shift, filled(anchor, 0), filled(v, 0) + start, start, low, high, anchor == anchor
    )
    state = jax.lax.while_loop(unfinished, advance, state)
    # The place is a log-mass: what that of the largest score lacks of the shift is its rest.
    short = (state.shift - regularizer.log_marginal(state.top)) + state.rest
    rest = short * regularizer.relative_slope(state.top)
    place = LevelPlace(state.top, jnp.where(jnp.isfinite(rest), rest, 0), state.x)
    return anchor, place, state.active
