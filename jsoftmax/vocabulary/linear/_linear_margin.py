"""Cosine scores of features and classes, and margins at the label of each token.

Features are divided by their lengths. A table of millions of classes is not: its products are
divided by the length of each class, so that no second table is needed. The gradient of the length
is one number per class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.losses._label_margin import read_margins
from jsoftmax.vocabulary.linear._linear_arguments import Rows


def with_margins(rows: Rows, normalize: Any, margin: Any, angular_margin: Any) -> Rows:
    """Make the scores of rows cosines, and add margins at labels.

    Raises:
        TypeError: for a `normalize` that is not a bool.
        ValueError: for an angle that is out of range, an angular margin without cosines, and for a
            margin where tokens have several classes.
    """
    if not isinstance(normalize, bool):
        raise TypeError(f"jsoftmax.{rows.function}: `normalize` must be a bool, got {normalize!r}.")
    margins = read_margins(rows.function, margin, angular_margin, rows.per_row)
    if normalize:
        rows = _normalised(rows)
    if margins is None:
        return rows
    if rows.fixed.shares is not None:
        raise ValueError(
            f"jsoftmax.{rows.function}: `margin` and `angular_margin` need one class per token; "
            "here the `targets` are pairs (ids, weights)."
        )
    is_cosine = normalize and rows.moving.bias is None and rows.rule.logits_soft_cap is None
    if margins.angular is not None and not is_cosine:
        raise ValueError(
            f"jsoftmax.{rows.function}: `angular_margin` needs scores that are cosines. Give "
            "normalize=True, and neither `bias` nor `logits_soft_cap`."
        )
    additive, angular = (None if x is None else jax.lax.stop_gradient(x) for x in margins)
    fixed = rows.fixed._replace(margin=additive, angular_margin=angular)
    return dataclasses.replace(rows, fixed=fixed)


def _normalised(rows: Rows) -> Rows:
    features, axis = rows.moving.features, rows.rule.kernel_axis
    per_length = per_length_of(rows.moving.kernel.astype(features.dtype), 1 - axis)
    moving = rows.moving._replace(
        features=features * per_length_of(features, -1),
        per_length=per_length if axis else per_length.T,
    )
    return dataclasses.replace(rows, moving=moving)


def per_length_of(x: Array, axis: int) -> Array:
    """Compute 1/‖x‖ along an axis, which is kept; the constant 0 where x is 0."""
    # Relative to the largest entry, so that no square overflows or underflows.
    top = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=axis, keepdims=True)
    is_any = top > 0
    top = jnp.where(is_any, top, 1)
    square = jnp.sum((x / top) ** 2, axis=axis, keepdims=True)
    return jnp.where(is_any, 1 / jnp.sqrt(jnp.where(is_any, square, 1)) / top, 0)
