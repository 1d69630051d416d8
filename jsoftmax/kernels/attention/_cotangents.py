"""Call the kernels of the backward pass."""

from __future__ import annotations

from functools import partial

from jax import Array

from jsoftmax.kernels.attention._call import Part, Parts, called, outline
from jsoftmax.kernels.attention._layout import (
    of_group,
    of_head,
    of_places,
    rows_of_queries,
    vectors_of_queries,
)
from jsoftmax.kernels.attention._mixtures import shared
from jsoftmax.kernels.attention._of_keys import of_keys
from jsoftmax.kernels.attention._of_queries import of_queries
from jsoftmax.kernels.attention._spec import Arrays, Spec


def query_cotangents(
    spec: Spec,
    arrays: Arrays,
    k_turned: Array | None,
    d_out: Array,
    rows: Array,
    alive: Array | None,
) -> dict[str, Array]:
    """Return `d_q`, (heads, width, queries), and `sums`, (heads, numbers of a head, queries).

    Also `d_bias`, (heads, keys, queries), if it is differentiated. `k_turned` is (key heads, width,
    keys), `d_out` (heads, queries, value width). On a GPU `d_q` and `d_out` have the layout of
    queries, and keys are not transposed.
    """
    parts = partial(_query_parts, arrays, k_turned, d_out, rows, alive)
    grid = spec.heads, arrays.q.shape[1] // spec.block_q
    return called(spec, "jsoftmax_attention_queries", of_queries, grid, parts)


def _query_parts(arrays, k_turned, d_out, rows, alive, spec):
    q, k, v = arrays.q, arrays.k, arrays.v
    queries, width, keys = q.shape[1], q.shape[-1], k.shape[1]
    like = q, k, v, d_out, rows
    blocks, tiles = queries // spec.block_q, keys // spec.block_k
    count = len(spec.moving_rows)

    def of_block(x):
        return of_places(spec, x, spec.block_q, lambda h, i: (h, i))

    def of_tiles(x, tile):
        return of_head(spec, x, tile, lambda h, i: spec.key_head_of(h))

    def of_rows(rows):
        return rows_of_queries(spec, (rows, queries), spec.computing, *like)

    flags = None
    if alive is not None:
        flags = Part(alive, (1, 1, tiles), lambda h, i: (h * blocks + i, 0, 0), are_scalars=True)
    operands = {
        "q": of_block(q),
        "d_out": of_block(d_out),
        "rows": Part(rows, (1, 8, spec.block_q), lambda h, i: (h, 0, i)),
        "k": of_tiles(k, (spec.block_k, width)),
        "v": of_tiles(v, (spec.block_k, v.shape[-1])),
        "k_turned": None if k_turned is None else of_tiles(k_turned, (width, spec.block_k)),
        "alive": flags,
        **shared(spec, arrays, lambda h, i: (h, i)),
    }
    results = {
        "d_q": vectors_of_queries(spec, (width, queries), q.dtype, *like),
        "sums": of_rows(count) if count else None,
        "d_bias": of_rows(keys) if "bias" in spec.moves else None,
    }
    rows_of_sum = [width, *([8] * count)] if spec.is_tpu else []
    sums: dict[str, tuple[int, ...] | None] = {
        f"sum_{i}": (n, spec.block_q) for i, n in enumerate(rows_of_sum)
    }
    return Parts(operands, results, sums)


def key_cotangents(
    spec: Spec, arrays: Arrays, d_out: Array, rows: Array, alive: Array | None
) -> dict[str, Array]:
    """Return `d_k` and `d_v`, in the layout of keys and values."""
    tiles = arrays.k.shape[1] // spec.block_k
    grid = spec.entries * spec.key_heads, tiles, *((spec.groups,) if spec.is_tpu else ())
    parts = partial(_key_parts, arrays, d_out, rows, alive)
    return called(spec, "jsoftmax_attention_keys", of_keys, grid, parts)


def _key_parts(arrays, d_out, rows, alive, spec):
    q, k, v = arrays.q, arrays.k, arrays.v
    keys, width = k.shape[1], k.shape[-1]
    like = q, k, v, d_out, rows
    blocks, tiles = q.shape[1] // spec.block_q, keys // spec.block_k

    def head(h, i, g=0):
        return h * spec.groups + g

    def of_queries(x, tile):
        return of_head(spec, x, tile, head) if spec.is_tpu else of_group(spec, x)

    def of_block(x):
        return of_places(spec, x, spec.block_k, lambda h, i, g=0: (h, i))

    flags = None
    if alive is not None:
        alive = alive.reshape(-1, blocks, tiles).swapaxes(1, 2).reshape(-1, 1, blocks)
        flags = Part(
            alive, (1, 1, blocks), lambda h, i, g: (head(h, i, g) * tiles + i, 0, 0),
            are_scalars=True,
        )  # fmt: skip
    operands = {
        "q": of_queries(q, (spec.block_q, width)),
        "d_out": of_queries(d_out, (spec.block_q, d_out.shape[-1])),
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
    widths = {"k_sum": width, "v_sum": v.shape[-1]} if spec.is_tpu else {}
    return Parts(operands, results, {name: (spec.block_k, n) for name, n in widths.items()})
