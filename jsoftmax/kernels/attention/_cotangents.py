"""Calls of the kernels of the backward pass."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.kernels.attention._call import Part, called, outline
from jsoftmax.kernels.attention._keys import of_keys
from jsoftmax.kernels.attention._mixtures import of_head, shared
from jsoftmax.kernels.attention._queries import of_queries
from jsoftmax.kernels.attention._spec import Arrays, Spec


def query_cotangents(
    spec: Spec, arrays: Arrays, k_turned: Array, d_out: Array, rows: Array, alive: Array | None
) -> dict[str, Array]:
    """`d_q`, (heads, width, queries); `sums` of numbers of a head, (heads, numbers, queries); `d_bias`.

    `k_turned` is (key heads, width, keys), `d_out` (heads, queries, value width).
    """
    q, k, v = arrays.q, arrays.k, arrays.v
    heads, queries, width = q.shape
    keys = k.shape[1]
    like = q, k, v, d_out, rows
    blocks, tiles = queries // spec.block_q, keys // spec.block_k
    count = len(spec.moving_rows)

    def of_block(x):
        return Part(x, (1, spec.block_q, x.shape[2]), lambda h, i: (h, i, 0))

    def of_tiles(x, tile):
        return of_head(spec, x, tile, lambda h, i: spec.key_head_of(h))

    def turned(rows, dtype):
        shape = (heads, rows, queries)
        return Part(outline(shape, dtype, *like), (1, rows, spec.block_q), lambda h, i: (h, 0, i))

    return called(
        spec, "jsoftmax_attention_queries", of_queries, (heads, blocks),
        {
            "q": of_block(q), "d_out": of_block(d_out),
            "rows": Part(rows, (1, 8, spec.block_q), lambda h, i: (h, 0, i)),
            "k": of_tiles(k, (spec.block_k, width)), "v": of_tiles(v, (spec.block_k, v.shape[2])),
            "k_turned": of_tiles(k_turned, (width, spec.block_k)),
            "alive": None if alive is None else Part(
                alive, (1, 1, tiles), lambda h, i: (h * blocks + i, 0, 0), are_scalars=True
            ),
            **shared(spec, arrays, lambda h, i: (h, i)),
        },
        {
            "d_q": turned(width, q.dtype),
            "sums": turned(count, jnp.float32) if count else None,
            "d_bias": turned(keys, jnp.float32) if "bias" in spec.moves else None,
        },
        {f"sum_{i}": (width if i == 0 else 8, spec.block_q) for i in range(count + 1)},
    )  # fmt: skip


def key_cotangents(
    spec: Spec, arrays: Arrays, d_out: Array, rows: Array, alive: Array | None
) -> dict[str, Array]:
    """`d_k` without the scale, and `d_v`, (key heads, keys, their widths)."""
    q, k, v = arrays.q, arrays.k, arrays.v
    key_heads, keys, width = k.shape
    queries = q.shape[1]
    like = q, k, v, d_out, rows
    blocks, tiles = queries // spec.block_q, keys // spec.block_k
    if alive is not None:
        alive = alive.reshape(-1, blocks, tiles).swapaxes(1, 2).reshape(-1, 1, blocks)

    def head(h, i, g):
        return h * spec.groups + g

    def of_queries(x):
        return of_head(spec, x, (spec.block_q, x.shape[2]), head)

    def of_block(x):
        return Part(x, (1, spec.block_k, x.shape[2]), lambda h, i, g: (h, i, 0))

    return called(
        spec, "jsoftmax_attention_keys", of_keys, (key_heads, tiles, spec.groups),
        {
            "q": of_queries(q), "d_out": of_queries(d_out),
            "rows": of_head(spec, rows, (8, spec.block_q), head),
            "k": of_block(k), "v": of_block(v),
            "alive": None if alive is None else Part(
                alive, (1, 1, blocks),
                lambda h, i, g: (head(h, i, g) * tiles + i, 0, 0), are_scalars=True,
            ),
            **shared(spec, arrays, lambda h, i, g: (head(h, i, g), i), keys_are_whole=False),
        },
        {
            "d_k": of_block(outline(k.shape, k.dtype, *like)),
            "d_v": of_block(outline(v.shape, v.dtype, *like)),
        },
        {"k_sum": (spec.block_k, width), "v_sum": (spec.block_k, v.shape[2])},
    )  # fmt: skip
