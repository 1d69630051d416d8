"""A person's mistakes, answered before any work with the function, the argument and the remedy."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._axis import ClassAxis

_NO_SIGN_OR_FRACTION = ("float4_e2m1fn", "float8_e8m0fnu")


def as_array(function: str, name: str, x: Any) -> Array:
    """`x` as an array of real numbers."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or not (
        jnp.issubdtype(x.dtype, jnp.number) or x.dtype == jnp.bool_
    ):
        raise TypeError(f"jsoftmax.{function}: `{name}` has dtype {x.dtype}; give it real numbers.")
    if x.dtype.name in _NO_SIGN_OR_FRACTION:
        raise TypeError(
            f"jsoftmax.{function}: `{name}` has dtype {x.dtype}, which cannot hold probabilities; "
            "convert it to bfloat16 or float32 first."
        )
    return x


def result_dtype(x: Array) -> np.dtype:
    """The dtype of results: that of `x`, or the default float for integers and bools."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros((), float).dtype


def compute_dtype(x: Array) -> np.dtype:
    """The dtype of computations, and of losses and entropies: at least float32."""
    dtype = result_dtype(x)
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


def log_dtype(x: Array) -> np.dtype:
    """The dtype of log-results: that of results, if it has an infinity."""
    dtype = result_dtype(x)
    return dtype if np.isinf(np.asarray(np.inf).astype(dtype)) else compute_dtype(x)


def class_axis(
    function: str,
    logits: Array,
    axis: int | tuple[int, ...],
    axis_name: Hashable | None,
    called: str = "logits",
) -> ClassAxis:
    """The axis or axes of `logits`, counted from the end, each of at least one class."""
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    n = logits.ndim
    for a in axes:
        if isinstance(a, bool) or not isinstance(a, int | np.integer):
            raise TypeError(
                f"jsoftmax.{function}: `axis` must be an int or a tuple of ints, not {axis!r}."
            )
        if not -n <= a < n:
            raise ValueError(
                f"jsoftmax.{function}: axis {a} is out of range for `{called}` of shape "
                f"{logits.shape}. Give an axis from {-n} to {n - 1}."
                if n
                else f"jsoftmax.{function}: `{called}` is a single number; give it a class axis."
            )
    counted = tuple(sorted(int(a) % n - n for a in axes))
    if len(set(counted)) < len(counted) or not counted:
        raise ValueError(
            f"jsoftmax.{function}: `axis` {axis} must name at least one axis, and none twice."
        )
    if math.prod(logits.shape[a] for a in counted) == 0:
        raise ValueError(
            f"jsoftmax.{function}: `{called}` of shape {logits.shape} has no classes along axis "
            f"{axis}. A distribution needs at least one."
        )
    return ClassAxis(counted, axis_name)


def mask_like(
    function: str, where: Any, logits: Array | jax.ShapeDtypeStruct, called: str = "logits"
) -> Array | None:
    """`where` as a boolean array of the rank of `logits`."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(
            f"jsoftmax.{function}: `where` has dtype {where.dtype}; give it a boolean mask, True "
            "where a class takes part."
        )
    return aligned(function, "where", where, logits.shape, called)


def per_row(
    function: str,
    name: str,
    x: Any,
    logits: Array | jax.ShapeDtypeStruct,
    classes: ClassAxis,
    dtype: np.dtype,
) -> Array:
    """A parameter given as an array: one number a row, of the rank and computing dtype."""
    x = aligned(function, name, as_array(function, name, x), logits.shape)
    if any(x.shape[a] != 1 for a in classes.axis):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` of shape {x.shape} must have size 1 along the class "
            f"axis {classes.axis} of `logits` of shape {logits.shape}: one number a row."
        )
    return x.astype(dtype)


def aligned(
    function: str, name: str, x: Array, shape: tuple[int, ...], called: str = "logits"
) -> Array:
    """`x` with leading size-1 axes, broadcastable to `shape`."""
    if not broadcasts(x, shape):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {x.shape}, which does not broadcast to "
            f"`{called}` of shape {shape}. Give it one entry per logit, or size-1 axes where it "
            "should be shared."
        )
    return x.reshape((1,) * (len(shape) - x.ndim) + x.shape)


def broadcasts(x: Array, shape: tuple[Any, ...]) -> bool:
    """Whether `x` is broadcastable to `shape`."""
    return x.ndim <= len(shape) and all(
        a in (1, b) for a, b in zip(x.shape[::-1], shape[::-1], strict=False)
    )


def static_number(x: Any) -> float | None:
    """`x` as a Python float where it is a number known while tracing, otherwise None."""
    if isinstance(x, jax.Array) or (isinstance(x, np.ndarray) and x.ndim):
        return None
    if isinstance(x, bool | int | float | np.number | np.ndarray):
        return float(x)
    return None


def known_values(x: Any) -> np.ndarray | None:
    """`x` as numpy values where they are given by Python or numpy, None for a `jax.Array`."""
    return None if isinstance(x, jax.Array) else np.asarray(x)
