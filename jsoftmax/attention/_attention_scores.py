"""Scores of a block of queries and keys: q·k, scaled, biased, capped, −∞ for a hidden key."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._products import queries_by_keys
from jsoftmax.attention._score_fn import with_score_fn


def scores(moving: Moving, fixed: Fixed, rule: Rule) -> Array:
    """Return z of shape (*batch, head, group, query, key).

    A query or key that held NaN holds zeros by now, and NaN is added to its scores. So NaN reaches
    the rows that see it, and no others, also in derivatives.
    """
    z = queries_by_keys(moving.q, moving.k, rule) * moving.scale
    if not rule.is_clean:  # an infinite score tells of a key that is not finite, as NaN does
        z = jnp.where(jnp.isfinite(z), z, jnp.nan)
    if moving.bias is not None:
        z = z + moving.bias
    if rule.score_fn is not None:
        z = with_score_fn(z, rule.score_fn, moving, fixed, rule.offset)
    if moving.soft_cap is not None:
        cap, excluded = moving.soft_cap, z == -jnp.inf
        capped = cap * jnp.tanh(jnp.where(excluded, 0, z) / cap)
        z = jnp.where(excluded, -jnp.inf, jnp.where(cap > 0, capped, jnp.nan))
    z = z + (fixed.row_spoiled + fixed.column_spoiled)
    seen = visible(fixed, rule)
    return z if seen is None else jnp.where(seen, z, -jnp.inf)


def visible(fixed: Fixed, rule: Rule) -> Array | None:
    """Whether a query sees a key; None where every query sees every key."""
    conditions = [x for x in (fixed.mask, fixed.rows, fixed.columns) if x is not None]
    if fixed.row_segments is not None:
        conditions.append(fixed.row_segments == fixed.column_segments)
    for before in (rule.window[0], fixed.before):
        if before is not None:
            conditions.append(fixed.column_places >= fixed.row_places - before)
    for after in (rule.window[1], fixed.after):
        if after is not None:
            conditions.append(fixed.column_places <= fixed.row_places + after)
    seen = None
    for condition in conditions:
        seen = condition if seen is None else seen & condition
    return seen
