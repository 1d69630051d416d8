"""Validate keys of `jax.random` before tracing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def one_key(function: str, key: Any, called: str = "key") -> Array:
    """Return `key` as one typed key, also if it was made by `jax.random.PRNGKey`.

    The data may be a numpy array: a key becomes one when it is saved and restored, and inside `jit`
    it is indistinguishable from a `jax.Array`.
    """
    remedy = "give it one key, such as jax.random.key(0)"
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(
            f"jsoftmax.{function}: `{called}` is {_described(key)}; {remedy}."
            + (f" For the seed {key}: jax.random.key({key})." if type(key) is int else "")
        )
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != jnp.uint32:
        raise TypeError(
            f"jsoftmax.{function}: `{called}` is an array of dtype {key.dtype} and shape "
            f"{key.shape}; {remedy}."
            + (" Does it stand before `logits`?" if called == "key" else "")
        )
    if key.ndim != (0 if typed else 1):
        raise ValueError(
            f"jsoftmax.{function}: `{called}` of shape {key.shape} is not one key; {remedy}. For a "
            "batch of keys use jax.vmap, for many rows one key is enough."
        )
    if typed:
        return jnp.asarray(key)
    try:
        return jax.random.wrap_key_data(jnp.asarray(key))
    except TypeError as error:
        raise ValueError(
            f"jsoftmax.{function}: `{called}` of shape {key.shape} is not a key of the default "
            f"generator; {remedy}."
        ) from error


def _described(key: Any) -> str:
    if key is None:
        return "None"
    return f"{key!r} of type {type(key).__name__}"
