"""Validate the shapes of samples before tracing."""

from __future__ import annotations

from typing import Any

import jax.export
import numpy as np


def sample_shape(function: str, shape: Any, rows: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the result: `rows` by default, else a shape that `rows` broadcasts to."""
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
    """Return a shape of leading axes."""
    return _sizes(function, shape)


def _sizes(function: str, shape: Any) -> tuple[int, ...]:
    sizes: Any = tuple(shape) if isinstance(shape, tuple | list) else None
    if sizes is None or any(
        isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0
        for n in sizes
        if not jax.export.is_symbolic_dim(n)
    ):
        raise TypeError(
            f"jsoftmax.{function}: `shape` must be a tuple of sizes, got {shape!r}."
            + (f" Did you mean ({shape},)?" if isinstance(shape, int) else "")
        )
    known: Any = (n if jax.export.is_symbolic_dim(n) else int(n) for n in sizes)
    return tuple(known)
