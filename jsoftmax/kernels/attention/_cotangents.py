"""Calls of the kernels of the backward pass."""

from __future__ import annotations

from functools import partial

from jax import Array

from jsoftmax.kernels.attention._call import Part, Parts, called, outline
from jsoftmax.kernels.attention._mixtures import of_head, shared
from jsoftmax.kernels.attention._of_keys import of_keys
from jsoftmax.kernels.attention._of_queries import of_queries
from jsoftmax.kernels.attention._spec import Arrays, Spec


def query_cotangents(
    spec: Spec, arrays: Arrays, k_turned: Array, d_out: Array, rows: Array, alive: Array | None
) -> dict[str, Array]:
    """`d_q`, (heads, width, queries); `sums` for numbers of a head, (heads, numbers, queries).

    And `d_bias`, (heads, keys, queries), if it moves. `k_turned` is (key heads, width, keys),
    `d_out` (heads, queries, value width).
    """
    heads, queries, _ = arrays.q.shape
    parts = partial(_query_parts, arrays, k_turned, d_out, rows, alive)
    grid = heads, queries // spec.block_q
    return called(spec, "jsoftmax_attention_queries", of_queries, grid, parts)


def _query_parts(arrays, k_turned, d_out, rows, alive, spec):
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

    flags = None
    if alive is not None:
        flags = Part(alive, (1, 1, tiles), lambda h, i: (h * blocks + i, 0, 0), are_scalars=True)
    operands = {
        "q": of_block(q),
        "d_out": of_block(d_out),
        "rows": Part(rows, (1, 8, spec.block_q), lambda h, i: (h, 0, i)),
        "k": of_tiles(k, (spec.block_k, width)),
        "v": of_tiles(v, (spec.block_k, v.shape[2])),
        "k_turned": of_tiles(k_turned, (width, spec.block_k)),
        "alive": flags,
        **shared(spec, arrays, lambda h, i: (h, i)),
    }
    results = {
        "d_q": turned(width, q.dtype),
        "sums": turned(count, spec.computing) if count else None,
        "d_bias": turned(keys, spec.computing) if "bias" in spec.moves else None,
    }
    rows_of_sum = [width, *([8] * count)] if spec.is_tpu else []
    sums: dict[str, tuple[int, ...] | None] = {
        f"sum_{i}": (n, spec.block_q) for i, n in enumerate(rows_of_sum)
    }
    return Parts(operands, results, sums)


def key_cotangents(
    spec: Spec, arrays: Arrays, d_out: Array, rows: Array, alive: Array | None
) -> dict[str, Array]:
    """`d_k` without the scale, and `d_v`, (key heads, keys, their widths)."""
    key_heads, keys, _ = arrays.k.shape
    grid = key_heads, keys // spec.block_k, *((spec.groups,) if spec.is_tpu else ())
    parts = partial(_key_parts, arrays, d_out, rows, alive)
    return called(spec, "jsoftmax_attention_keys", of_keys, grid, parts)


def _key_parts(arrays, d_out, rows, alive, spec):
    q, k, v = arrays.q, arrays.k, arrays.v
    _, keys, width = k.shape
    like = q, k, v, d_out, rows
    blocks, tiles = q.shape[1] // spec.block_q, keys // spec.block_k

    def head(h, i, g=0):
        return h * spec.groups + g

    def of_queries(x, tile):
        if not spec.is_tpu:
            return Part(x, (spec.groups, *x.shape[1:]), lambda h, i: (h, 0, 0))
        return of_head(spec, x, tile, head)

    def of_block(x):
        return Part(x, (1, spec.block_k, x.shape[2]), lambda h, i, g=0: (h, i, 0))

    flags = None
    if alive is not None:
        alive = alive.reshape(-1, blocks, tiles).swapaxes(1, 2).reshape(-1, 1, blocks)
        flags = Part(
            alive, (1, 1, blocks), lambda h, i, g: (head(h, i, g) * tiles + i, 0, 0),
            are_scalars=True,
        )  # fmt: skip
    operands = {
        "q": of_queries(q, (spec.block_q, width)),
        "d_out": of_queries(d_out, (spec.block_q, d_out.shape[2])),
        "rows": of_queries(rows, (8, spec.block_q)),
        "k": of_block(k),
        "v": of_block(v),
        "alive": flags,
        **shared(spec, arrays, lambda h, i, g=0: (head(h, i, g), i), keys_are_whole=False),
    }
    results: dict[str, Part | None] = {
        "d_k": of_block(outline(k.shape, k.dtype, *like)),
        "d_v": of_block(outline(v.shape, v.dtype, *like)),
    }
    widths = {"k_sum": width, "v_sum": v.shape[2]} if spec.is_tpu else {}
    return Parts(operands, results, {name: (spec.block_k, n) for name, n in widths.items()})
