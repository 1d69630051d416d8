"""Validate and canonicalise targets: classes or distributions, smoothing, weights, ignored rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis, is_known
from jsoftmax.core._problem import Problem


@dataclasses.dataclass(frozen=True)
class Targets:
    """A distribution y over the classes of every row, with flags for the loss of the row.

    `valid` is False for rows with a label out of range, and their loss is NaN. `counted` is False
    for rows that are ignored or have no target mass, and their loss is 0. Both keep a size-1 class
    axis; None means True everywhere. `labels` are the classes if every y is one-hot.
    """

    y: Array
    valid: Array | None = None
    counted: Array | None = None
    labels: Array | None = None

    def counted_rows(self, ask: Problem) -> Problem:
        """Return the problem with 0 in ignored rows: no NaN or ∞ there reaches a gradient."""
        if self.counted is None:
            return ask
        return dataclasses.replace(ask, z=jnp.where(self.counted, ask.z, 0))

    def settle(self, loss: Array) -> Array:
        """Return the per-row loss, 0 in ignored rows and NaN in invalid ones."""
        if self.valid is not None:
            loss = jnp.where(self.valid, loss, jnp.nan)
        return loss if self.counted is None else jnp.where(self.counted, loss, 0)


def read_targets(
    function: str,
    targets: Any,
    ask: Problem,
    ignore_index: Any = None,
    label_smoothing: Any = 0.0,
) -> Targets:
    """Read targets of integer dtype as classes, of floating dtype as distributions."""
    shape, rows = ask.z.shape, ask.rows
    smoothing = _smoothing(function, label_smoothing, ask)
    array = checks.as_array(function, "targets", targets)
    if jnp.issubdtype(array.dtype, jnp.floating):
        if ignore_index is not None:
            raise ValueError(
                f"jsoftmax.{function}: `ignore_index` needs integer targets; these are "
                f"distributions of dtype {array.dtype}. A row of zeros is left out."
            )
        # Rows may share a distribution, but size 1 along the class axis is a mistake.
        if array.ndim != len(shape) or any(
            n != shape[a] and (n != 1 or a in ask.classes.axis)
            for a, n in enumerate(array.shape, -len(shape))
        ):
            raise ValueError(
                f"jsoftmax.{function}: `targets` has dtype {array.dtype} and shape {array.shape}. "
                f"Distributions need the shape of `logits`, {shape}; classes need integers of "
                f"shape {rows}."
            )
        y = array.astype(ask.z.dtype)
        some = ask.classes.sum(jax.lax.stop_gradient(y)) != 0
        return Targets(_smoothed(y, smoothing, ask), counted=some)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `targets` has dtype {array.dtype}; give integers for classes, "
            "or floats for distributions."
        )
    if array.shape != rows:
        raise ValueError(
            f"jsoftmax.{function}: integer `targets` have shape {array.shape}, but `logits` of "
            f"shape {shape} need one class a row, shape {rows}. For distributions give floats."
        )
    ignored = None if ignore_index is None else _one_label(function, ignore_index)
    known = checks.known_values(targets)
    if known is not None and not isinstance(ignored, jax.Array):
        check_labels(function, known, ask, ignored)
    labels = jnp.expand_dims(array, ask.classes.axis)
    y, valid = one_hot(labels, ask)
    counted = None
    if ignored is not None:
        counted = differs(labels, ignored)
        valid = valid | ~counted
    alone = wide(labels) if smoothing is None else None
    return Targets(_smoothed(y, smoothing, ask), valid, counted, alone)


def _one_label(function: str, number: Any) -> int | Array:
    """Return `ignore_index` as an int where it is known while tracing, or as an integer array."""
    array = checks.as_array(function, "ignore_index", number)
    if array.shape or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `ignore_index` has dtype {array.dtype} and shape {array.shape}; "
            "give it one integer."
        )
    return array if isinstance(number, jax.Array) else int(number)


def differs(labels: Array, number: int | Array) -> Array:
    """Return whether each label differs from `number`, which their dtype may be unable to hold."""
    # Cast to the dtype of the labels, such a number could wrap into one of them.
    limits = jnp.iinfo(labels.dtype)
    if not isinstance(number, jax.Array):
        within = limits.min <= number <= limits.max
        return labels != number if within else labels == labels
    own = jnp.iinfo(number.dtype)
    within = (number >= max(limits.min, own.min)) & (number <= min(limits.max, own.max))
    return ~within | (labels != number.astype(labels.dtype))


def check_labels(function: str, known: np.ndarray, ask: Problem, ignore_index: int | None) -> None:
    """Check labels given as Python or numpy values while tracing."""
    classes = ask.classes.size(ask.z)
    bad = known < 0
    if is_known(classes):
        bad |= known >= classes
    if ignore_index is not None:
        bad &= known != ignore_index
    if bad.any():
        raise ValueError(
            f"jsoftmax.{function}: label {known[bad].flat[0]} is out of range [0, {classes}). To "
            "leave rows out, pass their label as `ignore_index`."
        )


def one_hot(labels: Array, ask: Problem) -> tuple[Array, Array]:
    """Return one-hot rows for labels with a size-1 class axis, and whether each is in range."""
    labels = wide(labels)
    index = ask.classes.index(ask.z).astype(labels.dtype)
    valid = (labels >= 0) & (labels < ask.classes.size(ask.z))
    return (index == labels).astype(ask.z.dtype), valid


def wide(labels: Array) -> Array:
    """Return labels in int32 at least, where narrow or unsigned labels cannot wrap."""
    return labels if labels.dtype.itemsize > 4 else labels.astype(jnp.int32)


def read_weights(function: str, class_weights: Any, ask: Problem) -> Array | None:
    """Return class weights along the class axis, or of a shape that broadcasts to the logits."""
    if class_weights is None:
        return None
    w = checks.as_array(function, "class_weights", class_weights)
    known = checks.known_values(class_weights)
    if known is not None and not (known >= 0).all():
        raise ValueError(
            f"jsoftmax.{function}: `class_weights` must be at least 0, got "
            f"{known[~(known >= 0)].flat[0]}."
        )
    if w.ndim == 1 and len(ask.classes.axis) == 1:
        axis = ask.classes.axis[0]
        if w.shape[0] not in (1, ask.z.shape[axis]):
            raise ValueError(
                f"jsoftmax.{function}: `class_weights` has shape {w.shape}, but `logits` of shape "
                f"{ask.z.shape} have {ask.z.shape[axis]} classes. Give it one number a class."
            )
        w = w.reshape([-1 if a == axis else 1 for a in range(-ask.z.ndim, 0)])
    return checks.aligned(function, "class_weights", w, ask.z.shape).astype(ask.z.dtype)


def weighted(loss: Array, weights: Array | None, y: Array, classes: ClassAxis) -> Array:
    """Return the loss of each row times ⟨w, y⟩, where weight 0 makes even an infinite loss 0."""
    if weights is None:
        return loss
    weight = classes.sum(weights * y)
    return weight * jnp.where((weight == 0) & (loss == jnp.inf), 0, loss)


def _smoothing(function: str, smoothing: Any, ask: Problem) -> Array | None:
    """Return `label_smoothing` as one number a row, with NaN for traced values out of range."""
    known = checks.known_values(smoothing)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(
            f"jsoftmax.{function}: `label_smoothing` must be from 0 to 1, got {smoothing!r}."
        )
    if checks.static_number(smoothing) == 0:
        return None
    s = checks.per_row(function, "label_smoothing", smoothing, ask.z, ask.classes, ask.z.dtype)
    return s if known is not None else jnp.where((s >= 0) & (s <= 1), s, jnp.nan)


def _smoothed(y: Array, s: Array | None, ask: Problem) -> Array:
    if s is None:
        return y
    unmasked = ask.unmasked(jnp.ones_like(ask.z), 0)
    return (1 - s) * y + s * unmasked / jnp.maximum(ask.classes.sum(unmasked), 1)
