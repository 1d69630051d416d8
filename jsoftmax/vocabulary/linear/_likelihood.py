"""The cross-entropy of whole rows, as a sum of nonnegative terms.

With m = max z and ℓ = log Σ e^(z−m) over all classes,

    log p = z − m − ℓ,    Σ w y (−log p) = Σ w y (m − z) + ℓ Σ w y,    H(p) = Σ p (m − z) + ℓ,

where nothing cancels with ℓ = log1p(n − 1 + Σ_{z<m} e^(z−m)) for n classes of score m. A loss with
labels needs no such count: it keeps the label apart (`sums_apart`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._scores import difference
from jsoftmax.core._solved_row import SolvedRow
from jsoftmax.losses._log_loss import behind, sums_apart
from jsoftmax.vocabulary.linear._labelled_classes import positive_shares
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Rule
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._token_targets import each_target, label, spread


def log_losses(rule: Rule, fixed: Fixed, z: Array) -> tuple[Outcome, SolvedRow]:
    """Compute cross-entropies of rows of scores, and the solved rows."""
    classes = rule.classes
    top = classes.max(z)
    gap, weight = _targeted(rule, fixed, z, top)
    if (apart := label(rule, fixed)) is None:
        apart = z == top
        ties = classes.sum(apart.astype(z.dtype))
        others = classes.sum(jnp.where(apart, 0, jnp.exp(difference(z, top))))
        others = others + jnp.maximum(ties - 1, 0)
        log_total, total = jnp.log1p(others), 1 + others
        rest = others / total
    else:
        assert fixed.ids is not None
        sums = sums_apart(z, top, apart, classes.at(z, fixed.ids), classes)
        log_total, total, rest = sums.log_total, sums.total, sums.rest
    is_empty = (top == -jnp.inf) & (total == total)  # a maximum may ignore NaN
    loss = jnp.where(is_empty, 0, gap + weight * log_total)
    tau = top + log_total
    log_partition = entropy = None
    if rule.statistics:
        v = difference(z, top)
        terms = jnp.where(v > -jnp.inf, jnp.exp(v) * -v, 0)
        entropy = jnp.where(is_empty, 0, classes.sum(terms) / total + log_total)
        log_partition = tau
    rank = _rank(rule, fixed, z) if rule.ranks else None
    if fixed.z_loss is not None:
        offset = jnp.where(is_empty, 0, tau)
        loss = loss + fixed.z_loss * offset * offset
    outcome = Outcome(loss, log_partition, entropy, weight, rank)
    return outcome, SolvedRow(tau, top, top, -log_total, rest=rest)


def _rank(rule: Rule, fixed: Fixed, z: Array) -> Array:
    """Count the classes with a larger score than the label; NaN where a score is NaN."""
    assert fixed.ids is not None
    own = rule.classes.at(z, fixed.ids)
    # The label is not counted, however its score is rounded when it is recomputed.
    ahead = (z > own) & (fixed.numbers != fixed.ids)
    spoiled = jnp.where(z == z, 0, z)
    return rule.classes.sum(ahead.astype(z.dtype) + spoiled)


def _targeted(rule: Rule, fixed: Fixed, z: Array, top: Array) -> tuple[Array, Array]:
    """Compute Σ w y (max z − z) and Σ w y."""
    classes, w = rule.classes, fixed.class_weights
    gap, weight = jnp.zeros_like(top), jnp.zeros_like(top)
    if fixed.positive_share is not None:
        share = positive_shares(rule, fixed)
        gap = classes.sum(jnp.where(share == 0, 0, share * behind(z, top)))
        return gap, classes.sum(share)
    for number, share in each_target(fixed, z.dtype):
        if w is not None:
            share = share * classes.at(w, number)
        distance = behind(classes.at(z, number), top)
        gap = gap + jnp.where(share == 0, 0, share * distance)
        weight = weight + share
    if fixed.smoothing is not None:
        share = spread(fixed) if w is None else spread(fixed) * w
        gap = gap + classes.sum(jnp.where(share == 0, 0, share * behind(z, top)))
        # At least one number per class, and in a split row only the local classes.
        weight = weight + classes.sum(share + jnp.zeros_like(fixed.numbers, z.dtype))
    return gap, weight
