"""Logarithms of probabilities that may be 0, with derivatives free of NaN there."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def safe_log(p: Array) -> Array:
    """Return log p, −∞ at 0."""
    return jnp.where(p > 0, jnp.log(positive(p)), jnp.where(p == 0, -jnp.inf, p))


def entropy_term(p: Array) -> Array:
    """Return p log p, 0 at 0."""
    return jnp.where(p > 0, p * jnp.log(positive(p)), jnp.where(p == 0, 0, p))


def positive(p: Array) -> Array:
    """Return `p` with 1 in place of 0, so that unused branches form no infinity or NaN."""
    return jnp.where(p == 0, 1, p)
