"""Divergences between the predictions of two linear models, in blocks of tokens and classes.

With heights h and direct slopes g of the models,

    Ḋ = Σ (s_p (h_p − h̄_p) + g_p) ż_p + Σ (s_q (h_q − h̄_q) + g_q) ż_q,    h̄ = Σ s h/Σ s,

==============  ==================================  ==================  ==========
divergence      h_p                                 g_q                 h_q, g_p
==============  ==================================  ==================  ==========
D(p, q)         (z_p − τ_p) − (z_q − τ_q)           q − p
D(q, p)                                                                 likewise
Jensen–Shannon  w (ω′(p) − ω′(m)), m = w p + w̄ q    –                   likewise
==============  ==================================  ==================  ==========

for D(p, q) = Ω*(z_q) + Ω(p) − ⟨p, z_q⟩, which is KL(p‖q) at α = 1. Ω*(z_q) is a maximum, attained
at q, so q̇ does not enter. So Ḋ is again a sum over blocks of classes; each block recomputes both
scores from the thresholds and the means h̄ of their rows.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._named_trees import changes_of
from jsoftmax.core._solved_row import Masses, SolvedRow, mean_of
from jsoftmax.losses._fenchel_young import terms_of
from jsoftmax.losses._log_loss import ALONE
from jsoftmax.vocabulary.linear._linear_arguments import Rule
from jsoftmax.vocabulary.linear._linear_scores import moved_scores, scores
from jsoftmax.vocabulary.linear._row_moves import moved_row, row_sum, sums_of_moves
from jsoftmax.vocabulary.linear._token_blocks import by_tokens, over_classes
from jsoftmax.vocabulary.linear._token_rows import Prediction, masses_of, predicted

Both = tuple[Any, Any]  # of the first model p, and of the second one q


@dataclasses.dataclass(frozen=True)
class Pair:
    """Static options: the rules of both models, and the kind of divergence."""

    rules: tuple[Rule, Rule]
    is_forward: bool  # the divergence contains D(p, q)
    is_reverse: bool  # it contains D(q, p); if neither, it is Jensen–Shannon


class Mixed(NamedTuple):
    """The weight of the first model in the mixture, (token | 1, 1); None without a mixture."""

    share: Array | None


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def divergences(pair: Pair, moving: Both, fixed: Both, mixed: Mixed) -> tuple[Array, Both]:
    """Compute the divergences of all tokens, and their solved rows, to be treated as constants."""

    def solved(trees):
        return _solved(pair, trees[:2], trees[2:4], trees[4])

    rule = pair.rules[0]
    trees = (*moving, *fixed, mixed)
    results = by_tokens(solved, rule.block_tokens, trees, rule.many_tokens)
    chex.assert_shape(jax.tree.leaves(results), (moving[0].features.shape[0], 1))
    return results


@partial(divergences.defjvp, symbolic_zeros=True)
def _divergences_jvp(pair, primals, tangents):
    moving, fixed, mixed = primals
    changes = tuple(changes_of(x) for x in tangents[0])
    loss, rows = divergences(pair, moving, fixed, mixed)
    still = jax.tree.map(jnp.zeros_like, (loss, rows))
    if not jax.tree.leaves(changes):
        return (loss, rows), still
    known = _following(pair, moving, fixed, mixed, rows)

    def sums(tables, known, changes):
        *rows, mixed = known
        moved = _moved(pair, tables, changes)
        views = _views(pair, tables, [z for z, _ in moved], rows, mixed)
        own, other = views
        total = jnp.zeros_like(own.z)
        for (z, d_z), view, opposite, is_direct in zip(
            moved, views, (other, own), (pair.is_reverse, pair.is_forward), strict=True
        ):
            if d_z is None:
                continue
            slope = jnp.zeros_like(z)
            if view.height is not None:
                assert view.row.mean is not None
                slope = _times(view.s, view.height - view.row.mean)
            if is_direct:
                slope = slope + view.exceeding(opposite)
            total = total + jnp.where(z > -jnp.inf, slope, 0) * d_z
        return row_sum(total)

    tables = tuple(zip(moving, fixed, strict=True))
    d_loss = over_classes(pair.rules, sums, tables, changes, (*known, mixed))
    return (loss, rows), (d_loss, still[1])


# The rows are known already: only their tangents, needed for second derivatives, cost anything.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _following(pair: Pair, moving: Both, fixed: Both, mixed: Mixed, rows: Both) -> Both:
    return rows


@partial(_following.defjvp, symbolic_zeros=True)
def _following_jvp(pair, primals, tangents):
    moving, fixed, mixed, rows = primals
    changes = tuple(changes_of(x) for x in tangents[0])
    known = _following(pair, moving, fixed, mixed, rows)
    still = jax.tree.map(jnp.zeros_like, rows)
    if not jax.tree.leaves(changes):
        return known, still
    tables = tuple(zip(moving, fixed, strict=True))

    def of_thresholds(tables, known, changes):
        moved = _moved(pair, tables, changes)
        each = zip(pair.rules, tables, changes, known, moved, strict=True)
        return tuple(
            sums_of_moves(rule, moving, fixed, change, row, z, d_z)
            for rule, (moving, fixed), change, row, (z, d_z) in each
        )

    moves = over_classes(pair.rules, of_thresholds, tables, changes, known)
    d_rows = tuple(map(moved_row, still, known, moves))

    def of_means(tables, known, changes):
        rows, d_rows, mixed = known[:2], known[2:4], known[4]
        moved = _moved(pair, tables, changes)
        z = [z for z, _ in moved]
        d_z = [jnp.zeros_like(z) if d is None else d for z, d in moved]

        def weighted(z, tau):
            at = [row._replace(tau=x) for row, x in zip(rows, tau, strict=True)]
            views = _views(pair, tables, z, at, mixed)
            return [(v.s, v.weighted()) for v in views if v.height is not None]

        tau, d_tau = ([row.tau for row in of] for of in (rows, d_rows))
        found, d_found = jax.jvp(weighted, (z, tau), (d_z, d_tau))
        means = [row.mean for row in rows if row.mean is not None]
        return [
            (row_sum(d_sh - mean * d_s), row_sum(s))
            for mean, (s, _), (d_s, d_sh) in zip(means, found, d_found, strict=True)
        ]

    means = iter(over_classes(pair.rules, of_means, tables, changes, (*known, *d_rows, mixed)))
    d_rows = tuple(d if d.mean is None else d._replace(mean=mean_of(*next(means))) for d in d_rows)
    return known, d_rows


class _View(NamedTuple):
    """One model in a block of classes."""

    z: Array
    row: SolvedRow
    p: Array
    s: Array
    height: Array | None

    def weighted(self) -> Array:
        assert self.height is not None
        return _times(self.s, self.height)

    def exceeding(self, other: _View) -> Array:
        """Compute the difference of p and the other model's p, from 1 − p where both are near 1."""
        assert self.row.rest is not None and other.row.rest is not None
        both = (self.p > ALONE) & (other.p > ALONE)
        return jnp.where(both, other.row.rest - self.row.rest, self.p - other.p)


