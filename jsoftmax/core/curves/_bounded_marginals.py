"""Compute masses with their slopes, and the marginals z − τ of a bounded link."""

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
    """Return ω′(p), kept finite, of a bounded link, since p near the bound cannot; else None."""
    if regularizer.bound == math.inf:
        return None
    assert isinstance(curve, Shift | Level)
    t = jnp.where(z == -jnp.inf, z, curve.marginals(z, anchor, place))
    most = float(jnp.finfo(z.dtype).max)
    return jnp.clip(t, -most, most)


def slope_at(r: Array, t: Array | None, regularizer: Regularizer) -> Array:
    """Return 1/ω″(r), from t = ω′(r) for a bounded link."""
    return regularizer.slope(r) if t is None else jnp.exp(regularizer.log_slope(t))


def masses_and_slopes(
    curve: Curve, regularizer: Regularizer, z: Array, anchor: Array, place: Any
) -> tuple[Array, Array]:
    """Return p of scores and s = 1/ω″(p), from the curve where it has slopes."""
    if has_slopes(curve):
        shares = curve.shares(jnp.minimum(z, float(jnp.finfo(z.dtype).max)), anchor, place)
        p, s = (share * factor for share, factor in zip(shares, curve.factors(), strict=True))
        return p, s
    p = curve.masses(z, anchor, place)
    return p, slope_at(p, bounded_marginals(curve, regularizer, z, anchor, place), regularizer)
