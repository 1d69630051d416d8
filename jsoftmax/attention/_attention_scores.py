"""The scores of a block of queries and keys: q·k, scaled, biased, capped, −∞ if it is not seen."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._products import queries_by_keys


def scores(moving: Moving, fixed: Fixed, rule: Rule) -> Array:
    """z of shape (*batch, head, group, query, key).

    A query or key that held NaN holds zeros by now, and NaN is added to its scores: so it reaches
    the rows that see it, and no others, also in derivatives.
    """
    z = queries_by_keys(moving.q, moving.k, rule) * moving.scale
    if moving.bias is not None:
        z = z + moving.bias
    if rule.soft_cap is not None:
        z = rule.soft_cap * jnp.tanh(z / rule.soft_cap)
    z = z + (fixed.row_spoiled + fixed.column_spoiled)
    seen = visible(fixed, rule)
    return z if seen is None else jnp.where(seen, z, -jnp.inf)


def visible(fixed: Fixed, rule: Rule) -> Array | None:
    """Whether a query sees a key; None where every query sees every key."""
    conditions = [x for x in (fixed.mask, fixed.rows, fixed.columns) if x is not None]
    if fixed.row_segments is not None:
        conditions.append(fixed.row_segments == fixed.column_segments)
    before, after = rule.window
    if before is not None:
        conditions.append(fixed.column_places >= fixed.row_places - before)
    if after is not None:
        conditions.append(fixed.column_places <= fixed.row_places + after)
    seen = None
    for condition in conditions:
        seen = condition if seen is None else seen & condition
    return seen
