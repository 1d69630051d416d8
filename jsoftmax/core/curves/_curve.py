"""The interface of curves, and what they share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_FAR_BELOW = -10.0  # the gap of a sum that underflowed: some place far below the sought one


@runtime_checkable
class Curve(Protocol):
    """p as a function of scores and of the place on the curve."""

    @property
    def order(self) -> float | Array:
        """The error that a secant step leaves falls as this power of the gap it closes."""
        ...

    @property
    def slope(self) -> float | Array:
        """About how fast the gap grows along the curve, where the search begins."""
        ...

    @property
    def from_edge(self) -> bool:
        """Whether the anchor is the smallest score in the support instead of the largest one."""
        ...

    def start(self, anchor: Array) -> Any:
        """Where the search starts: the anchor alone has mass one or, at an edge, none."""
        ...

    def at_level(self, level: Array) -> Any:
        """The place at which the anchor has this log-mass, rounded to one float."""
        ...

    def masses(self, z: Array, anchor: Array, place: Any) -> Array:
        """p of the scores `z`."""
        ...

    def log_masses(self, z: Array, anchor: Array, place: Any) -> Array:
        """log p, −∞ off the support."""
        ...

    def gap(self, mass: Array) -> Array:
        """How far a sum of masses is above one: the search finds its root."""
        ...

    def move(self, place: Any, step: Array) -> Any:
        """The place one step along the curve, in the direction of more mass."""
        ...


@runtime_checkable
class Sloped(Curve, Protocol):
    """A curve on which the slopes of the masses come almost for nothing with them."""

    @property
    def has_slopes(self) -> bool:
        """Whether that is so for the numbers of this one."""
        ...

    def shares(self, z: Array, anchor: Array, place: Any) -> tuple[Array, Array]:
        """Return p and s = ∂p/∂z without the factors of the row. No score may be +∞."""
        ...

    def factors(self) -> tuple[float, float]:
        """Return the factors of the row for p and for s."""
        ...

    def drift(self, place: Any) -> Array:
        """How fast all z − τ move along the curve: ∂p/∂step = drift · s."""
        ...


def has_slopes(curve: Curve) -> TypeIs[Sloped]:
    """Whether slopes come with the masses."""
    return isinstance(curve, Sloped) and curve.has_slopes


def is_asked(curve: Curve) -> Array | bool:
    """Which rows the curve is for: the numbers of the others are NaN, as in `Tsallis.on_curve`."""
    a = getattr(curve, "a", None)
    return a == a if isinstance(a, Array) else True


class FromTop:
    """Curves along which log Σ p is almost a straight line in the log-mass of the largest score.

    Its slope is 1 for n equal scores, and more where the support widens: about 1 + a.
    """

    from_edge = False
    highest = math.inf  # log-mass at which the search may start

    def gap(self, mass):
        none = mass <= 0  # not NaN
        return jnp.where(none, _FAR_BELOW, jnp.log(jnp.where(none, 1, mass)))


def two_sum(large: Array, small: Array) -> tuple[Array, Array]:
    """The sum, rounded, and its rounding error."""
    total = large + small
    return total, small - (total - large)


def exact_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """The sum, rounded, and its rounding error, whichever is larger."""
    total = x + y
    of_y = total - x
    return total, (x - (total - of_y)) + (y - of_y)
