"""Dropout of weights, drawn in a kernel as `jax.random` draws it.

Every row of the matrix of weights has a random key of its own, and so has every tile of 128
attention keys in it. These are the bits of XLA attention, so that both drop the same weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.kernels.attention._spec import quotient

_TILE = 128  # keys with bits drawn together
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def kept(
    words: tuple[Array, Array], row: Array, column: Array, shape: tuple[int, int], rate: float
) -> Array:
    """Return 1/(1 − rate) where a weight of a tile (keys, queries) is kept, 0 elsewhere."""
    first, second = (jnp.full((1, shape[1]), x).astype(jnp.uint32) for x in words)
    rows = row + jax.lax.broadcasted_iota(jnp.int32, (1, shape[1]), 1)
    columns = column + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    of_row = _drawn((first, second), rows.astype(jnp.uint32))
    tiles = quotient(columns, _TILE).astype(jnp.uint32)
    of_tile = _drawn(of_row, tiles)
    first, second = _drawn(of_tile, (columns & (_TILE - 1)).astype(jnp.uint32))
    limit = min(round(rate * 2**32), 2**32 - 1)
    # Mosaic compares signed numbers: a shift of both by half the range keeps their order.
    half = jnp.uint32(2**31)
    bits = jax.lax.bitcast_convert_type((first ^ second) ^ half, jnp.int32)
    return jnp.where(bits >= limit - 2**31, 1 / (1 - rate), 0.0)


def _drawn(key, counter):
    """Compute Threefry-2x32 of a key and the counter (0, n); this is `jax.random.fold_in` too."""
    first, second = key
    keys = first, second, first ^ second ^ jnp.uint32(_PARITY)
    x, y = keys[0] + jnp.zeros_like(counter), keys[1] + counter
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x = x + y
            y = _rotated(y, rotation) ^ x
        x = x + keys[(i + 1) % 3]
        y = y + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return x, y


def _rotated(x, by):
    left = jax.lax.shift_left(x, jnp.uint32(by))
    return left | jax.lax.shift_right_logical(x, jnp.uint32(32 - by))
