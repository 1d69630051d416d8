"""Gumbel noise by fixed blocks of 128 classes, the key folded with the number of the block.

So a class has the same noise however the classes are split, and noise can be made block by block.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array

BLOCK = 128


def gumbel(
    key: Array, shape: tuple[int, ...], classes: int, dtype, axis_name: Hashable | None = None
) -> Array:
    """Noise [*shape, classes]; with an `axis_name` that of the classes of this part."""
    first, offset, blocks = covering(classes, axis_name)
    noise = gumbel_blocks(key, shape, first, blocks, dtype)
    return jax.lax.dynamic_slice_in_dim(noise, offset, classes, axis=-1)


def covering(classes: int, axis_name: Hashable | None) -> tuple[int | Array, int | Array, int]:
    """Of this part the first block, where in that its classes begin, and the number of blocks."""
    if axis_name is None:
        return 0, 0, math.ceil(classes / BLOCK)
    start = jax.lax.axis_index(axis_name) * classes
    if classes % BLOCK == 0:
        return start // BLOCK, 0, classes // BLOCK
    return start // BLOCK, start % BLOCK, math.ceil((classes + BLOCK - 1) / BLOCK)


def gumbel_blocks(
    key: Array, shape: tuple[int, ...], first: int | Array, blocks: int, dtype
) -> Array:
    """Noise of whole blocks, [*shape, blocks · 128]."""

    def bits(block):
        return jax.random.bits(jax.random.fold_in(key, block), (2, *shape, BLOCK), jnp.uint32)

    numbers = jnp.arange(blocks, dtype=jnp.int32) + first
    high, low = jax.vmap(bits, out_axes=-2)(numbers)
    return _gumbel(high, low, dtype).reshape(*shape, blocks * BLOCK)


def _gumbel(high: Array, low: Array, dtype) -> Array:
    # −log E, E = −log(1 − u). A class of small probability wins by a small E, so u needs many bits
    # near 0: there 64 of them leave 24 significant ones down to 2⁻⁴⁰.
    u = high.astype(dtype) * 2.0**-32 + (low.astype(dtype) + 0.5) * 2.0**-64
    u = jnp.minimum(u, 1 - float(jnp.finfo(dtype).epsneg))
    return -jnp.log(-jnp.log1p(-u))


def whole_chunk(blocks: int, most: int) -> int:
    """How many blocks to take at once, at most: a divisor if there is one, as a rest is copied."""
    for chunk in range(min(most, blocks), most // 4, -1):
        if blocks % chunk == 0:
            return chunk
    return min(most, blocks)
