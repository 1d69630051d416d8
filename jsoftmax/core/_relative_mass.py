"""Masses relative to a prior q, a reference measure; None means q = 1."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import ClassAxis


def relative_to(prior: Array | None, p: Array) -> Array:
    """Return p/q, 0 where there is no prior mass."""
    return p if prior is None else jnp.where(prior == 0, 0, p / jnp.where(prior == 0, 1, prior))


def times_prior(prior: Array | None, x: Array) -> Array:
    """Return q x."""
    return x if prior is None else jnp.where(prior == 0, 0, prior * x)


def with_log_prior(z: Array, prior: Array | None, classes: ClassAxis | None = None) -> Array:
    """Return z + log q, −∞ where there is no prior mass; minus max z where `classes` are given.

    Added to large scores, log q would be rounded away.
    """
    if prior is None:
        return z
    if classes is not None:
        top = classes.max(z)
        z = z - jnp.where(jnp.isfinite(top), top, 0)
    return jnp.where(prior == 0, -jnp.inf, z + jnp.log(jnp.where(prior == 0, 1, prior)))


def without_log_prior(log_p: Array, prior: Array | None) -> Array:
    """Return log(p/q), −∞ where there is no mass."""
    return log_p if prior is None else log_p - jnp.log(jnp.where(prior > 0, prior, 1))
