"""Logarithms of probabilities that may be 0, with derivatives that are no NaN there."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def safe_log(p: Array) -> Array:
    """log p, −∞ at 0."""
    return jnp.where(p > 0, jnp.log(positive(p)), jnp.where(p == 0, -jnp.inf, p))


def entropy_term(p: Array) -> Array:
    """p log p, 0 at 0."""
    return jnp.where(p > 0, p * jnp.log(positive(p)), jnp.where(p == 0, 0, p))


def positive(p: Array) -> Array:
    """`p`, with 1 in place of 0, so that no infinity or NaN is formed where it is not used."""
    return jnp.where(p == 0, 1, p)
