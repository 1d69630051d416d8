"""A row function in a Pallas kernel, on the platform that is lowered for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jsoftmax.kernels._plain import as_flag, as_number
from jsoftmax.kernels.rows._graph import traced
from jsoftmax.kernels.rows._pieces import Rows
from jsoftmax.kernels.rows._plan import LANES, Plan, gpu_plan, tpu_plan
from jsoftmax.kernels.rows._tile import is_long


_SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class RowCall:
    """A function of arrays of the shapes [n, k], [1, k] (both long) and [n, 1].

    Its last argument is a mask of the shape [1, k] that says which classes there are, or None
    where no block reaches beyond the last of them.
    """

    function: Callable[..., tuple[Array, ...]]
    classes: int
    longs: tuple[bool, ...]  # of the arguments
    results: tuple[tuple[bool, Any], ...]  # whether each is long, and its dtype

    def shapes(self, rows: int) -> list[jax.ShapeDtypeStruct]:
        """The outlines of the results for so many rows."""
        sizes = ((self.classes if long else 1, dtype) for long, dtype in self.results)
        return [jax.ShapeDtypeStruct((rows, size), dtype) for size, dtype in sizes]


@dataclasses.dataclass(frozen=True)
class _Operand:
    """An argument or a result of a kernel."""

    ref: Any
    is_long: bool
    dtype: Any


def on_chip(call: RowCall, *arrays: Array) -> list[Array]:
    """The results of a row function, by a kernel for the platform that is lowered for."""
    return _rows.bind(*arrays, call=call)


_rows = Primitive("jsoftmax_rows")
_rows.multiple_results = True


@_rows.def_abstract_eval
def _shapes(*arrays, call):
    shapes = call.shapes(max(x.shape[0] for x in arrays))
    return [jax.core.ShapedArray(x.shape, x.dtype) for x in shapes]


@_rows.def_impl
def _computed(*arrays, call):
    return jax.jit(partial(_rows.bind, call=call))(*arrays)


def _batched(arrays, axes, *, call):
    """`vmap` adds rows."""
    size = next(x.shape[a] for x, a in zip(arrays, axes, strict=True) if a is not None)
    rows = max(x.shape[0 if a is None else a == 0] for x, a in zip(arrays, axes, strict=True))

    def merged(x, axis, long):
        if axis is None and long and x.shape[0] == 1:
            return x
        x = jnp.expand_dims(x, 0) if axis is None else jnp.moveaxis(x, axis, 0)
        return jnp.broadcast_to(x, (size, rows, x.shape[-1])).reshape(size * rows, -1)

    found = _rows.bind(*map(merged, arrays, axes, call.longs), call=call)
    return [x.reshape(size, rows, -1) for x in found], [0] * len(found)


batching.primitive_batchers[_rows] = _batched


def _register(function: Callable, platform: str | None = None, **options: Any) -> None:
    def lowered(*arrays, call):
        return function(call, *arrays, **options)

    rule = mlir.lower_fun(lowered, multiple_results=True)
    mlir.register_lowering(_rows, rule, platform=platform)


def tpu_kernel(call: RowCall, *arrays: Array, interpret: bool = False) -> list[Array]:
    """Blocks of rows in vector memory."""
    n, k = max(x.shape[0] for x in arrays), call.classes
    results = call.shapes(n)
    longs = [*call.longs, *(x for x, _ in call.results)]
    pairs = list(zip([*arrays, *results], longs, strict=True))
    plan = tpu_plan(n, k, [x.dtype.itemsize for x, long in pairs if long])
    tile, width, turned = plan.tile, plan.width, plan.tile.on_lanes

    def spec(x, long):
        height = 1 if x.shape[0] == 1 else tile.rows
        if long:
            return pl.BlockSpec((height, width), lambda i: (i if height > 1 or n == 1 else 0, 0))
        if turned:
            return pl.BlockSpec((_SUBLANES, height), lambda i: (0, i))
        return pl.BlockSpec((height, LANES), lambda i: (i, 0))

    def lying(x, long):
        # A number is there for every sublane, or lane, since Mosaic does not spread one.
        if long:
            return x
        return jnp.broadcast_to(x.reshape(1, n), (_SUBLANES, n)) if turned else (
            jnp.broadcast_to(x, (n, LANES))
        )  # fmt: skip

    def body(*refs):
        spare = list(refs[len(pairs) :])
        refs = refs[: len(pairs)]
        lies = {id(ref): spare.pop(0) for ref, long in zip(refs, longs, strict=True) if long and turned}
        ins, outs = _operands(call, arrays, refs)
        for x in ins:
            if id(x.ref) in lies:
                block = jnp.broadcast_to(x.ref[...].astype(jnp.float32), (tile.rows, width))
                lies[id(x.ref)][...] = block.T

        def place(i):
            if tile.pieces == 1:
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

        _evaluate(call, plan, ins, outs, load, store, number, room)
        for x in outs:
            if id(x.ref) in lies:
                x.ref[...] = lies[id(x.ref)][...].T.astype(x.ref.dtype)

    scratch = [
        pltpu.VMEM((width, tile.rows), jnp.float32) for _, long in pairs if long and turned
    ]
    specs = [spec(x, long) for x, long in pairs]
    outlines = [jax.eval_shape(partial(lying, long=long), x) for x, (long, _) in zip(results, call.results, strict=True)]
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
    )(*(lying(_packed(x, long), long) for x, long in zip(arrays, call.longs, strict=True)))
    return [
        x if long else x[:1].reshape(y.shape) if turned else x[:, :1]
        for x, y, (long, _) in zip(found, results, call.results, strict=True)
    ]


def gpu_kernel(call: RowCall, *arrays: Array, interpret: bool = False) -> list[Array]:
    """A row in each block of threads."""
    n, k = max(x.shape[0] for x in arrays), call.classes
    results = call.shapes(n)
    longs = [*call.longs, *(x for x, _ in call.results)]
    plan = gpu_plan(n, k)
    tile = plan.tile

    def spec(x, long):
        place = (lambda i: (0, 0)) if x.shape[0] == 1 else (lambda i: (i, 0))
        return pl.BlockSpec((1, k if long else 1), place)

    def body(*refs):
        ins, outs = _operands(call, arrays, refs)

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
        _evaluate(call, plan, ins, outs, load, store, lambda ref: ref[...], one)

    specs = [spec(x, long) for x, long in zip([*arrays, *results], longs, strict=True)]
    found = pl.pallas_call(
        body,
        out_shape=results,
        grid=(n,),
        in_specs=specs[: len(arrays)],
        out_specs=specs[len(arrays) :],
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=plan.warps),
    )(*map(_packed, arrays, call.longs))
    return list(found)


def _operands(call, arrays, refs):
    longs = [*call.longs, *(x for x, _ in call.results)]
    dtypes = [*(x.dtype for x in arrays), *(dtype for _, dtype in call.results)]
    every = [_Operand(*x) for x in zip(refs, longs, dtypes, strict=True)]
    return every[: len(arrays)], every[len(arrays) :]


def _kept(nodes, refs, index):
    """How long arrays are read from references, and written there."""
    places = {id(x): ref for x, ref in zip(nodes, refs, strict=True)}

    def load(x):
        flag = x.aval.dtype == jnp.bool_
        return lambda i, known: as_flag(places[id(x)][index(i)], flag)

    def store(x, i, value):
        places[id(x)][index(i)] = as_number(value)

    return load, store


def _evaluate(call, plan: Plan, ins, outs, load, store, number, room) -> None:
    """Evaluate the function on a block, and store what it gives."""
    tile, padded = plan.tile, plan.width != call.classes
    r, k = jax.export.symbolic_shape("r, k")

    def outline(x):
        shared = x.is_long and x.ref.shape[0] == 1 and tile.rows > 1 and not tile.on_lanes
        return jax.ShapeDtypeStruct(
            (1 if shared else r, k if x.is_long else 1), _computing_dtype(x.dtype)
        )

    outlines = [outline(x) for x in ins]
    if padded:
        graph, _ = traced(call.function, [*outlines, jax.ShapeDtypeStruct((1, k), jnp.bool_)])
    else:
        graph, _ = traced(lambda *xs: call.function(*xs, None), outlines)

    def within(i, _=None):
        shape = (tile.piece, 1) if tile.on_lanes else (1, tile.piece)
        index = jax.lax.broadcasted_iota(jnp.int32, shape, tile.axis)
        return index + i * tile.piece < call.classes

    def argument(x):
        if not x.is_long:
            return _computing(number(x.ref), x.dtype)
        read = load(x.ref)

        def piece(i, _):
            found = _computing(read(i), x.dtype)
            if not padded:
                return found
            return found & within(i) if x.dtype == jnp.bool_ else jnp.where(within(i), found, 0)

        return piece

    values = [argument(x) for x in ins]
    if padded:
        values.append(within)

    def finish(rows):
        pairs = list(zip(outs, rows.graph.results, strict=True))
        wide = [(out, x) for out, x in pairs if out.is_long]
        rows.settle_for([x for _, x in wide])

        def keep(i, known):
            for out, x in wide:
                store(out.ref, i, rows.piece(x, i, known))

        if wide:
            rows.sweep(keep)
        for out, x in pairs:
            if not out.is_long:
                value = jnp.broadcast_to(rows.number(x), out.ref.shape)
                out.ref[...] = value.astype(out.ref.dtype)
        return []

    Rows(graph, tile, values, room).run(finish)


def _computing_dtype(dtype):
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype


def _computing(x, dtype):
    """Numbers as they are computed with: floats in float32, flags as flags."""
    if dtype == jnp.bool_:
        return x.astype(jnp.float32) > 0
    return x.astype(_computing_dtype(dtype))


def _packed(x, is_long):
    """Flags as integers, which kernels read; many of them as bytes."""
    return x.astype(jnp.int8 if is_long else jnp.int32) if x.dtype == jnp.bool_ else x


_register(tpu_kernel, interpret=True)
_register(tpu_kernel, "tpu")
_register(gpu_kernel, "cuda")
