"""The cross-entropy of whole rows: a sum of terms none of which is negative.

With m = max z and ℓ = log1p(Σ e^(z−m) over all classes but one of score m),

    log p = z − m − ℓ,    Σ w y (−log p) = Σ w y (m − z) + ℓ Σ w y,    H(p) = Σ p (m − z) + ℓ,

where nothing cancels.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._scores import difference
from jsoftmax.core._solved_row import SolvedRow
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Rule
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._token_targets import each_target, spread


def log_losses(rule: Rule, fixed: Fixed, z: Array) -> tuple[Outcome, SolvedRow]:
    """Cross-entropies of rows of scores, and the solved rows."""
    classes = rule.classes
    top = classes.max(z)
    v = difference(z, top)
    is_top = z == top
    ties = classes.sum(is_top.astype(z.dtype))
    others = classes.sum(jnp.where(is_top, 0, jnp.exp(v))) + jnp.maximum(ties - 1, 0)
    log_rest = jnp.log1p(others)
    gap, weight = _targeted(rule, fixed, z, top)
    is_empty = top == -jnp.inf
    loss = jnp.where(is_empty, 0, gap + weight * log_rest)
    tau = top + log_rest
    log_partition = entropy = None
    if rule.statistics:
        behind = jnp.where(v > -jnp.inf, jnp.exp(v) * -v, 0)
        entropy = jnp.where(is_empty, 0, classes.sum(behind) / (1 + others) + log_rest)
        log_partition = tau
    if fixed.z_loss is not None:
        offset = jnp.where(is_empty, 0, tau)
        loss = loss + fixed.z_loss * offset * offset
    rest = others / (1 + others)
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
        share = share + jnp.zeros_like(z)
        gap = gap + classes.sum(jnp.where(share == 0, 0, share * _behind(z, top)))
        weight = weight + classes.sum(share)
    return gap, weight


def _behind(z: Array, top: Array) -> Array:
    """max z − z: ∞ for finite scores where the largest is ∞."""
    return jnp.where((top == jnp.inf) & (z < jnp.inf), jnp.inf, -difference(z, top))
