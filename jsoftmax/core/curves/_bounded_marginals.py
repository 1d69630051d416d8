"""How far scores are above the threshold, where p does not tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import Array

from jsoftmax.core.curves._curve import Curve
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
