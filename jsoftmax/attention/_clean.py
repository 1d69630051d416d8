"""Replace NaN and infinities by zeros, and mark the rows and columns of scores that held them."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule


def cleaned(x: Array) -> tuple[Array, Array]:
    """Set non-finite entries to 0; mark each vector that held one by NaN, others by 0."""
    finite = jnp.isfinite(x)
    spoiled = jnp.where(jnp.all(finite, axis=-1, keepdims=True), 0, jnp.nan)
    return jnp.where(finite, x, 0), spoiled.astype(x.dtype)


def cleaned_pair(k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Clean keys and values; return them, and NaN for each key with a non-finite entry, else 0.

    The markers have the shape (*batch, head, 1, 1, key). An entry of the key or of its value
    counts.
    """
    (k, k_spoiled), (v, v_spoiled) = cleaned(k), cleaned(v)
    return k, v, jnp.moveaxis(k_spoiled + v_spoiled, -3, -1)[..., None, :, :]


def clean(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Rule, Moving, Fixed]:
    """Return the same with cleaned keys and values, if they may need it."""
    if rule.is_clean:
        return rule, moving, fixed
    k, v, spoiled = cleaned_pair(moving.k, moving.v)
    rule = dataclasses.replace(rule, is_clean=True)
    return rule, moving._replace(k=k, v=v), fixed._replace(column_spoiled=spoiled)
