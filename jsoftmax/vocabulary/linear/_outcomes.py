"""Losses of all tokens, with rows of scores only within blocks, and their derivative.

With ∂L/∂z = Σwy·p − wy, a function of p alone,

    L̇ = Σ (∂L/∂z) ż + (∂Ω(y)/∂θ − ∂Ω(p)/∂θ) θ̇,    ż = ḣ W + h Ẇ + ḃ,

for the parameters θ of the regularizer. So the tangent is a sum over blocks of classes; each block
recomputes scores and p from the threshold of the row. The tangent is linear in ż and θ̇, and its
transpose, also in blocks, is the reverse mode: one product more than the three of dense logits.
"""

from __future__ import annotations

from functools import partial

import chex
import jax
import jax.numpy as jnp

from jsoftmax.core._named_trees import changes_of
from jsoftmax.core._solved_row import SolvedRow
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._linear_scores import moved_scores
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._row_moves import moved_row, row_sum, sums_of_moves
from jsoftmax.vocabulary.linear._token_blocks import by_tokens, over_classes
from jsoftmax.vocabulary.linear._token_rows import (
    along_regularizer,
    masses_of,
    pull,
    solved,
)
from jsoftmax.vocabulary.linear._token_targets import label


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def outcomes(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Outcome, SolvedRow]:
    """Compute the losses of all tokens, and their solved rows, to be treated as constants."""
    # Split as in `over_classes`, for one copy of the features in blocks instead of two.
    results = by_tokens(
        lambda trees: solved(rule, *trees), rule.block_tokens, (moving, fixed), rule.many_tokens
    )
    tokens = moving.features.shape[0]
    chex.assert_shape(jax.tree.leaves(results), (tokens, 1))  # a few numbers per row, no whole row
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

    def sums(tables, known, changes):
        ((moving, fixed),), (row, outcome), (changes,) = tables, known, changes
        z, d_z = moved_scores(moving, fixed, changes, rule)
        p = masses_of(rule, moving, fixed, row).of(z)
        along = along_regularizer(rule, moving, fixed, changes, z, p, row)
        terms = [] if along is None else [along]
        if d_z is not None:
            terms.append(pull(rule, moving, fixed, z, row, outcome) * d_z)
        d_loss = row_sum(sum(terms, jnp.zeros_like(z)))
        if not rule.statistics:
            return d_loss, None, None
        assert d_z is not None  # a cross-entropy depends on z alone
        # Of H = −Σ p log p it is −Σ p (log p + H) ż, since Σ ṗ = 0.
        log_p = jnp.where(p > 0, z - row.tau, 0)
        d_entropy = -row_sum(p * (log_p + outcome.entropy) * d_z)
        return d_loss, row_sum(p * d_z), d_entropy

    d_loss, d_log_partition, d_entropy = over_classes(
        (rule,), sums, ((moving, fixed),), (changes,), (known, outcome)
    )
    tangent = still[0]._replace(loss=d_loss, log_partition=d_log_partition, entropy=d_entropy)
    return (outcome, row), (tangent, still[1])


# The rows are known already: only their tangents, needed for second derivatives, cost anything.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _following(rule: Rule, moving: Moving, fixed: Fixed, row: SolvedRow) -> SolvedRow:
    return row


@partial(_following.defjvp, symbolic_zeros=True)
def _following_jvp(rule, primals, tangents):
    moving, fixed, row = primals
    changes = changes_of(tangents[0])
    known = _following(rule, moving, fixed, row)
    still = jax.tree.map(jnp.zeros_like, row)
    if not jax.tree.leaves(changes):
        return known, still

    def sums(tables, known, changes):
        ((moving, fixed),), (row,), (changes,) = tables, known, changes
        z, d_z = moved_scores(moving, fixed, changes, rule)
        return sums_of_moves(rule, moving, fixed, changes, row, z, d_z, label(rule, fixed))

    moves = over_classes((rule,), sums, ((moving, fixed),), (changes,), (known,))
    return known, moved_row(still, row, moves)
