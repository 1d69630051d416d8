"""Σ p v for a block of queries, over their keys block by block, and its one derivative.

With s = slope(p), d = ż − (∂ω′/∂α)(p) α̇ and the escort mean o = Σ s v/Σ s,

    τ̇ = Σ s d/Σ s,    (Σ p v)˙ = Σ s d v − o Σ s d + Σ p v̇,

which needs no weight of another block: each is recomputed from its scores and τ. The sums are
linear in the tangents, and their transpose is the reverse mode, block by block too. For softmax s
is p and o the mixture itself: the backward pass of FlashAttention.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._attention_scores import scores
from jsoftmax.attention._clean import clean
from jsoftmax.attention._folds import key_blocks, mixed_values, recomputed, row_sum, summed
from jsoftmax.attention._key_blocks import looped
from jsoftmax.attention._solve import solved
from jsoftmax.core._filled import filled
from jsoftmax.core._named_trees import along, changes_of
from jsoftmax.core._solved_row import Masses, SolvedRow, mean_of

_OF_SCORES = (
    "q", "k", "bias", "scale", "soft_cap", "of_heads", "of_queries", "of_keys", "whole",
)  # fmt: skip


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def mixture(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Array, SolvedRow]:
    """Return Σ p v of every query, and its solved row. Of the row only τ has a derivative."""
    return looped(solved, rule, (moving, fixed))


def weights(rule: Rule, moving: Moving, fixed: Fixed) -> Array:
    """Return p of every query and key, as one array."""
    _, row = mixture(rule, moving, fixed)
    return _masses(rule, moving, fixed, row.kept()).of(scores(moving, fixed, rule))


@partial(mixture.defjvp, symbolic_zeros=True)
def _mixture_jvp(rule, primals, tangents):
    moving, fixed = primals
    changes = changes_of(tangents[0])
    out, row = mixture(rule, moving, fixed)
    if not rule.is_clean:
        changes = changes._replace(
            **{
                name: jnp.where(jnp.isfinite(getattr(moving, name)), getattr(changes, name), 0)
                for name in ("k", "v")
                if getattr(changes, name) is not None
            }
        )
        rule, moving, fixed = clean(rule, moving, fixed)
    known = row.kept()
    if rule.is_softmax:
        known = known._replace(mean=out)
    else:
        known = _with_escort(rule, moving, fixed, known)
    d_out, d_tau = looped(recomputed(_block_jvp, (0,)), rule, (moving, fixed, known, changes))
    still = jax.tree.map(jnp.zeros_like, row)
    return (out, row), (d_out, still._replace(tau=d_tau))


def _block_jvp(rule, moving, fixed, row, changes):
    """Return the tangents of Σ p v and of τ."""
    if key_blocks(rule, fixed) == 1 and rule.axis_name is None:
        return _row_jvp(rule, moving, fixed, row, changes)

    def sums(trees):
        moving, fixed, changes = trees
        masses = _masses(rule, moving, fixed, row)
        z, d_z = along(lambda m: scores(m, fixed, rule), moving, changes, _OF_SCORES)
        p = masses.of(z)
        moved = _pushed(rule, masses, z, p, d_z, changes)
        mixed = mixed_values(masses.unless_hard(moved), moving.v, fixed, rule)
        if changes.v is not None:
            mixed = mixed + mixed_values(p, changes.v, fixed, rule)
        return row_sum(moved), mixed

    total, mixed = summed(rule, sums, (moving, fixed, changes))
    masses = _masses(rule, moving, fixed, row)
    if moving.sinks is not None:
        z = moving.sinks + filled(row.tau, 0)
        total = total + _pushed(rule, masses, z, masses.of(z), changes.sinks, changes)
    return mixed - masses.unless_hard(row.mean * total), mean_of(total, row.total)


def _row_jvp(rule, moving, fixed, row, changes):
    """Return the tangents of whole rows, Σ s (d − τ̇) v + Σ p v̇, without a mean of values."""
    masses = _masses(rule, moving, fixed, row)
    z, d_z = along(lambda m: scores(m, fixed, rule), moving, changes, _OF_SCORES)
    p = masses.of(z)
    s, d = masses.weights(z, p), masses.change(z, p, d_z, rule.regularizer(changes.numbers))
    moved = jnp.zeros_like(p) if d is None else s * d
    total = row_sum(moved)
    if moving.sinks is not None:
        sink = moving.sinks + filled(row.tau, 0)
        total = total + _pushed(rule, masses, sink, masses.of(sink), changes.sinks, changes)
    d_tau = mean_of(total, row.total)
    mixed = mixed_values(masses.unless_hard(moved - s * d_tau), moving.v, fixed, rule)
    if changes.v is not None:
        mixed = mixed + mixed_values(p, changes.v, fixed, rule)
    return mixed, d_tau


def _masses(rule, moving, fixed, row):
    return Masses(rule.regularizer(moving.numbers), row, rule.hard_rows(fixed.hard))


def _pushed(rule, masses, z, p, d_z, changes):
    """Return s d, the change of p at a fixed threshold."""
    d = masses.change(z, p, d_z, rule.regularizer(changes.numbers))
    return jnp.zeros_like(p) if d is None else masses.weights(z, p) * d


# The escort is known already: only its derivative costs, and only second derivatives need that.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_escort(rule: Rule, moving: Moving, fixed: Fixed, row: SolvedRow) -> SolvedRow:
    return row


@_with_escort.defjvp
def _with_escort_jvp(rule, primals, tangents):
    (moving, fixed, row), (d_moving, _, d_row) = primals, tangents

    def escort(moving, tau):
        return looped(recomputed(_block_escort, (0,)), rule, (moving, fixed, row._replace(tau=tau)))

    _, (total, mean) = jax.jvp(escort, (moving, row.tau), (d_moving, d_row.tau))
    return row, d_row._replace(total=total, mean=mean)


def _block_escort(rule, moving, fixed, row):
    """Return Σ s and Σ s v/Σ s."""

    def sums(trees):
        moving, fixed = trees
        masses = _masses(rule, moving, fixed, row)
        z = scores(moving, fixed, rule)
        s = masses.weights(z, masses.of(z))
        return row_sum(s), mixed_values(s, moving.v, fixed, rule)

    total, mixed = summed(rule, sums, (moving, fixed))
    if moving.sinks is not None:
        masses = _masses(rule, moving, fixed, row)
        z = moving.sinks + filled(row.tau, 0)
        total = total + masses.weights(z, masses.of(z))
    return total, mean_of(mixed, total)
