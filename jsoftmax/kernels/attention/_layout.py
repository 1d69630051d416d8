"""Memory layout of arrays with heads, and their blocks in a step of a kernel.

A TPU copies blocks of contiguous rows, so that its arrays are (heads, positions, width). A GPU
loads by strides: its arrays are (entries, positions, heads of an entry, width), the layout of
attention's arguments. A block of one head is (1, positions, width) in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.kernels.attention._call import Part, outline
from jsoftmax.kernels.attention._spec import Spec, quotient, remainder

Place = Callable[..., tuple[Any, Any]]  # of a step of the grid: (head, number of the block)


def of_places(spec: Spec, x: Array | jax.ShapeDtypeStruct, size: int, place: Place) -> Part:
    """Return a block of `size` positions of one head."""
    width = x.shape[-1]
    if spec.is_tpu:
        return Part(x, (1, size, width), lambda *step: (*place(*step), 0))

    def index(*step):
        head, number = place(*step)
        return quotient(head, x.shape[2]), number, remainder(head, x.shape[2]), 0

    return Part(x, (1, size, None, width), index)


def of_head(spec: Spec, x: Array, tile: tuple[int, int], head: Callable) -> Part:
    """Return an array for a step of the grid that iterates over the tiles of one head."""
    if spec.is_streamed or spec.is_paged:
        return Part(x, tile=tile)
    if spec.is_tpu:
        return Part(x, (1, *x.shape[1:]), lambda *step: (head(*step), 0, 0))
    return of_places(spec, x, x.shape[1], lambda *step: (head(*step), 0))


def of_group(spec: Spec, x: Array) -> Part:
    """Return all query heads that share a key head: (queries, heads, width), or their rows."""
    if x.ndim == 3:
        return Part(x, (spec.groups, *x.shape[1:]), lambda head, *_: (head, 0, 0))
    block = (None, x.shape[1], spec.groups, x.shape[3])
    n = spec.key_heads
    return Part(x, block, lambda head, *_: (quotient(head, n), 0, remainder(head, n), 0))


def vectors_of_queries(spec: Spec, shape: tuple[int, int], dtype: Any, *like: Array | None) -> Part:
    """Return a result (width, queries) of each head, written by blocks of queries."""
    width, queries = shape
    if spec.is_tpu:
        return rows_of_queries(spec, shape, dtype, *like)
    native = spec.entries, queries, spec.key_heads * spec.groups, width
    return of_places(spec, outline(native, dtype, *like), spec.block_q, lambda h, i: (h, i))


def rows_of_queries(spec: Spec, shape: tuple[int, int], dtype: Any, *like: Array | None) -> Part:
    """Return a result (heads, rows, queries), with the same layout on every platform."""
    rows, queries = shape
    array = outline((spec.heads, rows, queries), dtype, *like)
    return Part(array, (1, rows, spec.block_q), lambda h, i: (h, 0, i))


def write(spec: Spec, ref: Any, x: Array) -> None:
    """Write a block (width, queries) of a result; on a GPU transposed, by its addresses.

    Triton does not compile every transposition of the result of a branch.
    """
    x = x.astype(ref.dtype)
    if spec.is_tpu:
        ref[0] = x
        return
    columns, rows = (jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) for axis in (0, 1))
    ref[0 * rows, rows, columns] = x  # a plain 0 would be an array that the kernel closes over
