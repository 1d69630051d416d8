"""The interface of curves, and their shared helpers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_FAR_BELOW = -10.0  # the gap of a sum that underflowed: some place far below the solution


@runtime_checkable
class Curve(Protocol):
    """p as a function of scores and of the place on the curve."""

    @property
    def order(self) -> float | Array:
        """The order of convergence: a secant step leaves an error of this power of the gap."""
        ...

    @property
    def slope(self) -> float | Array:
        """The approximate slope of the gap along the curve at the start of the search."""
        ...

    @property
    def from_edge(self) -> bool:
        """Whether the anchor is the smallest score in the support instead of the largest one."""
        ...

    def start(self, anchor: Array) -> Any:
        """Return the start of the search: the anchor alone has mass one or, at an edge, none."""
        ...

    def at_level(self, level: Array) -> Any:
        """Return the place where the anchor has this log-mass, rounded to one float."""
        ...

    def masses(self, z: Array, anchor: Array, place: Any) -> Array:
        """Return p of the scores `z`."""
        ...

    def log_masses(self, z: Array, anchor: Array, place: Any) -> Array:
        """Return log p, −∞ off the support."""
        ...

    def gap(self, mass: Array) -> Array:
        """Return how far a sum of masses is above one; the search finds its root."""
        ...

    def move(self, place: Any, step: Array) -> Any:
        """Return the place one step along the curve, in the direction of more mass."""
        ...


@runtime_checkable
class Sloped(Curve, Protocol):
    """A curve that computes the slopes along with the masses, at almost no cost."""

    @property
    def has_slopes(self) -> bool:
        """Whether that holds for the parameters of this curve."""
        ...

    def shares(self, z: Array, anchor: Array, place: Any) -> tuple[Array, Array]:
        """Return p and s = ∂p/∂z without the per-row factors. No score may be +∞."""
        ...

    def factors(self) -> tuple[float, float]:
        """Return the per-row factors for p and for s."""
        ...

    def drift(self, place: Any) -> Array:
        """Return the rate of change of all z − τ along the curve: ∂p/∂step = drift · s."""
        ...


def has_slopes(curve: Curve) -> TypeIs[Sloped]:
    """Return whether slopes come with the masses."""
    return isinstance(curve, Sloped) and curve.has_slopes


def is_asked(curve: Curve) -> Array | bool:
    """Return the rows that use the curve: the others have a NaN for a, as in `Tsallis.on_curve`."""
    a = getattr(curve, "a", None)
    return a == a if isinstance(a, Array) else True


class FromTop:
    """Curves with log Σ p almost linear in the log-mass of the largest score.

    Its slope is 1 for n equal scores, and more where the support widens: about 1 + a.
    """

    from_edge = False
    highest = math.inf  # the largest log-mass for the start of the search

    def gap(self, mass):
        none = mass <= 0  # not NaN
        return jnp.where(none, _FAR_BELOW, jnp.log(jnp.where(none, 1, mass)))


def two_sum(large: Array, small: Array) -> tuple[Array, Array]:
    """Return the rounded sum and its rounding error."""
    total = large + small
    return total, small - (total - large)


def exact_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the rounded sum and its rounding error, whichever term is larger."""
    total = x + y
    of_y = total - x
    return total, (x - (total - of_y)) + (y - of_y)
