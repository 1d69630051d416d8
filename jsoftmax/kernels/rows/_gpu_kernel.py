"""Evaluate a row function on a GPU, with a row for each block of threads."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jsoftmax.kernels.rows._plan import LEAST, gpu_plan
from jsoftmax.kernels.rows._row_block import evaluate, packed, traced_block
from jsoftmax.kernels.rows._row_call import RowCall


def gpu_kernel(call: RowCall, *arrays: Array, interpret: bool = False) -> list[Array]:
    """Run a kernel with a row in each block of threads."""
    n, k = max(x.shape[0] for x in arrays), call.classes
    results = call.shapes(n)
    longs = call.all_longs
    block = traced_block(call, arrays, is_masked=k < LEAST or k & (k - 1) != 0)
    plan = gpu_plan(k, sum(longs), block.graph.size)
    tile = dataclasses.replace(plan.tile, is_interpreted=interpret)

    def spec(x, long):
        place = (lambda i: (0, 0)) if x.shape[0] == 1 else (lambda i: (i, 0))
        return pl.BlockSpec((1, k if long else 1), place)

    def body(*refs):
        def inside(i):
            if k % tile.piece == 0:
                return None
            index = jax.lax.broadcasted_iota(jnp.int32, (1, tile.piece), 1)
            return index + i * tile.piece < k

        def place(ref, i):
            return ref.at[:, pl.ds(i * tile.piece, tile.piece)]

        def load(ref):
            def read(i):
                mask = inside(i)
                return triton.load(place(ref, i), mask=mask, other=None if mask is None else 0)

            if tile.pieces > 1:
                return read
            once = read(0)
            return lambda i: once

        def store(ref, i, x):
            triton.store(place(ref, i), x.astype(ref.dtype), mask=inside(i))

        def room(nodes, then):
            found: dict[int, Any] = {}
            return then(
                lambda x: lambda i, known: found[id(x)], lambda x, i, v: found.update({id(x): v})
            )

        one = room if tile.pieces == 1 else None
        evaluate(block, tile, call, refs, load, store, lambda ref: ref[...], one)

    specs = [spec(x, long) for x, long in zip([*arrays, *results], longs, strict=True)]
    found = pl.pallas_call(
        body,
        out_shape=results,
        grid=(n,),
        in_specs=specs[: len(arrays)],
        out_specs=specs[len(arrays) :],
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=plan.warps),
    )(*map(packed, arrays, call.longs))
    return list(found)
