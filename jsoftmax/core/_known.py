"""p of scores whose threshold is already known, so that any block of a row can be had again."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._curves import by_curve
from jsoftmax.core._regularizers import Tsallis
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import effective_tangent


class Threshold(NamedTuple):
    """What is kept of a solved row."""

    tau: Array  # z − τ = ω′(p); only this moves
    anchor: Array  # the score from which the others are measured,
    level: Array  # and its log-mass


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def masses_at(
    family: Tsallis, z: Array, alpha: Array | None, row: Threshold, movable: Array
) -> Array:
    """p = link(z − τ), of derivative ṗ = s (d − τ̇); 0 where `movable` is 0."""
    if family.alpha == 1:
        return jnp.exp(difference(z, row.anchor) + row.level)
    return by_curve(
        family.exponent(alpha),
        jnp.any,
        lambda curve: curve.masses(z, row.anchor, curve.at_level(row.level)),
    )


@partial(masses_at.defjvp, symbolic_zeros=True)
def _masses_at_jvp(family, primals, tangents):
    (z, alpha, row, movable), (d_z, d_alpha, d_row, _) = primals, tangents
    p = masses_at(family, z, alpha, row, movable)
    d = effective_tangent(p, d_z, alpha, d_alpha, family)
    if not isinstance(d_row.tau, SymbolicZero):
        d = -d_row.tau if d is None else d - d_row.tau
    return p, jnp.zeros_like(p) if d is None else family.slope(p, alpha) * movable * d
