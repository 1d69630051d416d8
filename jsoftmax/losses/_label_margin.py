"""Lower the score of the label before the softmax, so that it must lead by a margin.

The additive margin subtracts m from the score; the angular one reads the score as a cosine and adds
m to its angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks


class Margins(NamedTuple):
    """The margins of each row, or None for no margin."""

    additive: Array | None
    angular: Array | None


def read_margins(
    function: str, margin: Any, angular_margin: Any, per_row: Callable[[str, Any], Array]
) -> Margins | None:
    """Return the margins as one number a row each, or None if both are the number 0.

    Raises:
        ValueError: for a known angle out of range [0, π), or shapes that do not fit.
    """
    known = checks.known_values(angular_margin)
    if known is not None and not ((known >= 0) & (known < math.pi)).all():
        raise ValueError(
            f"jsoftmax.{function}: `angular_margin` must be at least 0 and below π, in radians, "
            f"got {angular_margin!r}."
        )
    additive = angular = None
    if checks.static_number(margin) != 0:
        additive = per_row("margin", margin)
    if checks.static_number(angular_margin) != 0:
        m = per_row("angular_margin", angular_margin)
        angular = jnp.where((m >= 0) & (m < math.pi), m, jnp.nan)
    return None if additive is None and angular is None else Margins(additive, angular)


def lowered(z: Array, is_label: Array, margins: Margins | None) -> Array:
    """Return the scores with those of the labels lowered; −∞ stays."""
    if margins is None:
        return z
    own = z
    if margins.angular is not None:
        own = _turned(own, margins.angular)
    if margins.additive is not None:
        own = own - margins.additive
    return jnp.where(is_label & ~(z == -jnp.inf), own, z)


def _turned(cosine: Array, m: Array) -> Array:
    # cos(θ + m) for θ up to π − m. Beyond that it would rise again, so c − m sin m, which falls.
    # The slope sin(θ + m)/sin θ is infinite at θ = 0; there its finite part cos m is used.
    square = (1 - cosine) * (1 + cosine)
    is_inside = square > 0
    sine = jnp.where(is_inside, jnp.sqrt(jnp.where(is_inside, square, 1)), 0)
    turned = cosine * jnp.cos(m) - sine * jnp.sin(m)
    return jnp.where(cosine > -jnp.cos(m), turned, cosine - m * jnp.sin(m))
