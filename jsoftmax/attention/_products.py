"""The two products of attention, q·k and Σ w v, for many queries or for few."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Rule


def queries_by_keys(q: Array, k: Array, rule: Rule) -> Array:
    """q·k, of shape (*batch, head, group, query, key)."""
    *batch, heads, groups, queries, width = q.shape
    if rule.are_few:
        rows = q.reshape(*batch, 1, heads, groups * queries, width)
        # One by one: with one more axis in the sum XLA on CPU takes 20 times as long.
        z = [jnp.sum(rows[..., i, :] * k, axis=-1) for i in range(groups * queries)]
        z = jnp.moveaxis(jnp.stack(z, axis=-1), -3, -1)
    else:
        # One product for all the groups that share the keys of a head.
        rows = q.reshape(*batch, heads, groups * queries, width)
        z = jnp.matmul(rows, k[..., 0, :, :], precision=rule.precision)
    return z.reshape(*batch, heads, groups, queries, z.shape[-1])


def weighted_values(weights: Array, v: Array, rule: Rule) -> Array:
    """Σ w v, of shape (*batch, head, group, query, value width)."""
    *batch, heads, groups, queries, keys = weights.shape
    rows = weights.reshape(*batch, heads, groups * queries, keys)
    if rule.are_few:
        rows = jnp.moveaxis(rows, -1, -3)[..., None]
        mixed = [jnp.sum(rows[..., i, :] * v, axis=-3) for i in range(groups * queries)]
        mixed = jnp.stack(mixed, axis=-2)
    else:
        values = v[..., 0, :, :]
        mixed = jnp.einsum("...qs,...hs->...qh", rows, values, precision=rule.precision)
    return mixed.reshape(*batch, heads, groups, queries, mixed.shape[-1])
