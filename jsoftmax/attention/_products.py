"""The two products of attention, q·k and Σ w v, for many queries or for few.

Few queries read keys and values as they lie in memory, (*batch, key, head, width). XLA on CPU
copies them for a product by head. So for few enough, or for large enough keys, all heads are
columns of one product, whose entries between different heads are not used: it does more work, and
no copy. Where there are several devices heads may be split over them, and stay apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Rule

# Columns of a product of all heads that cost less than a copy of keys that lie in the caches, and
# of those that do not (measured with two cores).
_FEW_COLUMNS, _MORE_COLUMNS, _LARGE = 16, 64, 2**22


def queries_by_keys(q: Array, k: Array, rule: Rule) -> Array:
    """q·k, of shape (*batch, head, group, query, key)."""
    *batch, heads, groups, queries, width = q.shape
    # One product for all the groups that share the keys of a head.
    rows = q.reshape(*batch, heads, groups * queries, width)
    if not rule.are_few:
        z = jnp.matmul(rows, k[..., 0, :, :], precision=rule.precision)
    elif rule.are_joined:
        apart = rows[..., None, :] * jnp.eye(heads, dtype=q.dtype)[:, None, :, None]
        apart = apart.reshape(*batch, -1, heads * width)
        z = jnp.einsum("...sx,...rx->...sr", _joined(k), apart, precision=rule.precision)
        z = jnp.swapaxes(z, -1, -2)
    else:
        z = jnp.einsum("...nrh,...snh->...nrs", rows, k, precision=rule.precision)
    return z.reshape(*batch, heads, groups, queries, z.shape[-1])


def weighted_values(weights: Array, v: Array, rule: Rule) -> Array:
    """Σ w v, of shape (*batch, head, group, query, value width)."""
    *batch, heads, groups, queries, keys = weights.shape
    rows = weights.reshape(*batch, heads, groups * queries, keys)
    if not rule.are_few:
        values = v[..., 0, :, :]
        mixed = jnp.einsum("...qs,...hs->...qh", rows, values, precision=rule.precision)
    elif rule.are_joined:
        rows = rows.reshape(*batch, -1, keys)
        mixed = jnp.einsum("...rs,...sx->...rx", rows, _joined(v), precision=rule.precision)
        mixed = mixed.reshape(*batch, heads, groups * queries, heads, -1)
        own = jnp.eye(heads, dtype=bool)[:, None, :, None]
        mixed = jnp.sum(jnp.where(own, mixed, 0), axis=-2)
    else:
        mixed = jnp.einsum("...nrs,...snh->...nrh", rows, v, precision=rule.precision)
    return mixed.reshape(*batch, heads, groups, queries, mixed.shape[-1])


def is_one_cpu() -> bool:
    """Whether there is nothing else that an array may be split over, or computed on."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def are_joined(query: Array, key: Array) -> bool:
    """Whether the heads of few queries are all columns of one product."""
    columns = query.shape[-3] * query.shape[-2]
    return is_one_cpu() and columns <= (_FEW_COLUMNS if key.size < _LARGE else _MORE_COLUMNS)


def _joined(keys: Array) -> Array:
    """(*batch, key, head, width) → (*batch, key, heads × width)."""
    return keys.reshape(*keys.shape[:-2], -1)
