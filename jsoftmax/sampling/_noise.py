"""Keys that have been checked, and Gumbel noise that does not depend on how classes are split.

Noise is drawn in blocks of at most 128 classes, each with a key into which the number of the block
has been folded. Whoever has some of the classes draws the blocks in which they lie and cuts out
what is theirs, so a row has the same noise in one piece, split over a mesh, or streamed. Exact
sampling draws from here too, which makes its Gumbel-max sample the limit of `gumbel_softmax`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._axis import ClassAxis

_BLOCK = 128


def check_key(function: str, key: Any) -> Array:
    """`key` as one typed key, also if it was made by `jax.random.PRNGKey`."""
    remedy = "give it one key, such as jax.random.key(0)"
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"jsoftmax.{function}: `key` is {_described(key)}; {remedy}."
            + (f" For the seed {key}: jax.random.key({key})." if type(key) is int else "")
        )
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != jnp.uint32:
        raise TypeError(
            f"jsoftmax.{function}: `key` is an array of dtype {key.dtype} and shape {key.shape}; "
            f"{remedy}. Does it stand before `logits`?"
        )
    if key.ndim != (0 if typed else 1):
        raise ValueError(
            f"jsoftmax.{function}: `key` of shape {key.shape} is not one key; {remedy}. For a "
            "batch of keys use jax.vmap, for many rows one key is enough."
        )
    return key if typed else jax.random.wrap_key_data(key)


def _described(key: Any) -> str:
    if key is None:
        return "None"
    if isinstance(key, np.ndarray):
        return f"a numpy array of dtype {key.dtype} and shape {key.shape}"
    return f"{key!r} of type {type(key).__name__}"


def another_key(key: Array, number: int = 0) -> Array:
    """A key for other noise than that of the blocks, whose numbers are folded in from 0 on."""
    return jax.random.fold_in(key, np.uint32(2**32 - 1 - number))


def block_size(classes: int) -> int:
    """How many classes there are in each block of a row of so many, all blocks alike.

    At most 128, and such that fewer classes than there are blocks are drawn in vain.
    """
    return -(-classes // -(-classes // _BLOCK))


def gumbel_block(
    key: Array, number: int | Array, rows: tuple[int, ...], size: int, dtype: Any
) -> Array:
    """The noise of one block of classes in every row, of shape [*rows, size]."""
    return gumbel(jax.random.fold_in(key, number), (*rows, size), dtype)


# Compiled once for a shape also when it is called outside of `jit`; inside it leaves no trace.
@partial(jax.jit, static_argnums=2, inline=True)
def gumbel_like(key: Array, z: Array, classes: ClassAxis) -> Array:
    """Independent standard Gumbel noise for every entry of `z`, of its dtype.

    Rows of `z` have noise of their own. Rows that lie on different devices inside `shard_map` do
    only if the number of the device has been folded into the key.
    """
    shape = z.shape
    rows = tuple(n for a, n in enumerate(shape, -z.ndim) if a not in classes.axis)
    here = tuple(shape[a] for a in classes.axis)
    length, size = int(np.prod(here)), block_size(classes.size(z))
    if classes.axis_name is None:
        first, start, count = 0, 0, -(-length // size)
    else:
        offset = jax.lax.axis_index(classes.axis_name) * length
        first, start = offset // size, offset % size
        count = length // size if length % size == 0 else -(-(length - 1) // size) + 1

    def block(number: Array) -> Array:
        return gumbel_block(key, number, rows, size, z.dtype)

    blocks = jax.vmap(block, out_axes=-2)(first + jnp.arange(count, dtype=jnp.int32))
    row = blocks.reshape(*rows, count * size)
    if isinstance(start, int):
        row = row[..., :length]
    else:
        row = jax.lax.dynamic_slice_in_dim(row, start, length, axis=-1)
    noise = row.reshape(*rows, *here)
    return jnp.moveaxis(noise, range(-len(here), 0), classes.axis)


def gumbel(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """−log E for exponential E, in which the largest values are the ones resolved best.

    Only the largest are ever chosen. With all bits of a word going into a small E they reach 22 in
    float32, where `jax.random.gumbel` stops at 16 and ties among a million classes.
    """
    bits, most = {4: (jnp.uint32, 2.0**32), 8: (jnp.uint64, 2.0**64)}[np.dtype(dtype).itemsize]
    drawn = jax.random.bits(key, shape, bits).astype(dtype)
    below_one = 1 - float(jnp.finfo(dtype).epsneg)
    u = jnp.minimum((drawn + 0.5) * (1 / most), below_one)
    return -jnp.log(-jnp.log1p(-u))
