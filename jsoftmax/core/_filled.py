"""Constants that vary over a mesh as the data do."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def filled(like: Array, value: float) -> Array:
    """An array of one value made from `like`: a loop carry must vary over a mesh as its data do."""
    return jnp.where(like == like, jnp.asarray(value, like.dtype), jnp.asarray(value, like.dtype))
