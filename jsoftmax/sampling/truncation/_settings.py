"""Validate the settings of a truncation: numbers, or arrays with one number a row."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis


def setting(
    function: str,
    name: str,
    x: Any,
    logits: Array | jax.ShapeDtypeStruct,
    classes: ClassAxis,
    least: float,
    most: float = np.inf,
    is_whole: bool = False,
) -> Array:
    """Return a setting in the rank and computing dtype of the logits.

    Raises:
        ValueError: for a known number out of range, and for a shape that does not broadcast.
    """
    known = checks.known_values(x)
    if known is not None and not ((known >= least) & (known <= most)).all():
        wanted = f"at least {least:g}" if most == np.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"jsoftmax.{function}: `{name}` must be {wanted}, got {x!r}.")
    if is_whole and known is not None and (known != np.floor(known)).any():
        raise ValueError(f"jsoftmax.{function}: `{name}` must be an integer, got {x!r}.")
    return checks.per_row(function, name, x, logits, classes, logits.dtype)
