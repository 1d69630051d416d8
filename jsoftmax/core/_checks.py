"""Check arguments before tracing; errors name the function, the argument and the remedy."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._axis import ClassAxis

_NO_SIGN_OR_FRACTION = ("float4_e2m1fn", "float8_e8m0fnu")


def as_array(function: str, name: str, x: Any) -> Array:
    """Return `x` as an array of real numbers."""
    x = _any_array(function, name, x, "real numbers")
    if not _is_real(x.dtype):
        raise TypeError(f"jsoftmax.{function}: `{name}` has dtype {x.dtype}; give it real numbers.")
    if x.dtype.name in _NO_SIGN_OR_FRACTION:
        raise TypeError(
            f"jsoftmax.{function}: `{name}` has dtype {x.dtype}, which cannot hold probabilities; "
            "convert it to bfloat16 or float32 first."
        )
    return x


def _any_array(function: str, name: str, x: Any, wanted: str) -> Array:
    """Return `x` as an array of any dtype; `wanted` names the remedy if it is not an array."""
    if isinstance(x, jax.Array):
        return x
    given = f"jsoftmax.{function}: `{name}` is {reprlib.repr(x)} of type {type(x).__name__}"
    try:
        return jnp.asarray(x)
    except OverflowError as error:
        raise ValueError(f"{given}, an integer that no array can hold; give it floats.") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError) and isinstance(x, list | tuple):
            raise ValueError(
                f"{given}, which makes no rectangular array; give it {wanted} in one."
            ) from error
        raise TypeError(f"{given}; give it an array of {wanted}.") from error


def _is_real(dtype: Any) -> bool:
    """Return whether a dtype of JAX or numpy holds real numbers, bools included."""
    return dtype == np.bool_ or (
        jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, jnp.complexfloating)
    )


def result_dtype(x: Array) -> np.dtype:
    """Return the dtype of results: that of `x`, or the default float for integers and bools."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros((), float).dtype


def compute_dtype(x: Array) -> np.dtype:
    """Return the dtype of computations, losses and entropies: at least float32."""
    dtype = result_dtype(x)
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


def log_dtype(x: Array) -> np.dtype:
    """Return the dtype of log-results: that of results if it has an infinity, else a wider one."""
    dtype = result_dtype(x)
    return dtype if np.isinf(np.asarray(np.inf).astype(dtype)) else compute_dtype(x)


def class_axis(
    function: str,
    logits: Array,
    axis: int | tuple[int, ...] | None,
    axis_name: Hashable | None,
    called: str = "logits",
) -> ClassAxis:
    """Return the class axes of `logits`, counted from the end, each with at least one class.

    None means all axes. A tuple numbers the classes in its own order.
    """
    n = logits.ndim
    axes = axis if isinstance(axis, tuple | list) else range(n) if axis is None else (axis,)
    for a in axes:
        if isinstance(a, bool) or not isinstance(a, int | np.integer):
            raise TypeError(
                f"jsoftmax.{function}: `axis` must be an int, a tuple of ints, or None for all "
                f"axes, not {axis!r}."
            )
        if n and not -n <= a < n:
            raise ValueError(
                f"jsoftmax.{function}: axis {a} is out of range for `{called}` of shape "
                f"{logits.shape}. Give an axis from {-n} to {n - 1}."
            )
    if n == 0:
        raise ValueError(
            f"jsoftmax.{function}: `{called}` is a single number; give it a class axis."
        )
    counted = tuple(int(a) % n - n for a in axes)
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
    """Return `where` as a boolean array of the rank of `logits`."""
    if where is None:
        return None
    where = _any_array(function, "where", where, "bools")
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
    """Return an array parameter, one number a row, in the rank of `logits` and `dtype`."""
    x = as_array(function, name, x)
    rows = tuple(1 if a - logits.ndim in classes.axis else n for a, n in enumerate(logits.shape))
    if not broadcasts(x, logits.shape):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {x.shape}, which does not broadcast to "
            f"`logits` of shape {logits.shape}. Give it a number, or the shape {rows}: one number "
            "a row."
        )
    x = aligned(function, name, x, logits.shape)
    if any(x.shape[a] != 1 for a in classes.axis):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` of shape {x.shape} must have size 1 along the class "
            f"axis {classes.axis} of `logits` of shape {logits.shape}: one number a row, as the "
            f"shape {rows} has."
        )
    return x.astype(dtype)


def aligned(
    function: str, name: str, x: Array, shape: tuple[Any, ...], called: str = "logits"
) -> Array:
    """Return `x` with leading size-1 axes, broadcastable to `shape`."""
    if not broadcasts(x, shape):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {x.shape}, which does not broadcast to "
            f"`{called}` of shape {shape}. Give it one entry per logit, or size-1 axes where it "
            "should be shared."
        )
    return x.reshape((1,) * (len(shape) - x.ndim) + x.shape)


def broadcasts(x: Array, shape: tuple[Any, ...]) -> bool:
    """Return whether `x` is broadcastable to `shape`."""
    return x.ndim <= len(shape) and all(
        a in (1, b) for a, b in zip(x.shape[::-1], shape[::-1], strict=False)
    )


def whole_number(function: str, name: str, x: Any, least: int = 1, most: int | None = None) -> int:
    """Return an integer that is known while tracing, within its range.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is out of range.
    """
    if isinstance(x, bool) or not isinstance(x, int | np.integer):
        raise TypeError(f"jsoftmax.{function}: `{name}` must be an integer, got {x!r}.")
    if most is not None and not least <= x <= most:
        raise ValueError(f"jsoftmax.{function}: `{name}` must be from {least} to {most}, got {x}.")
    if x < least:
        raise ValueError(f"jsoftmax.{function}: `{name}` must be at least {least}, got {x}.")
    return int(x)


def static_number(x: Any) -> float | None:
    """Return `x` as a Python float where it is a number known while tracing, otherwise None."""
    if isinstance(x, np.generic | np.ndarray):
        return float(x) if x.ndim == 0 and _is_real(x.dtype) else None
    try:
        return float(x) if isinstance(x, bool | int | float) else None
    except OverflowError:
        return None


def known_values(x: Any) -> np.ndarray | None:
    """Return `x` as numpy values if it holds Python or numpy real numbers, otherwise None.

    None for a `jax.Array`, for a list that holds one, and for anything that `as_array` refuses.
    """
    if isinstance(x, jax.Array):
        return None
    try:
        values = np.asarray(x)
    except (TypeError, ValueError):
        return None
    return values if _is_real(values.dtype) else None
