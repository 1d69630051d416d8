"""Evaluate a row function on a TPU, with blocks of rows in vector memory."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jsoftmax.kernels._plain import as_flag, as_number
from jsoftmax.kernels.rows._plan import LANES, tpu_plan
from jsoftmax.kernels.rows._row_block import evaluate, packed, traced_block
from jsoftmax.kernels.rows._row_call import RowCall

_SUBLANES = 8


def tpu_kernel(call: RowCall, *arrays: Array, interpret: bool = False) -> list[Array]:
    """Run a kernel with blocks of rows in vector memory."""
    n, k = max(x.shape[0] for x in arrays), call.classes
    results = call.shapes(n)
    longs = call.all_longs
    pairs = list(zip([*arrays, *results], longs, strict=True))
    sizes = [x.dtype.itemsize for x, long in pairs if long]
    plan = tpu_plan(n, k, sizes)
    tile = dataclasses.replace(plan.tile, is_interpreted=interpret)
    width, turned = plan.width, tile.on_lanes
    block = traced_block(call, arrays, is_masked=width != k, shares=not turned)

    def spec(x, long):
        height = 1 if x.shape[0] == 1 else tile.rows
        if long:
            place = (lambda i: (i, 0)) if height > 1 or n == 1 else (lambda i: (0, 0))
            mode = {} if plan.buffers > 1 else {"pipeline_mode": pl.Buffered(1)}
            return pl.BlockSpec((height, width), place, **mode)
        if turned:
            return pl.BlockSpec((_SUBLANES, height), lambda i: (0, i))
        return pl.BlockSpec((height, LANES), lambda i: (i, 0))

    def lying(x, long):
        # A number is repeated for every sublane, or lane, since Mosaic does not broadcast one.
        if long:
            return x
        return jnp.broadcast_to(x.reshape(1, n), (_SUBLANES, n)) if turned else (
            jnp.broadcast_to(x, (n, LANES))
        )  # fmt: skip

    def body(*refs):
        spare = list(refs[len(pairs) :])
        refs = refs[: len(pairs)]
        lies = {
            id(ref): spare.pop(0) for ref, long in zip(refs, longs, strict=True) if long and turned
        }
        for ref in refs[: len(arrays)]:
            if id(ref) in lies:
                whole = jnp.broadcast_to(ref[...].astype(jnp.float32), (tile.rows, width))
                lies[id(ref)][...] = whole.T

        def place(i):
            if tile.piece == width:
                return slice(None)
            return pl.ds(pl.multiple_of(i * tile.piece, tile.piece), tile.piece)

        def index(i):
            return (place(i), slice(None)) if turned else (slice(None), place(i))

        def load(ref):
            return lambda i: lies.get(id(ref), ref)[index(i)]

        def store(ref, i, x):
            ref = lies.get(id(ref), ref)
            ref[index(i)] = x.astype(ref.dtype)

        def number(ref):
            # A row that is the same along the other axis, as reductions are.
            x = ref[...]
            return jnp.max(x, axis=tile.axis, keepdims=True)

        def room(nodes, then):
            return pl.run_scoped(lambda *refs: then(*_kept(nodes, refs, index)), *map(space, nodes))

        def space(x):
            sizes = tile.shape(x.aval)
            dtype = jnp.float32 if x.aval.dtype == jnp.bool_ else x.aval.dtype
            return pltpu.VMEM((width, sizes[1]) if turned else (sizes[0], width), dtype)

        evaluate(block, tile, call, refs, load, store, number, room if plan.keeps else None)
        for ref in refs[len(arrays) :]:
            if id(ref) in lies:
                ref[...] = lies[id(ref)][...].T.astype(ref.dtype)

    scratch = [pltpu.VMEM((width, tile.rows), jnp.float32) for _, long in pairs if long and turned]
    specs = [spec(x, long) for x, long in pairs]
    outlines = [
        jax.eval_shape(partial(lying, long=long), x)
        for x, (long, _) in zip(results, call.results, strict=True)
    ]
    found = pl.pallas_call(
        body,
        out_shape=outlines,
        grid=(pl.cdiv(n, tile.rows),),
        in_specs=specs[: len(arrays)],
        out_specs=specs[len(arrays) :],
        scratch_shapes=scratch,
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=plan.vmem
        ),
    )(*(lying(packed(x, long), long) for x, long in zip(arrays, call.longs, strict=True)))
    return [
        x if long else x[:1].reshape(y.shape) if turned else x[:, :1]
        for x, y, (long, _) in zip(found, results, call.results, strict=True)
    ]


def _kept(nodes, refs, index):
    """Return functions that load long arrays from references and store them."""
    places = {id(x): ref for x, ref in zip(nodes, refs, strict=True)}

    def load(x):
        flag = x.aval.dtype == jnp.bool_
        return lambda i, known: as_flag(places[id(x)][index(i)], flag)

    def store(x, i, value):
        places[id(x)][index(i)] = as_number(value)

    return load, store
