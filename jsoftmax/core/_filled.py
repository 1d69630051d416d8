"""Constant arrays that vary over the same mesh axes as the data."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def filled(like: Array, value: float) -> Array:
    """Return an array of one value that varies over mesh axes as `like` does, for loop carries."""
    return jnp.where(like == like, jnp.asarray(value, like.dtype), jnp.asarray(value, like.dtype))
