"""Convert the arguments of attention to the layout of kernels, and their results back."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.attention._attention_arguments import Given
from jsoftmax.attention._attention_problem import Rule

_PARTS = 8  # of a tile, each with bounds of its keys: rows of a vector


def operands(
    given: Given, rule: Rule, platform: str, interpret: Any, moves: tuple[str, ...]
) -> tuple[Any, Any]:
    """Return the static description of a kernel, and its arrays."""
    from jsoftmax.kernels import attention as kernels

    query, key, value = _of_one_dtype(given, platform)
    *batch, queries, heads, width = query.shape
    keys, key_heads = key.shape[-3], key.shape[-2]
    entries, groups = math.prod(batch), heads // key_heads
    blocks = kernels.sizes(platform, queries, keys, width, value.shape[-1])
    optional = {"soft_cap": given.soft_cap, "sinks": given.sinks, "hard": given.hard}
    present: dict[str, Any] = {name: x for name, x in optional.items() if x is not None}
    scale = jnp.asarray(1 / np.sqrt(width)) if given.scale is None else given.scale
    per_head = [_of_heads(given, x) for x in (scale, *present.values(), *given.numbers)]
    lengths, hides = _lengths(given, rule, entries)
    block_q, block_k = blocks.block_q, blocks.block_k
    if queries % block_q or keys % block_k or hides:
        present["hiding"] = True
    if given.mask is not None:
        present["mask"] = True
    if given.query_segment_ids is not None:
        present["segments"] = True
    if kernels.may_be_sparse(rule.regularizer(given.numbers)):
        present["sparse"] = True
    bias, bias_sizes = _of_scores(given, given.bias, given.computing, blocks)
    mask, mask_sizes = _of_scores(given, given.mask, jnp.int8, blocks)
    streams, stream_sizes = _streams(given, rule, entries)
    spec = kernels.Spec(
        structure=rule.structure, has=frozenset(present), is_hard=rule.is_hard, entries=entries,
        key_heads=key_heads, groups=groups, dropout_rate=rule.dropout_rate,
        shared=(("bias", bias_sizes), ("mask", mask_sizes), ("streams", stream_sizes)),
        precision=rule.precision if query.dtype.itemsize > 2 else None,
        dtype=given.dtype, moves=moves, block_q=block_q, block_k=block_k, on_chip=blocks.on_chip,
        platform=platform, interpret=interpret, stages=1 if given.numbers else 2,
    )  # fmt: skip
    return spec, kernels.Arrays(
        laid(spec, query, block_q), laid(spec, key, block_k), laid(spec, value, block_k),
        jnp.stack(per_head, axis=-1)[: key_heads * groups].reshape(-1).astype(given.computing),
        lengths, bias, mask,
        _of_places(given.query_segment_ids, block_q),
        _of_places(given.key_value_segment_ids, block_k), None, streams,
    )  # fmt: skip


def _of_one_dtype(given, platform):
    """Cast query, key and value to a dtype that the platform multiplies."""
    dtype = given.dtype
    if dtype.itemsize < 2 or (platform == "tpu" and dtype == jnp.float16):
        dtype = np.dtype(np.float32)
    return tuple(x.astype(dtype) for x in (given.query, given.key, given.value))


def _of_heads(given, x):
    """Return one number for each head of each batch entry."""
    *batch, _, heads, _ = given.query.shape
    key_heads = given.key.shape[-2]
    x = given.by_head(x) if x.ndim <= 1 else x
    shape = (*batch, key_heads, heads // key_heads)
    return jnp.broadcast_to(x[..., 0, 0], shape).reshape(-1).astype(given.computing)


def _lengths(given, rule, entries):
    """Return lengths and windows of each batch entry, and whether they hide a key."""
    from jsoftmax.kernels.attention import ALL

    queries, keys = given.query.shape[-3], given.key.shape[-3]
    pairs = (
        (queries, given.query_seq_lengths), (keys, given.key_value_seq_lengths),
        (_known(rule.window[0], ALL), given.before), (_known(rule.window[1], ALL), given.after),
    )  # fmt: skip
    columns = [
        jnp.full(entries, most, jnp.int32) if x is None
        else jnp.minimum(x.reshape(-1).astype(jnp.int32), most)
        for most, x in pairs
    ]  # fmt: skip
    hides = rule.window != (None, None) or any(x is not None for _, x in pairs)
    return jnp.stack(columns, axis=-1).reshape(-1), hides


def _known(number, otherwise):
    return otherwise if number is None else number


def _of_scores(given, x, dtype, blocks):
    """Return a mask or bias as (shared heads, keys or 1, queries or 1), and how many share it."""
    if x is None:
        return None, (1, 1, 1)
    *batch, _, heads, _ = given.query.shape
    key_heads = given.key.shape[-2]
    *lead, of_heads, rows, columns = x.shape
    entries = 1
    if math.prod(lead) > 1:
        x, entries = jnp.broadcast_to(x, (*batch, *x.shape[-3:])), math.prod(batch)
    split = (key_heads, heads // key_heads) if of_heads == heads else (1, 1)
    x = jnp.swapaxes(x.reshape(-1, rows, columns), 1, 2).astype(dtype)
    padding = [(0, 0), (0, -columns % blocks.block_k), (0, -rows % blocks.block_q)]
    padding = [(0, 0) if n == 1 else pair for n, pair in zip(x.shape, padding, strict=True)]
    return jnp.pad(x, padding), (entries, *split)


def _of_places(ids, block):
    if ids is None:
        return None
    ids = ids.reshape(-1, 1, ids.shape[-1]).astype(jnp.int32)
    return jnp.pad(ids, [(0, 0), (0, 0), (0, -ids.shape[-1] % block)])


def _streams(given, rule, entries):
    """Return the words of random keys for dropout, one for each head."""
    if given.dropout_rng is None:
        return None, (1, 1, 1)
    heads, key_heads = given.query.shape[-2], given.key.shape[-2]
    sizes = (1, 1, 1) if rule.is_dropout_shared else (entries, key_heads, heads // key_heads)
    numbers = jnp.arange(math.prod(sizes), dtype=jnp.uint32)
    streams = jax.vmap(jax.random.fold_in, (None, 0))(given.dropout_rng, numbers)
    words = jax.lax.bitcast_convert_type(jax.random.key_data(streams), jnp.int32)
    return words.reshape(-1), sizes


def with_bounds(spec: Any, arrays: Any, key: Array) -> tuple[Any, Any]:
    """Add the least and the largest key of each eighth of a tile, feature by feature."""
    *_, length, heads, width = key.shape
    key = key.astype(arrays.k.dtype).reshape(-1, length, heads, width)
    key = jnp.pad(key, [(0, 0), (0, -length % spec.block_k), (0, 0), (0, 0)])
    parts = key.reshape(key.shape[0], -1, spec.block_k // _PARTS, heads, width)
    spoiled = 0 * jnp.sum(parts, axis=2)  # NaN if one key is not finite, which a minimum may miss
    low, high = (by_head(f(parts, axis=2) + spoiled, 1) for f in (jnp.min, jnp.max))
    spec = dataclasses.replace(spec, has=spec.has | {"bounds"})
    return spec, arrays._replace(low=low, high=high)


def laid(spec: Any, x: Array, block: int) -> Array:
    """Lay out (*batch, length, heads, width) for kernels; a GPU reads it as it is."""
    if spec.is_tpu:
        return by_head(x, block)
    x = x.reshape(-1, *x.shape[-3:])
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)])


def by_head(x: Array, block: int) -> Array:
    """Transpose (*batch, length, heads, width) to (entries × heads, blocks of positions, width)."""
    length, width = x.shape[-3], x.shape[-1]
    x = jnp.swapaxes(x, -2, -3).reshape(-1, length, width)
    return jnp.pad(x, [(0, 0), (0, -length % block), (0, 0)])


def turned(x: Array, block: int) -> Array:
    """Transpose (*batch, length, heads, width) to (entries × heads, width, blocks of positions)."""
    length, _, width = x.shape[-3:]
    x = jnp.moveaxis(x, -3, -1).reshape(-1, width, length)
    return jnp.pad(x, [(0, 0), (0, 0), (0, -length % block)])


def native(spec: Any, x: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Undo `laid`: return an array of this shape, (*batch, length, heads, width)."""
    *batch, length, heads, width = shape
    x = x[:, :length]
    if spec.is_tpu:
        x = jnp.swapaxes(x.reshape(*batch, heads, length, width), -2, -3)
    return x.reshape(shape).astype(dtype)


def result(given: Given, spec: Any, x: Array) -> Array:
    """Transpose a kernel's vectors of queries to (*batch, queries, heads, width)."""
    if spec.is_tpu:
        return of_rows(given, x)
    return native(spec, x, (*given.query.shape[:-1], x.shape[-1]), given.dtype)


def of_rows(given: Given, x: Array) -> Array:
    """Transpose (entries × heads, width, queries) to (*batch, queries, heads, width)."""
    *batch, queries, heads, _ = given.query.shape
    x = x[..., :queries].reshape(*batch, heads, x.shape[1], queries)
    return jnp.moveaxis(x, -1, -3).astype(given.dtype)


def as_rows(spec: Any, x: Array) -> Array:
    """Transpose (*batch, queries, heads) to (entries × heads, blocks of queries)."""
    return by_head(x[..., None].astype(spec.computing), spec.block_q)[..., 0]
