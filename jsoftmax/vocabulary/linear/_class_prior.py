"""The prior of a linear loss: log q added to the scores, or q as a factor of the link."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._problem import read_prior
from jsoftmax.vocabulary.linear._linear_arguments import Rows, is_one, without_masked


def with_prior(rows: Rows, prior: Any, log_prior: Any) -> Rows:
    """Add a prior to rows, given as q or as log q. Classes of prior 0 are masked.

    Raises:
        ValueError: if both are given, shapes do not fit, or a known number is out of range.
    """
    if prior is None and log_prior is None:
        return rows
    if prior is not None and log_prior is not None:
        raise ValueError(
            f"jsoftmax.{rows.function}: both `prior` and `log_prior` are given; leave one out."
        )
    takes_log = rows.rule.takes_log_prior
    if log_prior is None:
        x = read_prior(rows.function, prior, rows.scores, rows.scores.dtype)
        if x is None:
            return rows
        x = rows.flat(x)
        known = checks.known_values(prior)
        is_positive = known is not None and (known > 0).all()
        present = x != 0
        if takes_log:
            x = jnp.log(jnp.where(present, x, 1))
    else:
        x = rows.flat(_read_log_prior(rows, log_prior))
        known = checks.known_values(log_prior)
        is_positive = takes_log and known is not None and (known > -np.inf).all()
        present = x != -jnp.inf
        x = jnp.where(present, x, 0)
        if not takes_log:
            x = jnp.where(present, jnp.exp(x), 0)
            present = x != 0
    moving = rows.moving._replace(**{"log_prior" if takes_log else "prior": x})
    fixed = rows.fixed
    if not is_positive:
        fixed = fixed._replace(present=present)
        if is_one(present.shape[0]):
            moving = without_masked(moving, present, rows.rule.kernel_axis)
    return dataclasses.replace(rows, moving=moving, fixed=fixed)


def _read_log_prior(rows: Rows, log_prior: Any) -> Array:
    """Read log q in the rank of the scores, NaN where it is +∞."""
    known = checks.known_values(log_prior)
    if known is not None and not (known < np.inf).all():
        raise ValueError(
            f"jsoftmax.{rows.function}: `log_prior` must be below +∞ everywhere; its largest entry "
            f"is {known.max()}."
        )
    x = checks.as_array(rows.function, "log_prior", log_prior)
    x = checks.aligned(rows.function, "log_prior", x, rows.scores.shape).astype(rows.scores.dtype)
    return jnp.where(x < jnp.inf, x, jnp.nan)
