"""Call the forward kernel, and lay out the blocks of operands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array

from jsoftmax.kernels.attention._call import Part, Parts, called, outline
from jsoftmax.kernels.attention._forward import forward
from jsoftmax.kernels.attention._layout import (
    of_head,
    of_places,
    rows_of_queries,
    vectors_of_queries,
)
from jsoftmax.kernels.attention._row import peaks_shape
from jsoftmax.kernels.attention._spec import Arrays, Spec


def mixtures(spec: Spec, arrays: Arrays, v: Array, with_rows: bool) -> dict[str, Array]:
    """Return mixtures (heads, value width, queries), and on request the solved rows.

    `v` is (key heads, value width, keys); where heads are joined (key heads, keys, value width). On
    a GPU both are (entries, positions, heads, width). With rows: `rows`, (heads, 8, queries),
    beginning with the fields of `SolvedRow`; `mean`, in the shape of the mixtures. Where scores may
    have no mass, `alive`, (heads × blocks of queries, 1, tiles of keys): `MASS`, `FORMED` without
    mass, or `UNFORMED`.
    """
    blocks = arrays.q.shape[1] // spec.block_q
    parts = partial(_parts, arrays, v, with_rows)
    return called(spec, "jsoftmax_attention", forward, (spec.heads, blocks), parts)


def _parts(arrays, v, with_rows, spec):
    q, k = arrays.q, arrays.k
    heads, queries = spec.heads, q.shape[1]
    keys, width = keys_of(spec, arrays), v.shape[-1 if spec.has_rows_of_values else 1]
    like = q, k, v, arrays.numbers, arrays.bias
    blocks, tiles = queries // spec.block_q, keys // spec.block_k

    def by_key_head(h, i):
        return spec.key_head_of(h)

    tile_of_v = (spec.block_k, width) if spec.has_rows_of_values else (width, spec.block_k)
    with_mean = with_rows and not spec.is_softmax
    flags = None
    if spec.is_tpu and spec.is_sparse:
        flags = Part(
            outline((heads * blocks, 1, tiles), jnp.int32, *like),
            (1, 1, tiles), lambda h, i: (h * blocks + i, 0, 0), are_scalars=True,
        )  # fmt: skip
    sums = {
        "z": (keys, spec.block_q) if spec.on_chip else None,
        "peaks": peaks_shape(spec, keys) if spec.peaks else None,
        "limits": None if arrays.low is None else (arrays.low.shape[1], spec.block_q),
        "mixed": (width, spec.block_q) if spec.is_tpu else None,
        "mean_sum": (width, spec.block_q) if spec.is_tpu and with_mean else None,
        "total": (8, spec.block_q) if spec.is_tpu else None,
    }
    operands = {
        "q": of_places(spec, q, spec.block_q, lambda h, i: (h, i)),
        "k": of_head(spec, k, (spec.block_k, k.shape[-1]), by_key_head),
        "v": of_head(spec, v, tile_of_v, by_key_head),
        "low": _of_keys(spec, arrays.low),
        "high": _of_keys(spec, arrays.high),
        **shared(spec, arrays, lambda h, i: (h, i)),
    }
    mixed = vectors_of_queries(spec, (width, queries), spec.dtype, *like)
    results = {
        "out": mixed,
        "mean": mixed if with_mean else None,
        "rows": rows_of_queries(spec, (8, queries), spec.computing, *like) if with_rows else None,
        "alive": flags,
    }
    most = tiles if spec.lists else 0
    return Parts(operands, results, sums, {"order": most, "alive_order": most})


def _of_keys(spec, x):
    """Return an array along all keys of a key head; of an entry for joined heads and pages."""
    if x is None:
        return None
    return Part(x, (1, *x.shape[1:]), lambda h, i: (spec.key_head_of(h), 0, 0))


def keys_of(spec: Spec, arrays: Arrays) -> int:
    """Return the number of keys of a head, with the padding of the last tile."""
    if arrays.pages is None:
        return arrays.k.shape[1]
    return arrays.pages.shape[0] // spec.entries * spec.block_k


def shared(
    spec: Spec, arrays: Arrays, place: Callable, keys_are_whole: bool = True
) -> dict[str, Part | None]:
    """Return numbers, lengths, masks, biases and segments.

    `place` maps a step to its head and block of queries, or of keys if these are not whole.
    """

    def of_scores(name, x):
        if x is None:
            return None
        if not spec.is_tpu:
            return Part(x, x.shape, lambda *_: (0, 0, 0))
        _, keys, queries = x.shape
        if keys_are_whole:
            block, cut = (1, keys, min(queries, spec.block_q)), (False, queries > 1)
        else:
            block, cut = (1, min(keys, spec.block_k), queries), (keys > 1, False)

        def index(*step):
            head, number = place(*step)
            return spec.place_of(name, head), *(number if x else 0 for x in cut)

        return Part(x, block, index)

    def of_entries(x, size, is_cut):
        if x is None:
            return None

        def index(*step):
            head, number = place(*step)
            entry = spec.entry_of(head) if x.shape[0] > 1 else 0
            return entry, 0, number if is_cut else 0

        return Part(x, (1, 1, size if is_cut else x.shape[2]), index)

    return {
        "numbers": Part(arrays.numbers, are_scalars=not spec.is_joined),
        "lengths": Part(arrays.lengths, are_scalars=True),
        "bias": of_scores("bias", arrays.bias),
        "mask": of_scores("mask", arrays.mask),
        "row_segments": of_entries(arrays.row_segments, spec.block_q, keys_are_whole),
        "column_segments": of_entries(arrays.column_segments, spec.block_k, not keys_are_whole),
        "pages": None if arrays.pages is None else Part(arrays.pages, are_scalars=True),
        "streams": None if arrays.streams is None else Part(arrays.streams, are_scalars=True),
    }
