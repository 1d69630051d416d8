"""Limit the weight that an expert gives to all tokens, by `capped_entmax` along the tokens."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.mappings import capped_entmax


def within_capacity(
    weights: Array,
    rank: Array,
    capacity: Array,
    regularizer: Regularizer,
    axis_name: Hashable | None,
) -> Array:
    """Return weights [..., E] with sums over tokens within capacity, ranked by `rank`."""
    if weights.ndim == 1:
        return within_capacity(weights[None], rank[None], capacity, regularizer, axis_name)[0]
    tokens = tuple(range(weights.ndim - 1))
    total = jnp.sum(weights, tokens, keepdims=True)
    total = total if axis_name is None else jax.lax.psum(total, axis_name)
    is_over = jax.lax.stop_gradient(~(total <= capacity))  # a NaN stays one
    # Elsewhere the caps sum to less than 1, so any feasible problem is solved instead.
    share = capped_entmax(
        rank,
        jnp.where(is_over, weights / capacity, 1),
        tokens,
        regularizer=regularizer,
        where=weights > 0,
        axis_name=axis_name,
    )
    return jnp.where(is_over, capacity * share, weights)


def read_capacity(function: str, capacity: Any, logits: Array) -> Array:
    """Return the capacity as one number per expert, NaN where a traced one is not positive.

    Raises:
        ValueError: for a known number that is not positive, or a shape other than [] and [E].
    """
    known = checks.known_values(capacity)
    if known is not None and not (known > 0).all():
        raise ValueError(f"jsoftmax.{function}: `capacity` must be positive, got {capacity!r}.")
    c = checks.as_array(function, "capacity", capacity)
    if c.shape not in ((), (1,), logits.shape[-1:]):
        raise ValueError(
            f"jsoftmax.{function}: `capacity` has shape {c.shape}, but there are "
            f"{logits.shape[-1]} experts. Give a number, or one for each expert."
        )
    c = c.astype(logits.dtype).reshape((1,) * (logits.ndim - c.ndim) + c.shape)
    return jnp.where(c > 0, c, jnp.nan)
