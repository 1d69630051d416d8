"""The cross-entropy of whole rows: a sum of terms none of which is negative.

With m = max z, and the terms of some classes kept apart from the sum over all others,

    ℓ = log Σ e^(z−m) = log1p(Σ' e^(z−m) + (Σ° e^(z−m) − 1)),
    log p = z − m − ℓ,    Σ w y (−log p) = Σ w y (m − z) + ℓ Σ w y,    H(p) = Σ p (m − z) + ℓ,

where nothing cancels if Σ° has the classes of score m, so that Σ° − 1 is one less than their
number. A loss with one label needs less, and no count: with the label alone in Σ° its −log p is
ℓ = log1p(Σ') where its score is m, and elsewhere m − z_y is not small beside the rounding of ℓ.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._scores import difference
from jsoftmax.core._solved_row import SolvedRow
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Rule
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._token_targets import each_target, label, spread


def log_losses(rule: Rule, fixed: Fixed, z: Array) -> tuple[Outcome, SolvedRow]:
    """Cross-entropies of rows of scores, and the solved rows."""
    classes = rule.classes
    top = classes.max(z)
    is_empty = top == -jnp.inf
    v = difference(z, top)
    gap, weight = _targeted(rule, fixed, z, top)
    if (apart := label(rule, fixed)) is None:
        apart = z == top
        more = jnp.maximum(classes.sum(apart.astype(z.dtype)) - 1, 0)
        in_reach = None
    else:
        assert fixed.ids is not None
        own = classes.at(z, fixed.ids)
        # An empty row, and one whose label is no class, have nothing to take away.
        more = jnp.expm1(jnp.where(is_empty, 0, jnp.minimum(-_behind(own, top), 0)))
        in_reach = own > -jnp.inf
    others = classes.sum(jnp.where(apart, 0, jnp.exp(v)))
    log_rest, total = jnp.log1p(others + more), others + (1 + more)
    loss = jnp.where(is_empty, 0, gap + weight * log_rest)
    tau = top + log_rest
    log_partition = entropy = None
    if rule.statistics:
        behind = jnp.where(v > -jnp.inf, jnp.exp(v) * -v, 0)
        entropy = jnp.where(is_empty, 0, classes.sum(behind) / total + log_rest)
        log_partition = tau
    if fixed.z_loss is not None:
        offset = jnp.where(is_empty, 0, tau)
        loss = loss + fixed.z_loss * offset * offset
    rest = (others + more) / total if in_reach is None else jnp.where(in_reach, others / total, 0)
    outcome = Outcome(loss, log_partition, entropy, weight)
    return outcome, SolvedRow(tau, top, top, -log_rest, rest=rest)


def _targeted(rule: Rule, fixed: Fixed, z: Array, top: Array) -> tuple[Array, Array]:
    """Σ w y (max z − z) and Σ w y."""
    classes, w = rule.classes, fixed.class_weights
    gap, weight = jnp.zeros_like(top), jnp.zeros_like(top)
    for number, share in each_target(fixed, z.dtype):
        if w is not None:
            share = share * classes.at(w, number)
        behind = _behind(classes.at(z, number), top)
        gap = gap + jnp.where(share == 0, 0, share * behind)
        weight = weight + share
    if fixed.smoothing is not None:
        share = spread(fixed) if w is None else spread(fixed) * w
        gap = gap + classes.sum(jnp.where(share == 0, 0, share * _behind(z, top)))
        # One number a class at least, and of a split row those that are here.
        weight = weight + classes.sum(share + jnp.zeros_like(fixed.numbers, z.dtype))
    return gap, weight


def _behind(z: Array, top: Array) -> Array:
    """max z − z: ∞ for finite scores where the largest is ∞."""
    return jnp.where((top == jnp.inf) & (z < jnp.inf), jnp.inf, -difference(z, top))
