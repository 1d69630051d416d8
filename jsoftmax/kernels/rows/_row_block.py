"""Evaluate a row function on one block of rows, in any memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.kernels.rows._graph import Graph, traced
from jsoftmax.kernels.rows._pieces import Rows
from jsoftmax.kernels.rows._row_call import RowCall
from jsoftmax.kernels.rows._tile import Tile


@dataclasses.dataclass(frozen=True)
class Block:
    """A row function, traced for a block."""

    graph: Graph
    is_masked: bool  # whether its last argument is the mask of classes
    dtypes: tuple[Any, ...]  # of arguments and results


@dataclasses.dataclass(frozen=True)
class _Operand:
    """An argument or a result of a kernel."""

    ref: Any
    is_long: bool
    dtype: Any


def traced_block(
    call: RowCall, arrays: Sequence[Array], is_masked: bool, shares: bool = False
) -> Block:
    """Trace a row function, where `shares` with arrays of one row for all."""
    r, k = jax.export.symbolic_shape("r, k")
    many = max(x.shape[0] for x in arrays) > 1

    def outline(x, long):
        rows = 1 if shares and long and many and x.shape[0] == 1 else r
        return jax.ShapeDtypeStruct((rows, k if long else 1), _computing_dtype(x.dtype))

    outlines = [outline(x, long) for x, long in zip(arrays, call.longs, strict=True)]
    if is_masked:
        graph = traced(call.function, [*outlines, jax.ShapeDtypeStruct((1, k), jnp.bool_)])
    else:
        graph = traced(lambda *xs: call.function(*xs, None), outlines)
    dtypes = (*(x.dtype for x in arrays), *(dtype for _, dtype in call.results))
    return Block(graph, is_masked, dtypes)


def evaluate(
    block: Block, tile: Tile, call: RowCall, refs: Sequence[Any], load: Callable, store: Callable,
    number: Callable, room: Callable | None,
) -> None:  # fmt: skip
    """Evaluate the function on a block, and store its results."""
    padded = block.is_masked
    every = [_Operand(*x) for x in zip(refs, call.all_longs, block.dtypes, strict=True)]
    ins, outs = every[: len(call.longs)], every[len(call.longs) :]

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

    Rows(block.graph, tile, values, room).run(finish)


def _computing_dtype(dtype):
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype


def _computing(x, dtype):
    """Convert numbers to the dtype of computations: floats to float32, flags to flags."""
    if dtype == jnp.bool_:
        return x.astype(jnp.float32) > 0
    return x.astype(_computing_dtype(dtype))


def packed(x, is_long):
    """Convert flags to integers, which kernels read; many of them to bytes."""
    return x.astype(jnp.int8 if is_long else jnp.int32) if x.dtype == jnp.bool_ else x
