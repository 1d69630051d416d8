"""Read probabilities of class 1 of two, without a class axis, and labels of the same shape."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.calibration._examples import counted, read_weights
from jsoftmax.core import _checks as checks
from jsoftmax.core._problem import problem


def read_binary(
    function: str, probabilities: Any, labels: Any, where: Any, weights: Any = None
) -> tuple[Array, Array, Array] | None:
    """Return p of class 1, the labels 0 and 1 as floats, and weights, in the shape of the former.

    Ignored rows are 0, and a p with a label out of range in a `jax.Array` is NaN. None unless the
    labels are integers or bools of the shape of the probabilities.

    Raises:
        ValueError: for a mask, which has no classes to exclude, or a known label other than 0 and
            1.
    """
    p = checks.as_array(function, "probabilities", probabilities)
    y = checks.as_array(function, "labels", labels)
    if y.shape != p.shape or not (jnp.issubdtype(y.dtype, jnp.integer) or y.dtype == jnp.bool_):
        return None
    if where is not None:
        raise ValueError(
            f"jsoftmax.{function}: `where` masks classes, but probabilities of class 1 with labels "
            f"of the same shape {p.shape} have no class axis; leave examples out by `weights`."
        )
    known = checks.known_values(labels)
    if known is not None and not np.isin(known, (0, 1)).all():
        bad = known[~np.isin(known, (0, 1))].flat[0]
        raise ValueError(
            f"jsoftmax.{function}: label {bad} is neither 0 nor 1, but `labels` have the shape "
            f"{p.shape} of the `probabilities`, which are then those of class 1. For more classes "
            "give one label a row."
        )
    # As rows of one class, so that weights are read as for other rows.
    ask = problem(function, p[..., None], -1, called="probabilities")
    w = read_weights(function, weights, ask)
    right = jnp.where((y == 0) | (y == 1), ask.z[..., 0], jnp.nan)
    hit, w = (y == 1).astype(right.dtype), w[..., 0]
    return counted(right, w), counted(hit, w), w
