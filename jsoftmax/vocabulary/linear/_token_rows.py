"""Losses of a block of tokens from whole rows of scores, and their slopes."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._arg_max import floor_of, hardened, highest, of_whole_rows, where_hard
from jsoftmax.core._conjugate import height
from jsoftmax.core._filled import filled
from jsoftmax.core._named_trees import Changes
from jsoftmax.core._relative_mass import relative_to, times_prior
from jsoftmax.core._solved_row import Masses, SolvedRow, below_bound
from jsoftmax.core._tangents import along_parameters
from jsoftmax.losses._fenchel_young import attained, perceptron, prediction, relative_logarithm
from jsoftmax.losses._log_loss import refined_log, surplus
from jsoftmax.vocabulary.linear._likelihood import log_losses
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._linear_scores import scores
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._token_targets import label, target_block


def solved(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Outcome, SolvedRow]:
    """Compute the losses of a block of tokens from whole rows."""
    return solved_row(rule, moving, fixed, scores(moving, fixed, rule))


def solved_row(rule: Rule, moving: Moving, fixed: Fixed, z: Array) -> tuple[Outcome, SolvedRow]:
    """Compute the losses of rows of scores, and the solved rows."""
    if rule.is_divergence:
        return _divergences(rule, moving, fixed, z)
    return log_losses(rule, fixed, z)


class Prediction(NamedTuple):
    """The regularized arg max of whole rows, with the quantities that losses need."""

    z: Array  # the scores; where the map is arg max, 0 for the largest and −∞ for the others
    p: Array
    log_p: Array
    rest: Array  # the mass of all classes except one that has almost all
    t: Array | None  # ω′(p/q) of a link with a bound
    row: SolvedRow


def predicted(rule: Rule, moving: Moving, fixed: Fixed, z: Array) -> Prediction:
    """Solve whole rows of scores."""
    classes, regularizer = rule.classes, rule.regularizer(moving.parameters)
    hard = rule.hard_rows(fixed.hard)
    top = floor = classes.max(z)
    if hard is not False:
        floor = where_hard(hard, floor_of(of_whole_rows(highest(z), classes)), top)
    soft = hardened(hard, z, floor)
    p, log_p, rest, t = prediction(soft, moving.prior, regularizer, classes)
    log_r = refined_log(log_p, p, rest)
    log_r = relative_logarithm(log_r, t, soft, moving.prior, regularizer)
    anchor, level = _anchored(classes, regularizer, soft, p, log_r)
    tau = jnp.where(anchor > -jnp.inf, anchor - regularizer.log_marginal(level), anchor)
    row = SolvedRow(tau, floor, anchor, level, rest=rest)
    return Prediction(soft, p, log_p, rest, t, row)


def _divergences(rule: Rule, moving: Moving, fixed: Fixed, z: Array) -> tuple[Outcome, SolvedRow]:
    """Compute Fenchel–Young losses of whole rows."""
    classes, regularizer = rule.classes, rule.regularizer(moving.parameters)
    hard = rule.hard_rows(fixed.hard)
    y, top = target_block(rule, fixed, z), classes.max(z)
    _, p, log_p, rest, t, row = predicted(rule, moving, fixed, z)
    if hard is True:
        loss = perceptron(z, y, p, top, classes)
    else:
        loss = attained(p, log_p, rest, t, z, y, None, moving.prior, regularizer, classes)
        if hard is not False:
            loss = jnp.where(hard, perceptron(z, y, p, top, classes), loss)
    w = fixed.class_weights
    weight = filled(top, 1) if w is None else classes.sum(w * y)
    return Outcome(loss, None, None, weight), row


def masses_of(rule: Rule, moving: Moving, fixed: Fixed, row: SolvedRow) -> Masses:
    """Return p of any block of scores as a function, from the solved rows."""
    regularizer = rule.regularizer(moving.parameters)
    return Masses(regularizer, row, rule.hard_rows(fixed.hard), moving.prior)


def pull(
    rule: Rule, moving: Moving, fixed: Fixed, z: Array, row: SolvedRow, outcome: Outcome
) -> Array:
    """Compute ∂L/∂z; for a divergence, without the weight of its row."""
    y = target_block(rule, fixed, z)
    if not rule.is_divergence and fixed.class_weights is not None:
        y = y * fixed.class_weights
    # The masses are those of `log_losses`, so that the compiler keeps that array.
    apart, masses = label(rule, fixed), masses_of(rule, moving, fixed, row)
    assert row.rest is not None and outcome.weight is not None
    total = 1.0 if rule.is_divergence else outcome.weight
    slope = surplus(masses.of(z, apart), row.rest, y, total, apart)
    if apart is None or fixed.smoothing is not None:
        slope = jnp.where(z > -jnp.inf, slope, 0)
    if fixed.z_loss is not None:
        offset = jnp.where(row.tau == -jnp.inf, 0, row.tau)
        slope = slope + 2 * fixed.z_loss * offset * masses.of(z)
    return slope


def along_regularizer(
    rule: Rule, moving: Moving, fixed: Fixed, changes: Changes, z: Array, p: Array, row: SolvedRow
) -> Array | None:
    """Compute the tangent of L at fixed z, one entry per class; None where it is zero.

    It is (∂ω/∂θ(y) − ∂ω/∂θ(p)) θ̇, plus the slope by `height` times q̇ for a prior q.
    """
    if not rule.is_divergence or rule.is_hard:
        return None
    y, prior = target_block(rule, fixed, z), moving.prior
    r, u = relative_to(prior, p), relative_to(prior, y)
    regularizer = rule.regularizer(moving.parameters)
    along = along_parameters(
        lambda x: times_prior(prior, x.value(u)) - times_prior(prior, x.value(r)),
        regularizer,
        rule.regularizer(changes.parameters),
    )
    if changes.prior is not None:
        slope = jnp.where(z > -jnp.inf, height(u, regularizer) - height(r, regularizer), 0)
        along = slope * changes.prior + (0 if along is None else along)
    if along is None:
        return None
    still = row.anchor == -jnp.inf
    return jnp.where(still if fixed.hard is None else still | fixed.hard, 0, along)


def _anchored(classes, regularizer, z, p, log_r):
    """Return the anchor of the curve, the origin of other scores, and its log-mass."""
    at_edge = regularizer.anchors_at_edge()
    anchor, level = classes.max(z), below_bound(classes.max(log_r), regularizer)
    if at_edge is not False:
        edge = -classes.max(jnp.where(p > 0, -z, -jnp.inf))
        edge_level = classes.max(jnp.where(z == edge, log_r, -jnp.inf))
        from_edge = at_edge & (anchor > -jnp.inf) & (anchor < jnp.inf)
        anchor = jnp.where(from_edge, edge, anchor)
        level = jnp.where(from_edge, edge_level, level)
    return anchor, jnp.where(anchor == -jnp.inf, 0, level)
