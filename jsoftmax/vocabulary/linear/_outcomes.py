"""The losses of all tokens, of which no row outlives its block, and their one derivative.

With ∂L/∂z = Σwy·p − wy, which p alone determines,

    L̇ = Σ (∂L/∂z) ż + (∂Ω(y)/∂θ − ∂Ω(p)/∂θ) θ̇,    ż = ḣ W + h Ẇ + ḃ,

for the parameters θ of the regularizer,

so the tangent is a sum over blocks of classes in which scores and p are computed again from the
threshold of the row. It is linear in what moves, and its transpose is the reverse mode, block by
block too: one product more than the three that are needed in any case.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._simplex import effective_tangent, relative_to, times_prior
from jsoftmax.losses._log_loss import ALONE
from jsoftmax.vocabulary.linear._found import Found, Outcome
from jsoftmax.vocabulary.linear._linear_arguments import Changes, Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._linear_scores import moved_scores
from jsoftmax.vocabulary.linear._token_blocks import by_tokens, fits, groups, sum_by_classes
from jsoftmax.vocabulary.linear._token_rows import (
    along_regularizer,
    movable,
    probabilities_at,
    pull,
    solved,
)
from jsoftmax.vocabulary.linear._token_targets import label


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def outcomes(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Outcome, Found]:
    """The losses of all tokens, and what is found of their rows, which is to be taken as fixed."""
    found = by_tokens(lambda trees: solved(rule, *trees), rule.block_tokens, (moving, fixed))
    tokens = moving.features.shape[0]
    chex.assert_shape(jax.tree.leaves(found), (tokens, 1))  # numbers of a row, and no row
    return found


@partial(outcomes.defjvp, symbolic_zeros=True)
def _outcomes_jvp(rule, primals, tangents):
    moving, fixed = primals
    changes = _changes(tangents[0])
    outcome, found = outcomes(rule, moving, fixed)
    still = jax.tree.map(jnp.zeros_like, (outcome, found))
    if not jax.tree.leaves(changes):
        return (outcome, found), still
    known = _following(rule, moving, fixed, found)

    def sums(moving, fixed, known, changes):
        known, outcome = known
        z, d_z = moved_scores(moving, fixed, changes, rule)
        p = probabilities_at(rule, moving, fixed, z, known)
        along = along_regularizer(rule, moving, fixed, changes, z, p, known)
        terms = [] if along is None else [along]
        if d_z is not None:
            terms.append(pull(rule, moving, fixed, z, known) * d_z)
        d_loss = _row_sum(sum(terms, jnp.zeros_like(z)))
        if not rule.statistics:
            return Outcome(d_loss, None, None)
        assert d_z is not None  # a cross-entropy has no other change
        # Of H = −Σ p log p it is −Σ p (log p + H) ż, since Σ ṗ = 0.
        log_p = jnp.where(p > 0, z - known.tau, 0)
        d_entropy = -_row_sum(p * (log_p + outcome.entropy) * d_z)
        return Outcome(d_loss, _row_sum(p * d_z), d_entropy)

    trees = (moving, fixed, known, outcome, changes)
    tangent = _over_classes(rule, sums, trees)
    return (outcome, found), (tangent, still[1])


# Rows are known already: only how they move, of which second derivatives are made, costs.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _following(rule: Rule, moving: Moving, fixed: Fixed, found: Found) -> Found:
    return found


@partial(_following.defjvp, symbolic_zeros=True)
def _following_jvp(rule, primals, tangents):
    # τ̇ = Σ s d/Σ s, and the mass of all classes but one moves as Σ s (d − τ̇) over them, where d is
    # ż and what parameters and prior add to it.
    moving, fixed, found = primals
    changes = _changes(tangents[0])
    known = _following(rule, moving, fixed, found)
    still = jax.tree.map(jnp.zeros_like, found)
    if not jax.tree.leaves(changes):
        return known, still

    def sums(moving, fixed, known, changes):
        known, _ = known
        z, d_z = moved_scores(moving, fixed, changes, rule)
        p = probabilities_at(rule, moving, fixed, z, known)
        regularizer, r = rule.regularizer(moving.parameters), relative_to(moving.prior, p)
        s = times_prior(moving.prior, regularizer.slope(r)) * movable(rule, fixed, known)
        d_regularizer = rule.regularizer(changes.parameters)
        d = effective_tangent(r, d_z, regularizer, d_regularizer, s, changes.prior)
        assert d is not None  # something moves
        apart = label(rule, fixed)
        others = jnp.where(p > ALONE if apart is None else apart, 0, s)
        return tuple(_row_sum(x) for x in (s * d, s, others * d, others))

    nothing = Changes(None, None, None, None, None, None, ())
    moved, slopes, others_moved, others = _over_classes(
        rule, sums, (moving, fixed, known, nothing, changes)
    )
    d_tau = moved / jnp.where(slopes > 0, slopes, 1)
    # Where no other class has mass, and where the label is out of reach, nothing is left to move.
    d_rest = jnp.where(found.rest == 0, 0, others_moved - d_tau * others)
    return known, still._replace(tau=d_tau, rest=d_rest)


def _over_classes(rule: Rule, sums: Any, trees: tuple) -> Any:
    """Sums over all classes, for groups of tokens."""

    def of_group(trees):
        moving, fixed, known, outcome, changes = trees
        return sum_by_classes(rule, sums, moving, fixed, (known, outcome), changes)

    block = groups(rule, trees[1].numbers.shape[-1])
    if not fits(trees[0].features.shape[0], block):
        of_group = jax.checkpoint(of_group, prevent_cse=False)
    return by_tokens(of_group, block, trees)


def _row_sum(x: Array) -> Array:
    return jnp.sum(x, axis=-1, keepdims=True)


def _changes(tangents: Moving) -> Changes:
    """The tangents, None where something does not move."""

    def change(tangent: Any) -> Any:
        if isinstance(tangent, tuple):
            return tuple(change(d) for d in tangent)
        return None if isinstance(tangent, SymbolicZero) else tangent

    return Changes(*(change(d) for d in tangents))
