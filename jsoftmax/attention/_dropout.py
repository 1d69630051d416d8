"""Dropout of weights, drawn for every position of their matrix, independent of blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Rule

_TILE = 128  # keys with bits drawn together


def kept(fixed: Fixed, rule: Rule) -> Array | float:
    """Return 1/(1 − rate) for weights that are kept, 0 for dropped ones; 1 without dropout.

    Every row of the matrix has a random key of its own, and so has every tile of keys in it. So the
    bits do not depend on the blocks, and a backward pass draws them again.
    """
    if fixed.streams is None:
        return 1.0
    streams, parts = fixed.streams, fixed.row_places.shape[0]  # more than 1 for windows alone
    size = fixed.column_places.shape[-1]

    def row(stream, place, tiles):
        key = jax.random.fold_in(stream, place)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, tiles)
        return jax.vmap(lambda key: jax.random.bits(key, (_TILE,), jnp.uint32))(keys).reshape(-1)

    def part(rows, first):
        tiles = first // _TILE + jnp.arange(size // _TILE + 2)
        over_rows = jax.vmap(row, (None, 0, None))
        bits = jax.vmap(over_rows, (0, None, None))(streams.reshape(-1), rows, tiles)
        return jax.lax.dynamic_slice_in_dim(bits, first % _TILE, size, axis=-1)

    rows = fixed.row_places.reshape(parts, -1)
    bits = jax.vmap(part)(rows, fixed.column_places[..., 0].reshape(parts))
    lead = streams.shape[:-2] if parts == 1 else (parts, *streams.shape[1:-2])
    bits = bits.reshape(*lead, rows.shape[-1], size)
    limit = min(round(rule.dropout_rate * 2**32), 2**32 - 1)
    return jnp.where(bits >= jnp.uint32(limit), 1 / (1 - rule.dropout_rate), 0)
