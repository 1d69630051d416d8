"""Draw Gumbel noise that does not depend on how classes are split.

Noise is drawn in blocks of at most 128 classes, and the block number is folded into the key of each
block. A device with some of the classes draws the blocks that cover them and slices out its part,
so a row has the same noise in one piece, split over a mesh, or streamed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._axis import ClassAxis

_BLOCK = 128


def another_key(key: Array, number: int = 0) -> Array:
    """Return a key for noise apart from that of the blocks, which fold in their numbers from 0."""
    return jax.random.fold_in(key, np.uint32(2**32 - 1 - number))


def block_size(classes: int) -> int:
    """Return the number of classes in each block of a row, the same for all blocks.

    It is at most 128, and chosen so that fewer surplus classes than blocks are drawn.
    """
    return -(-classes // -(-classes // _BLOCK))


def covering(
    length: int, size: int, axis_name: Hashable | None
) -> tuple[int | Array, int | Array, int]:
    """Return the first block of `length` local classes, their offset in it, and the block count."""
    if axis_name is None:
        return 0, 0, math.ceil(length / size)
    start = jax.lax.axis_index(axis_name) * length
    if length % size == 0:
        return start // size, 0, length // size
    return start // size, start % size, math.ceil((length - 1) / size) + 1


def gumbel_blocks(
    key: Array, rows: tuple[Any, ...], first: int | Array, blocks: int, size: int, dtype: Any
) -> Array:
    """Return the noise of whole blocks of classes in every row, of shape [*rows, blocks · size]."""

    def block(number: Array) -> Array:
        return gumbel(jax.random.fold_in(key, number), (*rows, size), dtype)

    numbers = first + jnp.arange(blocks, dtype=jnp.int32)
    return jax.vmap(block, out_axes=-2)(numbers).reshape(*rows, blocks * size)


def whole_chunk(blocks: int, most: int) -> int:
    """Return the number of blocks per chunk, if possible a divisor, since a remainder is copied."""
    for chunk in range(min(most, blocks), most // 4, -1):
        if blocks % chunk == 0:
            return chunk
    return min(most, blocks)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=2, inline=True)
def gumbel_like(key: Array, z: Array, classes: ClassAxis) -> Array:
    """Draw independent standard Gumbel noise for every entry of `z`, in its dtype.

    Rows of `z` have independent noise. For rows on different devices inside `shard_map` this
    requires that the device number has been folded into the key.
    """
    shape = z.shape
    rows = tuple(n for a, n in enumerate(shape, -z.ndim) if a not in classes.axis)
    here = tuple(shape[a] for a in classes.axis)
    length, size = int(np.prod(here)), block_size(classes.size(z))
    first, start, blocks = covering(length, size, classes.axis_name)
    row = gumbel_blocks(key, rows, first, blocks, size, z.dtype)
    row = jax.lax.dynamic_slice_in_dim(row, start, length, axis=-1)
    noise = row.reshape(*rows, *here)
    return jnp.moveaxis(noise, range(-len(here), 0), classes.axis)


def gumbel(key: Array, shape: tuple[Any, ...], dtype: Any) -> Array:
    """Draw −log E for exponential E, with the best resolution for the largest values.

    Only the largest are ever chosen. With all bits of a word in a small E they reach 22 in float32,
    where `jax.random.gumbel` stops at 16 and ties among a million classes.
    """
    bits, most = {4: (jnp.uint32, 2.0**32), 8: (jnp.uint64, 2.0**64)}[np.dtype(dtype).itemsize]
    drawn = jax.random.bits(key, shape, bits).astype(dtype)
    below_one = 1 - float(jnp.finfo(dtype).epsneg)
    u = jnp.minimum((drawn + 0.5) * (1 / most), below_one)
    return -jnp.log(-jnp.log1p(-u))
