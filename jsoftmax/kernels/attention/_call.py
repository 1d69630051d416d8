"""Call a kernel with named operands, results and memory on the chip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jsoftmax.core._mesh_axes import varies_over
from jsoftmax.kernels._plain import plain
from jsoftmax.kernels.attention._spec import Spec

MOST = 60 * 2**20  # of 64 MiB on the chips that have least (v5p)
_LEAST = 16 * 2**20  # a TPU's default limit for a kernel
_SLACK = 2 * 2**20
_TILES = 12  # arrays of the size of a tile that live at once


@dataclasses.dataclass(frozen=True)
class Part:
    """The block of an array in a step of the grid: all of it, unless a shape is given."""

    array: Any  # an array, or the outline of a result
    block: tuple[int | None, ...] | None = None  # None for an axis of block size 1, left out
    index: Callable[..., Any] | None = None
    are_scalars: bool = False  # numbers that control the kernel, or its counters
    tile: tuple[int, ...] | None = None  # of an array in main memory that is copied tile by tile

    @property
    def size(self) -> int:
        """Bytes on the chip, padded to lanes and sublanes."""
        shape = self.tile or self.block or self.array.shape
        *lead, rows, lanes = (1, *(n or 1 for n in shape))
        rows, lanes = rows + -rows % 8, lanes + -lanes % 128
        return math.prod(lead) * rows * lanes * jnp.dtype(self.array.dtype).itemsize


class Parts(NamedTuple):
    """Operands, results and sums of a kernel; None for one that is left out."""

    operands: dict[str, Part | None]
    results: dict[str, Part | None]
    sums: dict[str, tuple[int, ...] | None]  # shapes, of the computing dtype
    lists: Mapping[str, int] = MappingProxyType({})  # of tiles: how long they may be


def called(
    spec: Spec, name: str, body: Callable, grid: tuple[int, ...], parts: Callable[[Spec], Parts]
) -> dict[str, Array]:
    """Run body(spec, refs) as a kernel; return its results by name.

    In `refs` a reference that was left out is None. The arrays that a step iterates over are on the
    chip if they fit there; if not, their tiles are copied.
    """
    spec = dataclasses.replace(spec, is_streamed=False)
    if spec.is_tpu and needed(spec, parts(spec)) > MOST:
        spec = dataclasses.replace(spec, is_streamed=True)
    found = parts(spec)
    operands, results, scratch, lists = found
    buffers = {key: part for key, part in operands.items() if part is not None and part.tile}
    given = {key: part for key, part in operands.items() if part is not None}
    asked = {key: part for key, part in results.items() if part is not None}
    sums = {key: shape for key, shape in scratch.items() if shape is not None}
    kept: dict[str, Any] = {key: pltpu.VMEM(shape, spec.computing) for key, shape in sums.items()}
    kept |= {key: pltpu.SMEM((length,), jnp.int32) for key, length in lists.items() if length}
    for key, part in buffers.items():
        kept[f"{key}_buffers"] = pltpu.VMEM((2, *(part.tile or ())), part.array.dtype)
        kept[f"{key}_semaphores"] = pltpu.SemaphoreType.DMA((2,))
    absent = {key: None for tree in (operands, results, scratch, lists) for key in tree}
    absent |= {f"{key}_{kind}": None for key in operands for kind in ("buffers", "semaphores")}

    def kernel(*refs):
        names = [*given, *asked, *kept]
        refs = SimpleNamespace(**(absent | dict(zip(names, refs, strict=True))))
        plain(lambda: body(spec, refs))()

    values = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[_block(spec, part) for part in given.values()],
        out_specs=[_block(spec, part) for part in asked.values()],
        out_shape=[part.array for part in asked.values()],
        scratch_shapes=list(kept.values()),
        interpret=spec.interpret,
        name=name,
        **_parameters(spec, len(grid), found),
    )(*(part.array for part in given.values()))
    return dict(zip(asked, values, strict=True))


def _block(spec, part):
    if part.are_scalars and spec.is_tpu:
        return pl.BlockSpec(part.block, part.index, memory_space=pltpu.SMEM)
    if part.tile:
        return pl.BlockSpec(memory_space=pl.ANY)
    return pl.BlockSpec(part.block, part.index)


def _parameters(spec: Spec, rank: int, parts: Parts) -> dict[str, Any]:
    if not spec.is_tpu:
        from jax.experimental.pallas import triton

        return {
            "compiler_params": triton.CompilerParams(num_warps=spec.warps, num_stages=spec.stages)
        }
    order = ("parallel",) * (rank - 1) + ("arbitrary",)
    limit = max(_LEAST, needed(spec, parts))
    return {
        "compiler_params": pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=limit)
    }


def needed(spec: Spec, parts: Parts) -> int:
    """Return the bytes needed on the chip: blocks, double buffered, and the arrays of a tile."""
    blocks = [*parts.operands.values(), *parts.results.values()]
    blocks = sum(2 * part.size for part in blocks if part is not None and not part.are_scalars)
    sums = sum(4 * math.prod(shape) for shape in parts.sums.values() if shape is not None)
    return blocks + sums + _TILES * 4 * spec.block_q * spec.block_k + _SLACK


def outline(shape: tuple[int, ...], dtype: Any, *like: Array | None) -> jax.ShapeDtypeStruct:
    """Return the outline of a result that varies over a mesh as the arrays do, which are alike."""
    kinds = [jax.typeof(x).manual_axis_type for x in like if x is not None and varies_over(x)]
    more = {"manual_axis_type": kinds[0]} if kinds else {}
    return jax.ShapeDtypeStruct(shape, dtype, **more)
