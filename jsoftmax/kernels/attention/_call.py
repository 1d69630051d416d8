"""One call of a kernel whose operands, results and memory on the chip have names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jsoftmax.core._mesh_axes import varies_over
from jsoftmax.kernels._plain import plain
from jsoftmax.kernels.attention._spec import Spec

_LEAST = 16 * 2**20  # what a TPU gives to a kernel without being asked
_SLACK = 2 * 2**20
_TILES = 12  # arrays of the size of a tile that live at once


@dataclasses.dataclass(frozen=True)
class Part:
    """A block of an array that a step of the grid sees: all of it, unless a shape is given."""

    array: Any  # an array, or the outline of a result
    block: tuple[int, ...] | None = None
    index: Callable[..., Any] | None = None
    are_scalars: bool = False  # numbers that steer the kernel, or that it counts
    tile: tuple[int, ...] | None = None  # of an array in main memory, of which tiles are copied

    @property
    def size(self) -> int:
        """Bytes on the chip, as lanes and sublanes fill them."""
        shape = self.tile or self.block or self.array.shape
        *lead, rows, lanes = (1, *shape)
        rows, lanes = rows + -rows % 8, lanes + -lanes % 128
        return math.prod(lead) * rows * lanes * jnp.dtype(self.array.dtype).itemsize


def called(
    spec: Spec,
    name: str,
    body: Callable[[Spec, SimpleNamespace], None],
    grid: tuple[int, ...],
    operands: dict[str, Part | None],
    results: dict[str, Part | None],
    scratch: dict[str, tuple[int, ...] | None],
) -> dict[str, Array]:
    """The results of `body` by their names; a reference that was left out is None in it."""
    buffers = {key: part for key, part in operands.items() if part is not None and part.tile}
    given, asked, sums = (
        {key: x for key, x in tree.items() if x is not None}
        for tree in (operands, results, scratch)
    )
    kept = {key: pltpu.VMEM(shape, jnp.float32) for key, shape in sums.items()}
    for key, part in buffers.items():
        kept[f"{key}_buffers"] = pltpu.VMEM((2, *part.tile), part.array.dtype)
        kept[f"{key}_semaphores"] = pltpu.SemaphoreType.DMA((2,))
    absent = {key: None for tree in (operands, results, scratch) for key in tree}
    absent |= {f"{key}_{kind}": None for key in operands for kind in ("buffers", "semaphores")}

    def kernel(*refs):
        names = [*given, *asked, *kept]
        refs = SimpleNamespace(**(absent | dict(zip(names, refs, strict=True))))
        plain(lambda: body(spec, refs))()

    found = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[_block(spec, part) for part in given.values()],
        out_specs=[_block(spec, part) for part in asked.values()],
        out_shape=[part.array for part in asked.values()],
        scratch_shapes=list(kept.values()),
        interpret=spec.interpret,
        name=name,
        **_parameters(spec, len(grid), [*given.values(), *asked.values()], sums),
    )(*(part.array for part in given.values()))
    return dict(zip(asked, found, strict=True))


def _block(spec, part):
    if part.are_scalars and spec.is_tpu:
        return pl.BlockSpec(part.block, part.index, memory_space=pltpu.SMEM)
    if part.tile:
        return pl.BlockSpec(memory_space=pl.ANY)
    return pl.BlockSpec(part.block, part.index)


def _parameters(spec, rank, parts, sums):
    if not spec.is_tpu:
        from jax.experimental.pallas import triton

        return {
            "compiler_params": triton.CompilerParams(num_warps=spec.warps, num_stages=spec.stages)
        }
    order = ("parallel",) * (rank - 1) + ("arbitrary",)
    need = needed(spec, parts, list(sums.values()))
    return {
        "compiler_params": pltpu.CompilerParams(
            dimension_semantics=order, vmem_limit_bytes=max(_LEAST, need)
        )
    }


def needed(spec: Spec, parts: list[Part], scratch: list[tuple[int, ...]]) -> int:
    """Bytes of the chip's memory: blocks, the next ones beside them, and what a tile is made of."""
    blocks = sum(2 * part.size for part in parts if not part.are_scalars)
    kept = sum(4 * math.prod(shape) for shape in scratch)
    return blocks + kept + _TILES * 4 * spec.block_q * spec.block_k + _SLACK


def outline(shape: tuple[int, ...], dtype: Any, *like: Array | None) -> jax.ShapeDtypeStruct:
    """A result that varies over a mesh as the arrays do of which it is made, which are alike."""
    kinds = [jax.typeof(x).manual_axis_type for x in like if x is not None and varies_over(x)]
    more = {"manual_axis_type": kinds[0]} if kinds else {}
    return jax.ShapeDtypeStruct(shape, dtype, **more)
