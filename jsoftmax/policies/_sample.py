"""One draw from each row: the largest of log-probabilities with Gumbel noise on them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import ClassAxis


def draw(key: Array, log_weights: Array, classes: ClassAxis) -> Array:
    """The number of the class drawn for each row, row-major; −1 where no class has mass."""
    noise = jax.random.gumbel(key, log_weights.shape, log_weights.dtype)
    noisy = jnp.where(log_weights == -jnp.inf, -jnp.inf, log_weights + noise)
    last = tuple(range(-len(classes.axis), 0))
    noisy = jnp.moveaxis(noisy, classes.axis, last)
    noisy = noisy.reshape(*noisy.shape[: noisy.ndim - len(last)], classes.size(log_weights))
    drawn = jnp.argmax(noisy, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.max(noisy, axis=-1) > -jnp.inf, drawn, jnp.int32(-1))


def check_key(function: str, key: Any) -> Array:
    """A single key of `jax.random`, of either kind."""
    remedy = "Make one with jax.random.key(seed), and a new one for each draw with jax.random.split"
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"jsoftmax.{function}: `key` must be a jax.random key, not {key!r}. {remedy}."
        )
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and not (key.dtype == jnp.uint32 and key.ndim):
        raise TypeError(
            f"jsoftmax.{function}: `key` is an array of dtype {key.dtype} and shape {key.shape}, "
            f"not a jax.random key. {remedy}."
        )
    if key.ndim != (0 if typed else 1):
        raise ValueError(
            f"jsoftmax.{function}: `key` has shape {key.shape}: give one key, which serves a whole "
            "batch, or map over the keys with jax.vmap."
        )
    return key
