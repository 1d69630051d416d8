"""Tangents of solved rows, from sums over blocks of classes."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._named_trees import Changes
from jsoftmax.core._solved_row import SolvedRow, mean_of
from jsoftmax.losses._log_loss import ALONE
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._token_rows import masses_of

Moves = tuple[Array, Array, Array, Array]  # Σ s d and Σ s over all classes, and over the rest


def sums_of_moves(
    rule: Rule, moving: Moving, fixed: Fixed, changes: Changes, row: SolvedRow, z: Array,
    d_z: Array | None, apart: Array | None = None,
) -> Moves | None:  # fmt: skip
    """Compute the sums of a block of classes for `moved_row`; None where all tangents are zero.

    The rest are all classes except the one kept `apart`, or the one with almost all of the mass.
    """
    masses = masses_of(rule, moving, fixed, row)
    p = masses.of(z)
    s = masses.slopes(z, p)
    d = masses.change(z, p, d_z, rule.regularizer(changes.parameters), changes.prior)
    if d is None:
        return None
    others = jnp.where(p > ALONE if apart is None else apart, 0, s)
    return row_sum(s * d), row_sum(s), row_sum(others * d), row_sum(others)


def moved_row(still: SolvedRow, row: SolvedRow, moves: Moves | None) -> SolvedRow:
    """Compute the tangent of a row: τ̇, and for the mass of the rest Σ s (d − τ̇) over them."""
    if moves is None:
        return still
    moved, total, others_moved, others = moves
    d_tau = mean_of(moved, total)
    # Where no other class has mass, or the label is far ahead, the tangent is 0.
    d_rest = jnp.where(row.rest == 0, 0, others_moved - d_tau * others)
    return still._replace(tau=d_tau, rest=d_rest)


def row_sum(x: Array) -> Array:
    """Sum over the classes of a block."""
    return jnp.sum(x, axis=-1, keepdims=True)
