"""Decoding: few queries beside a cache, read in its own layout, contiguous or in pages."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_arguments import Given
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.attention._kernel_operands import by_head, operands
from jsoftmax.attention._kernel_platforms import by_platform


class Pages(NamedTuple):
    """Keys and values in pages, and the pages of each batch entry."""

    key: Array  # (pages, page size, key heads, width)
    value: Array
    table: Array  # (*batch, pages of an entry), int32
    bounds: tuple[Array, Array] | None = None  # (pages, key heads, width), of a page's keys


def attended_by_pages(given: Given, rule: Rule, pages: Pages) -> Array:
    """Return the mixtures of few queries, with keys and values in pages."""
    function, platforms = partial(_of_pages, rule), ("tpu", "cpu")
    return by_platform(function, given, pages, platforms=platforms, called="paged_attention")


def _of_pages(rule, platform, interpret, given, pages):
    return joined(given, rule, interpret, pages)


def may_join(given: Given) -> bool:
    """Whether the heads of few queries may be rows of one block beside a cache in its layout."""
    others = given.bias, given.mask, given.query_segment_ids, given.dropout_rng
    return all(x is None for x in others)


def joined(given: Given, rule: Rule, interpret: Any, pages: Pages | None = None) -> Array:
    """Return the mixtures of few queries, with keys and values read in their own layout."""
    from jsoftmax.kernels import attention as kernels

    *batch, queries, heads, width = given.query.shape
    keys, key_heads = given.key.shape[-3:-1]
    spec, arrays = operands(given, rule, "tpu", interpret, ())
    dtype = arrays.q.dtype
    query = given.query.astype(dtype).reshape(*batch, -1, 1, width)
    blocks = kernels.sizes("tpu", queries * heads, keys * key_heads, width, given.value.shape[-1])
    if pages is None:
        block_k, on_chip, table = blocks.block_k, blocks.on_chip, None
        key, value = (
            by_head(x.astype(dtype).reshape(*batch, -1, 1, x.shape[-1]), block_k)
            for x in (given.key, given.value)
        )
    else:  # a page, with all its heads, is a tile
        key, value = (
            x.astype(dtype).reshape(x.shape[0], -1, x.shape[-1]) for x in (pages.key, pages.value)
        )
        block_k, table = key.shape[1], pages.table.reshape(-1)
        on_chip = keys * key_heads * blocks.block_q <= kernels.KEPT
    padded = -(queries * heads) % blocks.block_q
    numbers = jnp.tile(arrays.numbers.reshape(heads, spec.count).T, (1, queries))
    numbers = jnp.pad(numbers, [(0, -spec.count % 8), (0, padded)])[None]
    spec = dataclasses.replace(
        spec, key_heads=1, groups=1, joined=(heads, key_heads), block_q=blocks.block_q,
        block_k=block_k, on_chip=on_chip, has=spec.has | {"hiding"}, is_paged=pages is not None,
    )  # fmt: skip
    arrays = arrays._replace(q=by_head(query, blocks.block_q), k=key, numbers=numbers, pages=table)
    if pages is not None and pages.bounds is not None and spec.is_sparse:
        low, high = (_of_entries(x.astype(dtype), pages.table) for x in pages.bounds)
        arrays = arrays._replace(low=low, high=high)
        spec = dataclasses.replace(spec, has=spec.has | {"bounds"})
    out = kernels.mixtures(spec, arrays, value, False)["out"]
    out = jnp.swapaxes(out[..., : queries * heads], 1, 2)
    return out.reshape(*batch, queries, heads, -1).astype(given.dtype)


def _of_entries(x, table):
    """Return bounds in the order of each entry's pages: (entries, pages × whole vectors, width)."""
    _, heads, width = x.shape
    x = x[table.reshape(-1, table.shape[-1])]
    x = jnp.tile(x, (1, 1, math.lcm(heads, 8) // heads, 1))
    return x.reshape(x.shape[0], -1, width)
