"""Compute the two products of attention, q·k and Σ w v, for many queries or for few.

Few queries read keys and values in their own layout, (*batch, key, head, width), and in their own
dtype; sums are in that of the scores. XLA on CPU copies them for a product by head. So there, for
few enough queries or large enough keys, all heads are columns of one product. Its entries between
different heads are not used: it does more work, and no copy. On a mesh heads stay apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Rule

# Columns of a product of all heads that cost less than a copy of keys: of keys that fit the caches,
# and of keys that do not (measured with two cores).
_FEW_COLUMNS, _MORE_COLUMNS, _LARGE = 16, 64, 2**22


def queries_by_keys(q: Array, k: Array, rule: Rule) -> Array:
    """Return q·k, of shape (*batch, head, group, query, key)."""
    *batch, heads, groups, queries, width = q.shape
    # One product for all the groups that share the keys of a head.
    rows = q.reshape(*batch, heads, groups * queries, width)
    if not rule.are_few:
        z = jnp.matmul(rows, k[..., 0, :, :], precision=rule.precision)
    else:
        z = _by_platform(rule, _joined_scores, -1, rows.astype(k.dtype), k)
    return z.reshape(*batch, heads, groups, queries, z.shape[-1]).astype(q.dtype)


def weighted_values(weights: Array, v: Array, rule: Rule) -> Array:
    """Return Σ w v, of shape (*batch, head, group, query, value width)."""
    *batch, heads, groups, queries, keys = weights.shape
    rows = weights.reshape(*batch, heads, groups * queries, keys)
    if not rule.are_few:
        values = v[..., 0, :, :]
        mixed = jnp.einsum("...qs,...hs->...qh", rows, values, precision=rule.precision)
    else:
        mixed = _by_platform(rule, _joined_mixtures, -3, rows, v)
    return mixed.reshape(*batch, heads, groups, queries, mixed.shape[-1])


def _by_platform(rule: Rule, joined: Callable, keys_axis: int, x: Array, y: Array) -> Array:
    """Multiply x of shape (*batch, head, row, ·) by y along an axis of y, by platform."""
    batch, n = tuple(range(x.ndim - 3)), x.ndim
    axes = (((n - 1,), (n + keys_axis,)), ((*batch, n - 3), (*batch, n - 2)))

    def product(x, y):
        return jax.lax.dot_general(
            x, y, axes, precision=rule.precision, preferred_element_type=_wide(y)
        )

    def of_two_rows(x, y):
        # XLA on TPU makes a sum of products of a single row, eight times as slow as a product.
        rows = x.shape[-2]
        x = jnp.concatenate([x, jnp.zeros_like(x)], axis=-2) if rows == 1 else x
        return product(x, y)[..., :rows, :]

    def in_its_dtype(x, y):
        # XLA on GPU would copy y in the dtype of x.
        return product(x.astype(y.dtype), y)

    return jax.lax.platform_dependent(
        x,
        y,
        cpu=partial(joined, rule) if rule.are_joined else product,
        tpu=of_two_rows,
        default=in_its_dtype,
    )


def _joined_scores(rule, rows, k):
    *batch, heads, _, width = rows.shape
    apart = rows[..., None, :] * jnp.eye(heads, dtype=rows.dtype)[:, None, :, None]
    apart = apart.reshape(*batch, -1, heads * width).astype(_wide(k))
    z = jnp.einsum("...sx,...rx->...sr", _joined(k), apart, precision=rule.precision)
    return jnp.swapaxes(z, -1, -2).reshape(*rows.shape[:-1], -1)


def _joined_mixtures(rule, rows, v):
    *batch, heads, columns, keys = rows.shape
    joined = rows.reshape(*batch, -1, keys)
    mixed = jnp.einsum("...rs,...sx->...rx", joined, _joined(v), precision=rule.precision)
    mixed = mixed.reshape(*batch, heads, columns, heads, -1)
    own = jnp.eye(heads, dtype=bool)[:, None, :, None]
    return jnp.sum(jnp.where(own, mixed, 0), axis=-2)


def _wide(x: Array) -> Any:
    """Return the dtype of sums of products with x."""
    return jnp.promote_types(x.dtype, jnp.float32)


def may_be_split(*arrays: Array) -> bool:
    """Whether a known mesh of several devices may split the arrays."""
    meshes = [jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in arrays)]
    return any(mesh.size > 1 for mesh in meshes)


def are_joined(query: Array, key: Array) -> bool:
    """Whether on a CPU the heads of few queries are all columns of one product."""
    columns = query.shape[-3] * query.shape[-2]
    most = _FEW_COLUMNS if key.size < _LARGE else _MORE_COLUMNS
    return columns <= most and not may_be_split(query, key)


def _joined(keys: Array) -> Array:
    """Reshape (*batch, key, head, width) to (*batch, key, heads × width)."""
    return keys.reshape(*keys.shape[:-2], -1)
