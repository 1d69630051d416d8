"""Validate counts and numbers of classes for trees."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def read_counts(function: str, counts: Any) -> np.ndarray:
    """Read counts, integers or float64, of at least two classes.

    Raises:
        TypeError: if they are traced or not real numbers.
        ValueError: if they are not a vector, empty, of a single class, negative, NaN or infinite.
    """
    if isinstance(counts, jax.core.Tracer):
        raise TypeError(
            f"jsoftmax.{function}: `counts` are traced, and a tree is made by numpy. Make it "
            "outside of `jit`, and pass it in."
        )
    given = np.asarray(counts)
    if np.iscomplexobj(given) or not (
        jnp.issubdtype(given.dtype, jnp.number) or given.dtype == bool
    ):
        raise TypeError(
            f"jsoftmax.{function}: `counts` have dtype {given.dtype}; give real numbers."
        )
    if given.ndim != 1 or given.size < 2:
        raise ValueError(
            f"jsoftmax.{function}: `counts` have shape {given.shape}; give a vector with one "
            "count per class. A tree needs at least two classes."
        )
    if not np.issubdtype(given.dtype, np.integer):
        given = given.astype(np.float64)
    for bad, words in ((~(given >= 0), "negative or NaN"), (np.isinf(given), "infinite")):
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(
                f"jsoftmax.{function}: count {at} is {given[at]}, which is {words}. Counts must be "
                "finite and at least 0."
            )
    if given.dtype.kind == "f":
        # Scale by a power of two, which changes no digit, so that no sum is infinite.
        given = np.ldexp(given, -np.frexp(given.max())[1])
    return given


def by_frequency(counts: np.ndarray) -> np.ndarray:
    """Sort classes by falling frequency; ties are in the order of the classes."""
    return counts.size - 1 - np.argsort(counts[::-1], kind="stable")[::-1]
