"""Arrays without NaN and infinities, and the rows and columns of scores that these spoil."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule


def cleaned(x: Array) -> tuple[Array, Array]:
    """`x` with 0 for what is not finite, and for every vector of it NaN if it was not, else 0."""
    finite = jnp.isfinite(x)
    spoiled = jnp.where(jnp.all(finite, axis=-1, keepdims=True), 0, jnp.nan)
    return jnp.where(finite, x, 0), spoiled.astype(x.dtype)


def cleaned_pair(k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Keys and values that are cleaned, and for every key NaN if it or its value was not finite.

    The last is of shape (*batch, head, 1, 1, key).
    """
    (k, k_spoiled), (v, v_spoiled) = cleaned(k), cleaned(v)
    return k, v, jnp.moveaxis(k_spoiled + v_spoiled, -3, -1)[..., None, :, :]


def clean(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Rule, Moving, Fixed]:
    """The same with keys and values that are cleaned, if they may need it."""
    if rule.is_clean:
        return rule, moving, fixed
    k, v, spoiled = cleaned_pair(moving.k, moving.v)
    rule = dataclasses.replace(rule, is_clean=True)
    return rule, moving._replace(k=k, v=v), fixed._replace(column_spoiled=spoiled)
