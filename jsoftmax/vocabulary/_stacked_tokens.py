"""Split tokens into blocks along a new first axis, and merge the blocks again."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array


def block_count(tokens: Any, block: int) -> Any:
    """Return the number of blocks of at most `block` tokens."""
    return -(-tokens // block)


def stacked_tokens(x: Array, block: Any) -> Array:
    """Stack blocks of at most `block` tokens along a new first axis, padded by the last token.

    Each of n blocks has every n-th token.
    """
    tokens = x.shape[0]
    count = block_count(tokens, block)
    size = -(-tokens // count) if isinstance(tokens, int) else block
    missing = size * count - tokens
    if not isinstance(missing, int) or missing:
        x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    return jnp.moveaxis(x.reshape(size, count, *x.shape[1:]), 1, 0)


def merged_tokens(x: Array, tokens: Any) -> Array:
    """Merge blocks along the first axis, in the order of the tokens."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(-1, *x.shape[2:])[:tokens]