def _views(pair: Pair, tables: Any, z: Any, rows: Any, mixed: Mixed) -> tuple[_View, _View]:
    """Evaluate both models in a block of classes, from their scores and solved rows."""
    masses = [
        masses_of(rule, moving, fixed, row)
        for rule, (moving, fixed), row in zip(pair.rules, tables, rows, strict=True)
    ]
    p, q = (m.of(x) for m, x in zip(masses, z, strict=True))
    slopes = [m.slopes(x, y) for m, x, y in zip(masses, z, (p, q), strict=True)]
    if mixed.share is None:
        heights = _heights(pair, masses, z)
    else:
        heights = _mixture_heights(masses, p, q, mixed.share)
    first, second = map(_View, z, rows, (p, q), slopes, heights)
    return first, second


def _heights(pair: Pair, masses: list[Masses], z: Any) -> Both:
    apart = masses[0].marginals(z[0]) - masses[1].marginals(z[1])
    apart = jnp.where(jnp.isfinite(apart), apart, 0)
    return (apart if pair.is_forward else None, -apart if pair.is_reverse else None)


def _mixture_heights(masses: list[Masses], p: Array, q: Array, share: Array) -> Both:
    m = _mixture(p, q, share)

    def height(x, of, share):
        exists = x > 0
        x, between = jnp.where(exists, x, 1), jnp.where(exists, m, 1)
        return share * (of.regularizer.marginal(x) - of.regularizer.marginal(between))

    return height(p, masses[0], share), height(q, masses[1], 1 - share)


def _mixture(p: Array, q: Array, share: Array) -> Array:
    """Compute w p + (1 − w) q, exactly p where both are equal."""
    return q + share * (p - q)


def _moved(pair: Pair, tables: Any, changes: Any) -> list[tuple[Array, Array | None]]:
    return [
        moved_scores(moving, fixed, change, rule)
        for rule, (moving, fixed), change in zip(pair.rules, tables, changes, strict=True)
    ]


def _times(s: Array, x: Array) -> Array:
    """Compute s x, 0 where s is 0 for any x."""
    return jnp.where(s > 0, s * jnp.where(s > 0, x, 0), 0)


def _solved(pair: Pair, moving: Both, fixed: Both, mixed: Mixed) -> tuple[Array, Both]:
    """Compute the divergences of a block of tokens from whole rows."""
    tables = tuple(zip(moving, fixed, strict=True))
    p, q = (
        predicted(rule, moving, fixed, scores(moving, fixed, rule))
        for rule, (moving, fixed) in zip(pair.rules, tables, strict=True)
    )
    rule = pair.rules[0]
    regularizer, classes = rule.regularizer(moving[0].parameters), rule.classes
    terms = jnp.zeros_like(p.p)
    if pair.is_forward:
        terms = terms + _terms(p.p, q, regularizer, classes)
    if pair.is_reverse:
        terms = terms + _terms(q.p, p, regularizer, classes)
    if mixed.share is not None:
        m = _mixture(p.p, q.p, mixed.share)
        log_m = jnp.log(jnp.where(m > 0, m, 1))
        log_m = jnp.where(m > 0, log_m, jnp.where(m == m, -jnp.inf, m))
        for share, y in ((mixed.share, p.p), (1 - mixed.share, q.p)):
            term = jnp.where(y == m, 0, regularizer.divergence(y, m, log_m))
            terms = terms + share * term
    loss = classes.sum(terms)
    # A fully masked row has divergence 0, except that NaN stays.
    is_empty = (p.row.anchor == -jnp.inf) | (q.row.anchor == -jnp.inf)
    loss = jnp.where(is_empty & (loss == loss), 0, loss)
    rows = []
    views = _views(pair, tables, (p.z, q.z), (p.row, q.row), mixed)
    for view in views:
        mean = None
        if view.height is not None:
            mean = mean_of(classes.sum(view.weighted()), classes.sum(view.s))
        rows.append(view.row._replace(mean=mean))
    return loss, (rows[0], rows[1])


def _terms(y: Array, of: Prediction, regularizer: Any, classes: Any) -> Array:
    """Compute the terms of D(y, p), nonnegative, and 0 where y and p are equal."""
    z, p, log_p, rest, t, _ = of
    terms = terms_of(p, log_p, rest, t, z, y, None, regularizer, classes)
    return jnp.where(y == p, 0, terms)
