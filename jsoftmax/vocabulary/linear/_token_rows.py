"""Whole rows of scores for a block of tokens: their losses, and what derivatives need of them."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._arg_max import floor_of, highest, of_whole_rows, only_highest
from jsoftmax.core._filled import filled
from jsoftmax.core._known import Threshold, masses_at
from jsoftmax.core._simplex import along_parameters, height, relative_to, times_prior
from jsoftmax.losses._fenchel_young import attained, perceptron, prediction
from jsoftmax.losses._log_loss import surplus
from jsoftmax.vocabulary.linear._found import Found, Outcome
from jsoftmax.vocabulary.linear._likelihood import log_losses
from jsoftmax.vocabulary.linear._linear_arguments import Changes, Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._linear_scores import scores
from jsoftmax.vocabulary.linear._token_targets import target_block


def solved(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Outcome, Found]:
    """The losses of a block of tokens, each with all its classes."""
    return solved_row(rule, moving, fixed, scores(moving, fixed, rule))


def solved_row(rule: Rule, moving: Moving, fixed: Fixed, z: Array) -> tuple[Outcome, Found]:
    """The losses of rows of scores, and what is found of the rows."""
    if rule.is_divergence:
        return _divergences(rule, moving, fixed, z)
    return log_losses(rule, fixed, z)


def _divergences(rule: Rule, moving: Moving, fixed: Fixed, z: Array) -> tuple[Outcome, Found]:
    """Fenchel–Young losses."""
    classes, regularizer = rule.classes, rule.regularizer(moving.parameters)
    y = target_block(fixed, z)
    top = floor = classes.max(z)
    if rule.is_hard or fixed.hard is not None:
        lowest = floor_of(of_whole_rows(highest(z), classes))
        floor = lowest if fixed.hard is None else jnp.where(fixed.hard, lowest, top)
    soft = hardened(rule, fixed, z, floor)
    p, log_p, rest = prediction(soft, moving.prior, regularizer, classes)
    if rule.is_hard:
        loss = perceptron(z, y, p, top, classes)
    else:
        loss = attained(p, log_p, rest, z, y, moving.prior, regularizer, classes)
        if fixed.hard is not None:
            loss = jnp.where(fixed.hard, perceptron(z, y, p, top, classes), loss)
    anchor, level = _anchored(classes, regularizer, soft, p, _relative(log_p, moving.prior))
    tau = jnp.where(anchor > -jnp.inf, anchor - regularizer.log_marginal(level), anchor)
    w = fixed.class_weights
    weight = filled(top, 1) if w is None else classes.sum(w * y)
    return Outcome(loss, None, None), Found(tau, floor, anchor, level, rest, weight)


def hardened(rule: Rule, fixed: Fixed, z: Array, floor: Array) -> Array:
    """Scores of which only the largest are left, where α is ∞."""
    if not rule.is_hard and fixed.hard is None:
        return z
    ties = only_highest(z, floor)
    return ties if fixed.hard is None else jnp.where(fixed.hard, ties, z)


def probabilities_at(rule: Rule, moving: Moving, fixed: Fixed, z: Array, found: Found) -> Array:
    """p of any block of scores, from what is known of the rows."""
    regularizer = rule.regularizer(moving.parameters)
    threshold = Threshold(found.tau, found.anchor, found.level)
    soft = hardened(rule, fixed, z, found.floor)
    masses = masses_at(regularizer, soft, threshold, movable(rule, fixed, found))
    return times_prior(moving.prior, masses)


def movable(rule: Rule, fixed: Fixed, found: Found) -> Array:
    """1, but 0 for a row whose p is a limit that no finite change of scores alters."""
    ones = jnp.where(found.floor < jnp.inf, 1, 0).astype(found.tau.dtype)
    if rule.is_hard:
        return jnp.zeros_like(ones)
    return ones if fixed.hard is None else jnp.where(fixed.hard, 0, ones)


def pull(rule: Rule, fixed: Fixed, z: Array, p: Array, found: Found) -> Array:
    """∂L/∂z, of a divergence but for the weight of its row."""
    y = target_block(fixed, z)
    if rule.is_divergence:
        slope = surplus(p, found.rest, y, 1.0)
    else:
        y = y if fixed.class_weights is None else y * fixed.class_weights
        slope = surplus(p, found.rest, y, found.weight)
    if fixed.z_loss is not None:
        offset = jnp.where(found.tau == -jnp.inf, 0, found.tau)
        slope = slope + 2 * fixed.z_loss * offset * p
    return jnp.where(z > -jnp.inf, slope, 0)


def along_regularizer(
    rule: Rule, moving: Moving, fixed: Fixed, changes: Changes, z: Array, p: Array, found: Found
) -> Array | None:
    """What moves of L with parameters and prior while z stays, an entry a class; None for nothing.

    It is (∂ω/∂θ(y) − ∂ω/∂θ(p)) θ̇, and with a prior q what `height` says of q̇.
    """
    if not rule.is_divergence or rule.is_hard:
        return None
    y, prior = target_block(fixed, z), moving.prior
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
    still = found.anchor == -jnp.inf
    return jnp.where(still if fixed.hard is None else still | fixed.hard, 0, along)


def _relative(log_p, prior):
    """log(p/q)."""
    return log_p if prior is None else log_p - jnp.log(jnp.where(prior > 0, prior, 1))


def _anchored(classes, regularizer, z, p, log_p):
    """The score from which the curve measures others, and its log-mass."""
    at_edge = regularizer.anchors_at_edge()
    anchor, level = classes.max(z), classes.max(log_p)
    if regularizer.bound < jnp.inf:  # at 0, where the marginal has no bound, τ would be lost
        level = jnp.minimum(level, -float(jnp.finfo(level.dtype).tiny))
    if at_edge is not False:
        edge = -classes.max(jnp.where(p > 0, -z, -jnp.inf))
        edge_level = classes.max(jnp.where(z == edge, log_p, -jnp.inf))
        from_edge = at_edge & (anchor > -jnp.inf) & (anchor < jnp.inf)
        anchor = jnp.where(from_edge, edge, anchor)
        level = jnp.where(from_edge, edge_level, level)
    return anchor, jnp.where(anchor == -jnp.inf, 0, level)
