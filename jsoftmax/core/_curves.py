"""Curves: p as a function of the scores and of the sought threshold, in coordinates that hold.

A *curve* writes p as a function of v = z − anchor and of a place, in coordinates in which that
function neither overflows nor cancels, and says how to move along it.

The curves of `Tsallis` with a = α − 1 are all p = (c + a v)₊^(1/a). Up to a = 1 the anchor is the
largest score and c, or its logarithm, is kept as a sum of two floats: rounded to one, it would
spoil the sum of a wide row. Beyond, p leaves zero with infinite slope and so many digits of c
count that the anchor has to be the class at the edge of the support itself.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._q_logarithm import log_expq
from jsoftmax.core._safe_log import safe_log
from jsoftmax.core._scores import difference

if TYPE_CHECKING:
    from jsoftmax.core._regularizer import Regularizer

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


class _FromTop:
    """Curves along which log Σ p is almost a straight line in the log-mass of the largest score.

    Its slope is 1 for n equal scores, and more where the support widens: about 1 + a.
    """

    from_edge = False
    highest = math.inf  # log-mass at which the search may start

    def gap(self, mass):
        some = mass > 0
        return jnp.where(some, jnp.log(jnp.where(some, mass, 1)), _FAR_BELOW)


@dataclasses.dataclass(frozen=True)
class Power(_FromTop):
    """a from about 1/5 to 1: p = (c + a v)₊^(1/a). The place is c, as a sum of two.

    Sparsemax, 1.5-entmax and all whole powers up to the fourth do without exponentials. For a > 1
    it is right for large p only, which is enough to find about where the edge of the support is.
    """

    a: float | Array

    @property
    def slope(self):
        return 1 + self.a

    @property
    def order(self):
        return min(1 / self.a, 2.0) if isinstance(self.a, float) else jnp.minimum(1 / self.a, 2)

    def start(self, anchor):
        return filled(anchor, 1), filled(anchor, 0)

    def at_level(self, level):
        return jnp.exp(self.a * level), filled(level, 0)

    def masses(self, z, anchor, place):
        t = self._base(z, anchor, place)
        if isinstance(self.a, float):
            power = round(1 / self.a)
            if abs(self.a * power - 1) < 1e-15 and power <= 4:
                return jax.lax.integer_pow(t, power)
            if self.a == 2:
                return jnp.sqrt(t)
        return jnp.exp(jnp.log(t) * (1 / self.a))

    def log_masses(self, z, anchor, place):
        return jnp.log(self._base(z, anchor, place)) * (1 / self.a)

    def _base(self, z, anchor, place):
        c, rest = place
        return jnp.maximum((difference(z, anchor) * self.a + c) + rest, 0)

    def move(self, place, step):
        c, rest = place
        exponent = jnp.minimum(self.a * step, math.log(jnp.finfo(step.dtype).max) / 2)
        near = jnp.abs(exponent) < 1 / 16
        grown = (c + rest) * jnp.where(near, _growth(exponent), jnp.exp(exponent))
        return two_sum(jnp.where(near, c, 0), jnp.where(near, rest + grown, grown))

    def threshold(self, anchor, place):
        """The score at which p leaves zero."""
        return anchor - (place[0] + place[1]) / self.a


@dataclasses.dataclass(frozen=True)
class Scaled(_FromTop):
    """a ≤ 1: p = e^λ (1 + a (w + δ))₊^(1/a), w = v e^(−aλ), at a = 0 too.

    The place is λ and δ, and the scale e^(−aλ), which would else be computed for each class. Any
    two places with the same e^(aλ) (1 + aδ) are the same. Near the end of a search only δ moves:
    the scale rounded anew would move classes with little mass by an eps of the largest.
    """

    a: float | Array
    has_above: bool = False  # scores above the anchor, at which p may be infinite

    @property
    def slope(self):
        return 1 + self.a

    @property
    def order(self):
        if isinstance(self.a, float):
            return min(1 / self.a, 2.0) if self.a > 0 else 2.0
        return 1 / jnp.clip(self.a, 0.5, 1)

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0), filled(anchor, 1)

    def at_level(self, level):
        return level, filled(level, 0), jnp.exp(-self.a * level)

    def masses(self, z, anchor, place):
        return jnp.exp(self.log_masses(z, anchor, place))

    def log_masses(self, z, anchor, place):
        level, rest, scale = place
        w = difference(z, anchor) * scale + rest
        if isinstance(self.a, float) and self.a <= -0.2:  # far from 0, log loses nothing
            power = 1 + self.a * w
            if self.has_above:
                # A score may be so far above the anchor that its mass has no bound.
                least = float(jnp.finfo(w.dtype).max) ** (self.a / 2)
                power = jnp.where(power < least, least, power)
            return level + jnp.log(power) * (1 / self.a)
        return level + log_expq(w, self.a)

    def move(self, place, step):
        level, rest, scale = place
        # A small δ is known to a small part of an eps.
        near = jnp.abs(rest) + jnp.abs(step) < 2**-12
        x = jnp.where(near, step, 0)
        grown = rest + (1 + self.a * rest) * (x * _relative_growth(self.a * x))
        far, left = two_sum(level, log_expq(rest, self.a) + step)
        rest = jnp.where(near, grown, left)
        return jnp.where(near, level, far), rest, jnp.where(near, scale, jnp.exp(-self.a * far))


@dataclasses.dataclass(frozen=True)
class Edge:
    """a > 1: p = (xᵃ + a v)₊^(1/a), x the mass of the class at the edge. The place is (x, xᵃ)."""

    a: float | Array

    from_edge = True
    slope = 1.0
    order = 1.0  # near x = 0 the slope changes as fast as x

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0)

    def at_level(self, level):
        return jnp.exp(level), jnp.exp(self.a * level)

    def masses(self, z, anchor, place):
        power = jnp.maximum(self.argument(z, anchor, place), 0)
        root = isinstance(self.a, float) and self.a == 2
        p = jnp.sqrt(power) if root else jnp.exp(jnp.log(power) * (1 / self.a))
        if isinstance(self.a, float) and self.a <= 4:
            return p  # an xᵃ that underflows is that of a mass below an eps
        return jnp.where(z == anchor, place[0], p)

    def log_masses(self, z, anchor, place):
        log_p = jnp.log(jnp.maximum(self.argument(z, anchor, place), 0)) / self.a
        return jnp.where(z == anchor, safe_log(place[0]), log_p)

    def argument(self, z, anchor, place):
        """p^a, negative below the support; at the anchor xᵃ may underflow."""
        return self.a * difference(z, anchor) + place[1]

    def gap(self, mass):
        return mass - 1

    def move(self, place, step):
        return self.at(place[0] + step)

    def at(self, x):
        """The place at which the class at the edge has the mass x."""
        return x, jnp.exp(self.a * jnp.log(jnp.maximum(x, 0)))


class LevelPlace(NamedTuple):
    """A place on `Level`: a log-mass as a sum of two, and log p of the scores that it solves."""

    level: Array
    rest: Array
    known: Array | None = None  # where they lie in memory


@dataclasses.dataclass(frozen=True)
class Level(_FromTop):
    """Any regularizer: log p = log_link(ω′(e^λ) + v). The place is λ."""

    regularizer: Regularizer

    order = 1.0  # where a class enters the support, the slope may jump
    slope = 1.0

    def start(self, anchor):
        return LevelPlace(filled(anchor, 0), filled(anchor, 0))

    def at_level(self, level):
        return LevelPlace(level, filled(level, 0))

    def masses(self, z, anchor, place):
        if not self.regularizer.knows_link:
            return jnp.exp(self.log_masses(z, anchor, place))
        p = self.regularizer.link(self.marginals(z, anchor, place))
        return jnp.where(z == -jnp.inf, 0, p)

    def log_masses(self, z, anchor, place):
        if place.known is not None and place.known.shape == z.shape:
            return place.known
        log_p = self.regularizer.log_link(self.marginals(z, anchor, place), place.level)
        return jnp.where(z == -jnp.inf, -jnp.inf, log_p)

    def marginals(self, z, anchor, place):
        """ω′(p)."""
        huge = float(jnp.finfo(z.dtype).max) ** 0.5
        # The marginal of the anchor, which is infinite at the end of a domain.
        t = jnp.clip(self.regularizer.log_marginal(place.level), -huge, huge)
        relative = self.regularizer.relative_slope(place.level)
        t = difference(z, anchor) + t
        return t + place.rest / jnp.where(relative > 0, relative, 1)

    def move(self, place, step):
        level, rest = two_sum(place.level, place.rest + step)
        return place._replace(level=level, rest=rest)


@dataclasses.dataclass(frozen=True)
class Shift(_FromTop):
    """A link that is a symmetric distribution function: p = link(v + μ), 1 − p = link(−v − μ).

    The place is μ, as a sum of two.
    """

    regularizer: Regularizer

    order = 1.0  # near 1, or at a kink, no more is sure
    slope = 1.0
    highest = math.log(0.5)

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0)

    def at_level(self, level):
        return self.regularizer.log_marginal(level), filled(level, 0)

    def masses(self, z, anchor, place):
        return self.regularizer.link(self.marginals(z, anchor, place))

    def is_near_one(self, place):
        """Whether the anchor has so much mass that the slopes of all masses sum to little."""
        return place[0] > self.at_level(filled(place[0], math.log(0.75)))[0]

    def complements(self, z, anchor, place):
        """1 − p."""
        return self.regularizer.complement(self.marginals(z, anchor, place))

    def log_masses(self, z, anchor, place):
        t = self.marginals(z, anchor, place)
        return jnp.where(z == -jnp.inf, -jnp.inf, self.regularizer.log_link(t, t))

    def log_complements(self, z, anchor, place):
        """log(1 − p)."""
        t = -self.marginals(z, anchor, place)
        return self.regularizer.log_link(t, t)

    def marginals(self, z, anchor, place):
        """ω′(p)."""
        shift, rest = place
        return (difference(z, anchor) + shift) + rest

    def move(self, place, step):
        shift, rest = place
        return two_sum(shift, rest + step)


@dataclasses.dataclass(frozen=True)
class Capped:
    """Any curve, with the masses clipped at `upper`."""

    curve: Curve
    upper: Array

    def __post_init__(self):
        if isinstance(self.curve, Scaled):
            object.__setattr__(self, "curve", dataclasses.replace(self.curve, has_above=True))

    @property
    def from_edge(self):
        return self.curve.from_edge

    @property
    def is_shift(self):
        """Whether coordinates are shifts of the scores."""
        return isinstance(self.curve, Shift)

    def start(self, anchor):
        return self.curve.start(anchor)

    def masses(self, z, anchor, place):
        far = self._far_above(z, anchor)
        p = self.curve.masses(jnp.where(far, anchor, z), anchor, place)
        return jnp.where(far, self.upper, jnp.minimum(p, self.upper))

    def deficits(self, z, anchor, place):
        """u − p."""
        if not isinstance(self.curve, Shift):
            return self.upper - self.masses(z, anchor, place)
        far = self._far_above(z, anchor)
        short = self.curve.complements(jnp.where(far, anchor, z), anchor, place)
        return jnp.where(far, 0, jnp.maximum((self.upper - 1) + short, 0))

    def _far_above(self, z, anchor):
        """Where a score is so far above the anchor that it is capped, and the curve overflows."""
        return difference(z, anchor) > float(jnp.finfo(z.dtype).max) ** 0.5

    def coordinates(self, lowest, highest):
        """Those of two masses of the anchor: its shift, its logarithm, or at an edge the mass.

        The lowest is one of the smallest class with mass, and an edge below it may have none.
        """
        if self.from_edge:
            return filled(highest, 0), highest
        if self.is_shift:
            # No shift is that of a mass of 1, which a class by itself has: half of it is less.
            lowest = jnp.minimum(lowest, 0.5)
            return tuple(self.curve.at_level(jnp.log(x))[0] for x in (lowest, highest))
        return jnp.log(lowest), jnp.log(highest)

    def at(self, coordinate, rest):
        """The place at a coordinate, given as a sum of two."""
        if self.is_shift:
            return coordinate, rest
        if isinstance(self.curve, Edge):
            return self.curve.at(coordinate)
        return self.curve.move(self.curve.at_level(coordinate), rest)


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


def _growth(x: Array) -> Array:
    """eˣ − 1, to about an eps of x near 0; `jnp.expm1` costs as much as a sum over 64 classes."""
    return x * _relative_growth(x)


def _relative_growth(x: Array) -> Array:
    """(eˣ − 1)/x near 0."""
    return 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5)))


def two_sum(large: Array, small: Array) -> tuple[Array, Array]:
    """The sum rounded to one float, and what the rounding left."""
    total = large + small
    return total, small - (total - large)
