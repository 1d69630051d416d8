"""Cotangents of a tile, for both kernels of the backward pass.

With s the slopes of p, and for each query a shift formed from the mean ⟨do, Σ s v/Σ s⟩ and the
cotangent of τ, the cotangent of scores is

    dz = s (⟨do, v⟩ − shift),

and of a parameter θ of the regularizer it is −Σ dz (∂ω′/∂θ)(p).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._arg_max import where_hard
from jsoftmax.core._solved_row import Masses, SolvedRow
from jsoftmax.kernels.attention._block import Block, finite, one_row, product
from jsoftmax.kernels.attention._forward import ROWS

SHIFT = len(ROWS)  # the index of the shift among the rows


class Turned(NamedTuple):
    """The cotangent of a tile's scores before a cap, its weights, and terms of further sums."""

    d_u: Array
    weights: Array  # of the values
    rows: list[Array]  # terms of each number of a head that moves


def turned(
    block: Block, tile: Any, k: Array, v: Array, q: Array, d_out: Array, rows: Array
) -> Turned:
    """Return the cotangents of a tile, from the residuals `rows` of its queries, (8, queries)."""
    spec = block.spec
    known = {name: one_row(rows, i) for i, name in enumerate(ROWS)}
    shift = one_row(rows, SHIFT)
    formed = block.scores(tile, k, q, moves=True)
    z = formed.z
    masses = Masses(block.regularizer, SolvedRow(**known), block.hard)
    p, s = masses.with_weights(z)
    kept = block.kept(tile)
    if spec.hides:
        v, _ = finite(v)
    by_values = product(v, d_out, ((1,), (1,)), spec.precision) * kept
    d_z = s * (where_hard(block.hard, jnp.zeros_like(p), by_values) - shift)
    d_u = d_z if formed.bend is None else d_z * formed.bend
    return Turned(
        d_u, p * kept, [_term(block, name, formed, p, d_z, d_u) for name in spec.moving_rows]
    )


def _term(block, name, formed, p, d_z, d_u):
    if name == "scale":
        return d_u * formed.raw
    if name == "soft_cap":
        return d_z * formed.by_cap
    return d_z * block.spec.bend(block.regularizer, name, p)
