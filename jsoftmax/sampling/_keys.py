"""Keys and shapes of samples, checked before any work."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_REMEDY = "Make one with jax.random.key(0), and a new one for every draw with jax.random.split."


def one_key(function: str, key: Any) -> Array:
    """`key` as a typed key of JAX; one of the older kind, a vector of uint32, will do."""
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"jsoftmax.{function}: `key` must be a key of jax.random, not {type(key).__name__}. "
            f"{_REMEDY}"
        )
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        rank = 0
    elif key.dtype == jnp.uint32:
        rank = 1
    else:
        raise TypeError(
            f"jsoftmax.{function}: `key` has dtype {key.dtype}, which is no key of jax.random. "
            f"{_REMEDY}"
        )
    if key.ndim != rank:
        raise ValueError(
            f"jsoftmax.{function}: `key` of shape {key.shape} is not one key. Take one of them, or "
            f"`jax.vmap` over them."
        )
    return key if rank == 0 else jax.random.wrap_key_data(key)


def sample_shape(function: str, shape: Any, rows: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the result: `rows` where none is given, else one to which `rows` broadcasts."""
    if shape is None:
        return rows
    known = _sizes(function, shape)
    if len(known) < len(rows) or any(
        a not in (1, b) for a, b in zip(rows[::-1], known[::-1], strict=False)
    ):
        raise ValueError(
            f"jsoftmax.{function}: `shape` {known} does not end in the shape of the rows, {rows}. "
            f"It is the shape of the whole result: for n draws a row give {('n', *rows)}."
        )
    return known


def leading_shape(function: str, shape: Any) -> tuple[int, ...]:
    """A shape that goes in front of another."""
    return _sizes(function, shape)


def _sizes(function: str, shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else None
    if sizes is None or any(
        isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0 for n in sizes
    ):
        raise TypeError(
            f"jsoftmax.{function}: `shape` must be a tuple of sizes, got {shape!r}."
            + (f" Did you mean ({shape},)?" if isinstance(shape, int) else "")
        )
    return tuple(map(int, sizes))
