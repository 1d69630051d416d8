"""Compute a row function by a Pallas kernel, on the platform that is lowered for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jsoftmax.kernels.rows._gpu_kernel import gpu_kernel
from jsoftmax.kernels.rows._row_call import RowCall
from jsoftmax.kernels.rows._tpu_kernel import tpu_kernel


def on_chip(call: RowCall, *arrays: Array) -> list[Array]:
    """Return the results of a row function, by a kernel for the platform that is lowered for."""
    return _rows.bind(*arrays, call=call)


_rows = Primitive("jsoftmax_rows")
_rows.multiple_results = True


@_rows.def_abstract_eval
def _shapes(*arrays, call):
    shapes = call.shapes(max(x.shape[0] for x in arrays))
    return [ShapedArray(x.shape, x.dtype) for x in shapes]


@_rows.def_impl
def _computed(*arrays, call):
    return jax.jit(partial(_rows.bind, call=call))(*arrays)


def _batched(arrays, axes, *, call):
    """Add rows under `vmap`."""
    size = next(x.shape[a] for x, a in zip(arrays, axes, strict=True) if a is not None)
    rows = max(x.shape[0 if a is None else a == 0] for x, a in zip(arrays, axes, strict=True))

    def merged(x, axis, long):
        if axis is None and long and x.shape[0] == 1 and rows > 1:
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


_register(tpu_kernel, interpret=True)
_register(tpu_kernel, "tpu")
_register(gpu_kernel, "cuda")
