"""Solve a block of queries with all its keys: thresholds, mixtures and residuals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._attention_scores import scores
from jsoftmax.attention._clean import clean
from jsoftmax.attention._folds import fold, like_rows, mixed_values, row_sum
from jsoftmax.attention._score_rows import ground, rows_of
from jsoftmax.core._arg_max import hardened, where_hard
from jsoftmax.core._filled import filled
from jsoftmax.core._scores import WithMore, difference
from jsoftmax.core._solved_row import SolvedRow, below_bound, finite, mean_of
from jsoftmax.core._threshold import solve
from jsoftmax.core.curves import masses_and_slopes


def solved(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Array, SolvedRow]:
    """Return Σ p v of every query of the block, and its solved row."""
    by = _online if rule.is_softmax else _by_threshold
    found = by(rule, moving, fixed)
    if rule.is_clean:
        return found
    # Cleaning few queries' keys would cost more than all else. A non-finite number in a visible
    # key, or in any value, reaches the mixtures, and only then is it done.
    is_finite = jnp.all(jnp.isfinite(found[0]))
    return jax.lax.cond(is_finite, lambda: found, lambda: by(*clean(rule, moving, fixed)))


def _online(rule, moving, fixed):
    """Compute softmax in one pass: rescale the sums whenever the largest score grows."""

    def step(state, trees):
        top, total, mixed = state
        z = scores(*trees, rule=rule)
        # Finite as it is kept for the backward pass, so that exponentials of one block are formed
        # once.
        higher = finite(jnp.maximum(top, jnp.max(z, axis=-1, keepdims=True)))
        weights = jnp.exp(difference(z, higher))
        shrunk = jnp.exp(difference(top, higher))
        return (
            higher,
            total * shrunk + row_sum(weights),
            mixed * shrunk + mixed_values(weights, trees[0].v, trees[1], rule),
        )

    lowest, zero = (like_rows(moving, fixed, value) for value in (-jnp.inf, 0))
    width = moving.v.shape[-1 if rule.are_few else -2]
    state = (lowest, zero, jnp.broadcast_to(zero, (*zero.shape[:-1], width)))
    top, total, mixed = fold(rule, step, state, (moving, fixed))
    if rule.axis_name is not None:
        higher = rule.classes.max(top)
        shrunk = jnp.exp(difference(top, higher))
        total, mixed = jax.lax.psum((total * shrunk, mixed * shrunk), rule.axis_name)
        top = higher
    if moving.sinks is not None:
        higher = jnp.maximum(top, moving.sinks)
        shrunk = jnp.exp(difference(top, higher))
        total = total * shrunk + jnp.exp(difference(moving.sinks + filled(total, 0), higher))
        mixed, top = mixed * shrunk, higher
    some = jnp.where(total == 0, 1, total)
    out, log_total = mixed / some, jnp.log(some)
    tau = jnp.where(total == 0, -jnp.inf, top + log_total)
    return out, SolvedRow(tau, top, top, -log_total, filled(top, 1), out)


def _by_threshold(rule, moving, fixed):
    """Find the threshold by the solver of the mappings; sum in one more pass."""
    sink, row = moving.sinks, rows_of(rule, moving, fixed)
    regularizer = rule.regularizer(moving.numbers)
    hard = rule.hard_rows(fixed.hard)
    top = floor = None
    if hard is not False:
        top, floor = ground(row, sink)
        row = row.hardened(floor)
        sink = None if sink is None else hardened(hard, sink, floor)

    def on_curve(curve):
        anchor, place = solve(curve, row if sink is None else WithMore(row, sink))

        def weights(z, hard):
            p, s = masses_and_slopes(curve, regularizer, z, anchor, place)
            return p, where_hard(hard, p, s)

        def sums(z, moving, fixed):
            p, s = weights(z, rule.hard_rows(fixed.hard))
            mixed, mean = (mixed_values(x, moving.v, fixed, rule) for x in (p, s))
            return mixed, row_sum(s), mean

        mixed, total, mean = row.every(sums)
        if sink is not None:
            total = total + weights(sink, hard)[1]
        level = curve.log_masses(anchor, anchor, place)
        # Of a fully masked row, too: ω′ of a link with a bound is infinite at p = 1.
        level = below_bound(jnp.where(anchor == -jnp.inf, 0, level), regularizer)
        return anchor, level, mixed, total, mean_of(mean, total)

    solutions = regularizer.on_curve(rule.classes.anywhere, on_curve)
    anchor, level, out, total, mean = solutions
    tau = jnp.where(anchor > -jnp.inf, anchor - regularizer.log_marginal(level), anchor)
    tau = tau if top is None else where_hard(hard, top, tau)
    floor = anchor if floor is None else where_hard(hard, floor, anchor)
    return out, SolvedRow(tau, floor, anchor, level, total, mean)
