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

from jsoftmax.core._named_trees import changes_of
from jsoftmax.core._solved_row import SolvedRow, mean_of
from jsoftmax.losses._log_loss import ALONE
from jsoftmax.vocabulary.linear._block_sizes import fits, tokens_backward
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._linear_scores import moved_scores
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._token_blocks import by_tokens, sum_by_classes
from jsoftmax.vocabulary.linear._token_rows import (
    along_regularizer,
    masses_of,
    pull,
    solved,
)
from jsoftmax.vocabulary.linear._token_targets import label


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def outcomes(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Outcome, SolvedRow]:
    """The losses of all tokens, and their solved rows, which are to be taken as fixed."""
    # Split as in `_over_classes`, for one copy of the features in blocks instead of two.
    results = by_tokens(
        lambda trees: solved(rule, *trees), rule.block_tokens, (moving, fixed), rule.many_tokens
    )
    tokens = moving.features.shape[0]
    chex.assert_shape(jax.tree.leaves(results), (tokens, 1))  # numbers of a row, and no row
    return results


@partial(outcomes.defjvp, symbolic_zeros=True)
def _outcomes_jvp(rule, primals, tangents):
    moving, fixed = primals
    changes = changes_of(tangents[0])
    outcome, row = outcomes(rule, moving, fixed)
    still = jax.tree.map(jnp.zeros_like, (outcome, row))
    if not jax.tree.leaves(changes):
        return (outcome, row), still
    known = _following(rule, moving, fixed, row)

    def sums(moving, fixed, known, changes):
        row, outcome = known
        z, d_z = moved_scores(moving, fixed, changes, rule)
        p = masses_of(rule, moving, fixed, row).of(z)
        along = along_regularizer(rule, moving, fixed, changes, z, p, row)
        terms = [] if along is None else [along]
        if d_z is not None:
            terms.append(pull(rule, moving, fixed, z, row, outcome) * d_z)
        d_loss = _row_sum(sum(terms, jnp.zeros_like(z)))
        if not rule.statistics:
            return d_loss, None, None
        assert d_z is not None  # a cross-entropy has no other change
        # Of H = −Σ p log p it is −Σ p (log p + H) ż, since Σ ṗ = 0.
        log_p = jnp.where(p > 0, z - row.tau, 0)
        d_entropy = -_row_sum(p * (log_p + outcome.entropy) * d_z)
        return d_loss, _row_sum(p * d_z), d_entropy

    trees = (moving, fixed, changes, known, outcome)
    d_loss, d_log_partition, d_entropy = _over_classes(rule, sums, trees)
    tangent = still[0]._replace(
        loss=d_loss, log_partition=d_log_partition, entropy=d_entropy
    )
    return (outcome, row), (tangent, still[1])


# Rows are known already: only how they move, of which second derivatives are made, costs.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _following(rule: Rule, moving: Moving, fixed: Fixed, row: SolvedRow) -> SolvedRow:
    return row


@partial(_following.defjvp, symbolic_zeros=True)
def _following_jvp(rule, primals, tangents):
    # Of a row move τ and the mass of all classes but one, the latter as Σ s (d − τ̇) over them.
    moving, fixed, row = primals
    changes = changes_of(tangents[0])
    known = _following(rule, moving, fixed, row)
    still = jax.tree.map(jnp.zeros_like, row)
    if not jax.tree.leaves(changes):
        return known, still

    def sums(moving, fixed, known, changes):
        (row,) = known
        z, d_z = moved_scores(moving, fixed, changes, rule)
        masses = masses_of(rule, moving, fixed, row)
        p = masses.of(z)
        s = masses.slopes(z, p)
        d = masses.change(z, p, d_z, rule.regularizer(changes.parameters), changes.prior)
        assert d is not None  # something moves
        apart = label(rule, fixed)
        others = jnp.where(p > ALONE if apart is None else apart, 0, s)
        return tuple(_row_sum(x) for x in (s * d, s, others * d, others))

    trees = (moving, fixed, changes, known)
    moved, total, others_moved, others = _over_classes(rule, sums, trees)
    d_tau = mean_of(moved, total)
    # Where no other class has mass, and where the label is out of reach, nothing is left to move.
    d_rest = jnp.where(row.rest == 0, 0, others_moved - d_tau * others)
    return known, still._replace(tau=d_tau, rest=d_rest)


def _over_classes(rule: Rule, sums: Any, trees: tuple) -> Any:
    """Sums over all classes, for groups of tokens."""

    def of_group(trees):
        moving, fixed, changes, *known = trees
        return sum_by_classes(rule, sums, moving, fixed, known, changes)

    block = tokens_backward(trees[1].numbers.shape[-1], rule.block_tokens, rule.block_classes)
    if not fits(trees[0].features.shape[0], block):
        of_group = jax.checkpoint(of_group, prevent_cse=False)
    return by_tokens(of_group, block, trees, rule.many_tokens)


def _row_sum(x: Array) -> Array:
    return jnp.sum(x, axis=-1, keepdims=True)
