"""Log-probabilities of a few classes of a row, and of all others as one event.

With q the softmax over all classes, r the softmax over all but the few, and ż the tangents,

    d log q_k = ż_k − τ̇,   d log Q = τ̇_r − τ̇,   τ̇ = Σ q ż,   τ̇_r = Σ r ż,

so the tangents are sums over blocks of classes, computed from both thresholds. These are results
too, so the rule is itself differentiable.
"""

from __future__ import annotations

import functools
import operator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._named_trees import changes_of
from jsoftmax.core._scores import difference
from jsoftmax.core._solved_row import SolvedRow
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._linear_scores import moved_scores, scores
from jsoftmax.vocabulary.linear._row_moves import row_sum
from jsoftmax.vocabulary.linear._token_blocks import by_tokens, over_classes
from jsoftmax.vocabulary.linear._token_rows import masses_of


class Events(NamedTuple):
    """Log-probabilities of the events of a token."""

    own: Array  # of its few classes, (token, m); −∞ for those of share 0
    rest: Array  # and of all others together


Found = tuple[Events, SolvedRow, SolvedRow]  # and the solved rows of all classes, and of all others


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def events(rule: Rule, moving: Moving, fixed: Fixed) -> Found:
    """Compute the events of all tokens."""
    return by_tokens(
        lambda trees: _solved(rule, *trees), rule.block_tokens, (moving, fixed), rule.many_tokens
    )


@partial(events.defjvp, symbolic_zeros=True)
def _events_jvp(rule, primals, tangents):
    moving, fixed = primals
    changes = changes_of(tangents[0])
    found = events(rule, moving, fixed)
    still = jax.tree.map(jnp.zeros_like, found)
    if not jax.tree.leaves(changes):
        return found, still

    def sums(tables, known, changes):
        ((moving, fixed),), (_, row, others), (changes,) = tables, known, changes
        z, d_z = moved_scores(moving, fixed, changes, rule)
        assert d_z is not None  # nothing else moves
        q, r = (masses_of(rule, moving, fixed, x).of(z) for x in (row, others))
        r = jnp.where(_is_own(fixed), 0, r)
        own = [row_sum(jnp.where(hit, d_z, 0)) for hit in _hits(fixed)]
        return own, row_sum(q * d_z), row_sum(r * d_z)

    own, d_tau, d_others = over_classes((rule,), sums, ((moving, fixed),), (changes,), found)
    d_events = Events(jnp.concatenate(own, axis=-1) - d_tau, d_others - d_tau)
    return found, (d_events, still[1]._replace(tau=d_tau), still[2]._replace(tau=d_others))


def _hits(fixed: Fixed) -> list[Array]:
    """Return a mask of each of the few classes."""
    assert fixed.ids is not None and fixed.shares is not None
    pairs = zip(*(jnp.split(x, x.shape[-1], -1) for x in (fixed.ids, fixed.shares)), strict=True)
    return [(fixed.numbers == number) & (share > 0) for number, share in pairs]


def _is_own(fixed: Fixed) -> Array:
    return functools.reduce(operator.or_, _hits(fixed))


def _solved(rule: Rule, moving: Moving, fixed: Fixed) -> Found:
    """Compute the events of a block of tokens from whole rows."""
    assert fixed.ids is not None and fixed.shares is not None
    classes, z = rule.classes, scores(moving, fixed, rule)
    top, is_own = classes.max(z), _is_own(fixed)
    log_total, row = _summed(z, top, classes)
    others = jnp.where(is_own, -jnp.inf, z)
    highest = classes.max(others)
    is_empty = highest == -jnp.inf
    log_others, rest_row = _summed(others, jnp.where(is_empty, top, highest), classes)
    exists = fixed.shares > 0
    of = [classes.at(z, x) for x in jnp.split(fixed.ids, fixed.ids.shape[-1], -1)]
    own = jnp.where(exists, difference(jnp.concatenate(of, -1), top) - log_total, -jnp.inf)
    inside = jnp.sum(jnp.exp(own), axis=-1, keepdims=True)
    rest = difference(jnp.where(is_empty, top, highest), top) + (log_others - log_total)
    # Where the few have little, the mass of the others is 1 less a small number.
    rest = jnp.where(inside < 0.25, jnp.log1p(-jnp.where(inside < 0.25, inside, 0)), rest)
    rest = jnp.where(is_empty, jnp.where(top == top, -jnp.inf, top), rest)
    return Events(own, rest), row, rest_row


def _summed(z: Array, top: Array, classes: Any) -> tuple[Array, SolvedRow]:
    """Compute log Σ e^(z − top), and the solved row."""
    apart = z == top
    ties = classes.sum(apart.astype(z.dtype))
    beside = classes.sum(jnp.where(apart, 0, jnp.exp(difference(z, top))))
    log_total = jnp.log1p(beside + jnp.maximum(ties - 1, 0))
    return log_total, SolvedRow(top + log_total, top, top, -log_total)
