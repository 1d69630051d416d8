"""Masses with their slopes, and how far scores are above the threshold, where p does not tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import Array

from jsoftmax.core.curves._curve import Curve, has_slopes
from jsoftmax.core.curves._level import Level
from jsoftmax.core.curves._shift import Shift

if TYPE_CHECKING:
    from jsoftmax.core._regularizer import Regularizer


def bounded_marginals(
    curve: Curve, regularizer: Regularizer, z: Array, anchor: Array, place: Any
) -> Array | None:
    """ω′(p) of a link with a bound, near which p tells nothing of it, kept finite; else None."""
    if regularizer.bound == math.inf:
        return None
    assert isinstance(curve, Shift | Level)
    t = jnp.where(z == -jnp.inf, z, curve.marginals(z, anchor, place))
    most = float(jnp.finfo(z.dtype).max)
    return jnp.clip(t, -most, most)


def slope_at(r: Array, t: Array | None, regularizer: Regularizer) -> Array:
    """1/ω″(r), of t = ω′(r) where the link has a bound."""
    return regularizer.slope(r) if t is None else jnp.exp(regularizer.log_slope(t))


def masses_and_slopes(
    curve: Curve, regularizer: Regularizer, z: Array, anchor: Array, place: Any
) -> tuple[Array, Array]:
    """p of scores and s = 1/ω″(p), by the curve where it knows both."""
    if has_slopes(curve):
        shares = curve.shares(jnp.minimum(z, float(jnp.finfo(z.dtype).max)), anchor, place)
        p, s = (share * factor for share, factor in zip(shares, curve.factors(), strict=True))
        return p, s
    p = curve.masses(z, anchor, place)
    return p, slope_at(p, bounded_marginals(curve, regularizer, z, anchor, place), regularizer)
