"""Which weights dropout keeps: drawn for every place of their matrix, however it is cut."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._arguments import Fixed, Rule

_TILE = 128  # keys whose bits are drawn together


def kept(fixed: Fixed, rule: Rule) -> Array | float:
    """1/(1 − rate) where a weight is kept, 0 where it is dropped; the number 1 without dropout.

    A row of the matrix has a random key of its own, and in it every tile of keys: so the bits do
    not depend on the blocks that are computed together, and a backward pass draws them again.
    """
    if fixed.streams is None:
        return 1.0
    rows = fixed.row_places.reshape(-1)
    columns = fixed.column_places.reshape(-1)
    first = columns[0] // _TILE
    tiles = first + jnp.arange(columns.size // _TILE + 2)

    def row(stream, place):
        key = jax.random.fold_in(stream, place)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, tiles)
        return jax.vmap(lambda key: jax.random.bits(key, (_TILE,), jnp.uint32))(keys).reshape(-1)

    matrix = jax.vmap(jax.vmap(row, (None, 0)), (0, None))(fixed.streams.reshape(-1), rows)
    matrix = jax.lax.dynamic_slice_in_dim(matrix, columns[0] % _TILE, columns.size, axis=-1)
    matrix = matrix.reshape(*fixed.streams.shape[:-2], *matrix.shape[1:])
    limit = round(rule.dropout_rate * 2**32)
    share = 1 / (1 - rule.dropout_rate)
    return jnp.where(matrix >= jnp.uint32(min(limit, 2**32 - 1)), share, 0)
