"""Combine the tangents of scores, parameters and prior into one equivalent tangent of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._regularizer import Regularizer


def effective_tangent(
    r: Array,
    d_z: Any,
    regularizer: Regularizer,
    d_regularizer: Any,
    s: Array | None = None,
    d_prior: Any = None,
) -> Array | None:
    """Return d = ż − (∂ω′/∂θ)(r) θ̇ + (r/s) q̇, or None where everything is constant."""
    d = None if _is_still(d_z) else d_z
    some = jnp.where(r > 0, r, 1)
    bend = along_parameters(lambda x: x.marginal(some), regularizer, d_regularizer)
    if bend is not None:
        d = -bend if d is None else d - bend
    if s is not None and not _is_still(d_prior):
        grown = jnp.where(s > 0, r / jnp.where(s > 0, s, 1), 0) * d_prior
        d = grown if d is None else d + grown
    return d


def along_parameters(
    function: Callable[[Regularizer], Array], regularizer: Regularizer, d_regularizer: Any
) -> Array | None:
    """Return the tangent of a function of the regularizer; None where its numbers are constant."""
    numbers, structure = jax.tree.flatten(regularizer)
    tangents = structure.flatten_up_to(d_regularizer) if d_regularizer is not None else numbers
    moving = [i for i, d in enumerate(tangents) if d_regularizer is not None and not _is_still(d)]
    if not moving:
        return None

    def at(*moved):
        changed = list(numbers)
        for i, x in zip(moving, moved, strict=True):
            changed[i] = x
        return function(jax.tree.unflatten(structure, changed))

    return jax.jvp(at, tuple(numbers[i] for i in moving), tuple(tangents[i] for i in moving))[1]


def _is_still(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)
