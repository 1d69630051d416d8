"""Validate and canonicalise the examples of a calibration: logits, labels and weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen
from jsoftmax.losses._log_loss import beyond_reach
from jsoftmax.losses._targets import one_hot, read_targets


def read_examples(
    function: str, logits: Any, targets: Any, alpha: Any, regularizer: Regularizer | None,
    axis: Any, where: Any, weights: Any, ignore_index: int | None,
) -> tuple[Problem, Array, Array]:  # fmt: skip
    """Return the problem, targets y and weights w of a fit, with equal scores in weightless rows.

    Rows with a masked target have infinite loss for all parameters, and get weight 0.
    """
    regularizer = chosen(function, alpha, regularizer, 1.0)
    ask = problem(function, logits, axis, where, regularizer=regularizer)
    if ask.is_hard:
        raise ValueError(
            f"jsoftmax.{function}: `alpha` must be finite, got {regularizer}; arg max cannot be "
            "scaled."
        )
    read = read_targets(function, targets, ask, ignore_index)
    w = read_weights(function, weights, ask)
    if read.counted is not None:
        w = jnp.where(read.counted, w, 0)
    lost = ((ask.z == -jnp.inf) & (read.y > 0)) | beyond_reach(
        ask.z, read.y, ask.classes.max(ask.z)
    )
    w = jnp.where(ask.classes.sum(lost.astype(w.dtype)) > 0, 0, w)
    z = ask.z if read.valid is None else jnp.where(read.valid, ask.z, jnp.nan)
    if ask.temperature is not None:  # it is 0 where α is ∞
        z = jnp.where(ask.temperature == 0, jnp.nan, z)
    return dataclasses.replace(ask, z=counted(z, w)), counted(read.y, w), w


def read_labels(
    function: str, labels: Any, ask: Problem, called: str = "probabilities"
) -> tuple[Array, Array]:
    """Return one-hot rows of the shape of `ask.z`, and whether each label is valid, axes kept."""
    array, rows = checks.as_array(function, "labels", labels), ask.rows
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `labels` have dtype {array.dtype}; give integers, one class a "
            "row."
        )
    if array.shape != rows:
        raise ValueError(
            f"jsoftmax.{function}: `labels` have shape {array.shape}, but `{called}` of shape "
            f"{ask.z.shape} need one class a row, shape {rows}."
        )
    known = checks.known_values(labels)
    classes = ask.classes.size(ask.z)
    if known is not None and ((known < 0) | (known >= classes)).any():
        bad = known[(known < 0) | (known >= classes)].flat[0]
        raise ValueError(
            f"jsoftmax.{function}: label {bad} is out of range [0, {classes}). To leave examples "
            "out, give them a weight of 0 and any class."
        )
    return one_hot(jnp.expand_dims(array, ask.classes.axis), ask)


def read_weights(function: str, weights: Any, ask: Problem) -> Array:
    """Return the weight of each row, with size-1 class axes; 1 by default."""
    rows = ask.rows
    if weights is None:
        w = jnp.ones(rows, ask.z.dtype)
    else:
        w = checks.as_array(function, "weights", weights).astype(ask.z.dtype)
        known = checks.known_values(weights)
        if known is not None and not (known >= 0).all():
            raise ValueError(f"jsoftmax.{function}: `weights` must not be negative, nor NaN.")
        if w.ndim > len(rows) or any(
            n not in (1, m) for n, m in zip(w.shape[::-1], rows[::-1], strict=False)
        ):
            raise ValueError(
                f"jsoftmax.{function}: `weights` have shape {w.shape}; give one number a row, "
                f"shape {rows}."
            )
        w = jnp.broadcast_to(w.reshape((1,) * (len(rows) - w.ndim) + w.shape), rows)
    return jnp.expand_dims(w, ask.classes.axis)


def counted(x: Array, weights: Array, elsewhere: float = 0) -> Array:
    """Return `x` in rows of positive weight, and `elsewhere` in the others."""
    return jnp.where(weights == 0, elsewhere, x)


def classes_first(x: Array, classes: ClassAxis) -> Array:
    """Return `x` as [K, rows ...], with one axis for all the classes."""
    shape = [x.shape[a] for a in classes.axis]
    moved = jnp.moveaxis(x, classes.axis, range(len(shape)))
    return moved.reshape(math.prod(shape), *moved.shape[len(shape) :])


def classes_back(x: Array, like: Array, classes: ClassAxis) -> Array:
    """Return an array [K, rows ...] with its class axes moved to those of `like`."""
    shape = [like.shape[a] for a in classes.axis]
    return jnp.moveaxis(x.reshape(*shape, *x.shape[1:]), range(len(shape)), classes.axis)
