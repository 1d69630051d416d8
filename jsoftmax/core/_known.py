"""p of scores whose threshold is already known, so that any block of a row can be had again."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import effective_tangent


class Threshold(NamedTuple):
    """The threshold of a solved row."""

    tau: Array  # z − τ = ω′(p); only this moves
    anchor: Array  # the score from which the others are measured,
    level: Array  # and its log-mass


@jax.custom_jvp
def masses_at(
    regularizer: Regularizer, z: Array, row: Threshold, movable: Array, apart: Array | None = None
) -> Array:
    """link(z − τ), of derivative s (d − τ̇), 0 where `movable` is 0; 0 for classes kept apart."""
    if regularizer.is_exponential:
        v = difference(z, row.anchor)
        if apart is None:
            return jnp.exp(v + row.level)
        # As a sum over the row was made of it, so that the compiler keeps it and forms it once.
        return jnp.where(apart, 0, jnp.exp(v)) * jnp.exp(row.level)
    masses = regularizer.on_curve(
        jnp.any, lambda curve: curve.masses(z, row.anchor, curve.at_level(row.level))
    )
    return masses if apart is None else jnp.where(apart, 0, masses)


@partial(masses_at.defjvp, symbolic_zeros=True)
def _masses_at_jvp(primals, tangents):
    regularizer, z, row, movable, apart = primals
    d_regularizer, d_z, d_row, *_ = tangents
    p = masses_at(regularizer, z, row, movable, apart)
    d = effective_tangent(p, d_z, regularizer, d_regularizer)
    if not isinstance(d_row.tau, SymbolicZero):
        d = -d_row.tau if d is None else d - d_row.tau
    return p, jnp.zeros_like(p) if d is None else regularizer.slope(p) * movable * d
