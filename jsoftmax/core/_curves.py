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
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._regularizers import log_expq
from jsoftmax.core._scores import difference

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
    def from_edge(self) -> bool | Array:
        """Whether the anchor is the smallest score in the support instead of the largest one."""
        ...

    def start(self, anchor: Array) -> Any:
        """Where the search starts: the anchor alone has mass one or, at an edge, none."""
        ...

    def masses(self, z: Array, anchor: Array, place: Any) -> Array:
        """p of the scores `z`."""
        ...

    def log_masses(self, z: Array, anchor: Array, place: Any) -> Array:
        """log p, −∞ off the support."""
        ...

    def gap(self, mass: Array, total: float | Array) -> Array:
        """How far a sum of masses is above the total: the function whose root is sought."""
        ...

    def move(self, place: Any, step: Array) -> Any:
        """The place one step along the curve, in the direction of more mass."""
        ...


class _FromTop:
    """Curves along which log Σ p is almost a straight line in the log-mass of the largest score.

    Its slope is 1 for n equal scores, and more where the support widens: about 1 + a.
    """

    from_edge = False

    def gap(self, mass, total):
        return _log_ratio(mass, total)


@dataclasses.dataclass(frozen=True)
class Power(_FromTop):
    """a from about 1/5 to 1: p = (c + a v)₊^(1/a). The place is c, as a sum of two.

    Sparsemax, 1.5-entmax and all whole powers up to the fourth do without exponentials.
    """

    a: float

    @property
    def slope(self):
        return 1 + self.a

    @property
    def order(self):
        return min(1 / self.a, 2.0)

    def start(self, anchor):
        return filled(anchor, 1), filled(anchor, 0)

    def masses(self, z, anchor, place):
        t, power = self._base(z, anchor, place), round(1 / self.a)
        if abs(self.a * power - 1) < 1e-15 and power <= 4:
            return jax.lax.integer_pow(t, power)
        return jnp.exp(jnp.log(t) * (1 / self.a))

    def log_masses(self, z, anchor, place):
        return jnp.log(self._base(z, anchor, place)) * (1 / self.a)

    def _base(self, z, anchor, place):
        c, rest = place
        return jnp.maximum((difference(z, anchor) * self.a + c) + rest, 0)

    def move(self, place, step):
        c, rest = place
        return _two_sum(c, rest + (c + rest) * _growth(self.a * step))


@dataclasses.dataclass(frozen=True)
class Scaled(_FromTop):
    """a ≤ 1: p = e^λ (1 + a w)₊^(1/a), w = v e^(−aλ), at a = 0 too.

    The place is λ, as a sum of two, of which the smaller is added to w: e^λ (1 + aδ)^(1/a) is
    e^(λ+δ) for so small a δ; and e^(−aλ), which would else be computed for each class.
    """

    a: float | Array

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

    def masses(self, z, anchor, place):
        return jnp.exp(self.log_masses(z, anchor, place))

    def log_masses(self, z, anchor, place):
        level, rest, scale = place
        w = difference(z, anchor) * scale + rest
        if self.a <= -0.2:  # far from 0, log loses nothing
            return level + jnp.log(1 + self.a * w) * (1 / self.a)
        return level + log_expq(w, self.a)

    def move(self, place, step):
        level, rest = _two_sum(place[0], place[1] + step)
        return level, rest, jnp.exp(-self.a * level)


@dataclasses.dataclass(frozen=True)
class Edge:
    """a > 1: p = (xᵃ + a v)₊^(1/a), x the mass of the class at the edge. The place is (x, xᵃ)."""

    a: float | Array

    from_edge = True
    slope = 1.0

    @property
    def order(self):
        return min(self.a, 2.0) if isinstance(self.a, float) else jnp.clip(self.a, 1, 2)

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0)

    def masses(self, z, anchor, place):
        power = jnp.maximum(self.argument(z, anchor, place), 0)
        root = isinstance(self.a, float) and self.a == 2
        p = jnp.sqrt(power) if root else jnp.exp(jnp.log(power) / self.a)
        return jnp.where(z == anchor, place[0], p)

    def log_masses(self, z, anchor, place):
        log_p = jnp.log(jnp.maximum(self.argument(z, anchor, place), 0)) / self.a
        return jnp.where(z == anchor, _safe_log(place[0]), log_p)

    def argument(self, z, anchor, place):
        """p^a, negative below the support; at the anchor xᵃ may underflow."""
        return self.a * difference(z, anchor) + place[1]

    def gap(self, mass, total):
        return mass / total - 1

    def move(self, place, step):
        x = place[0] + step
        return x, jnp.exp(self.a * jnp.log(jnp.maximum(x, 0)))


@dataclasses.dataclass(frozen=True)
class Logistic(_FromTop):
    """The Fermi–Dirac form p = 1/(1 + e^−(v + μ)). The place is μ, as a sum of two."""

    order = 2.0
    slope = 1.0

    def start(self, anchor):
        return filled(anchor, 0), filled(anchor, 0)

    def masses(self, z, anchor, place):
        shift, rest = place
        return jax.nn.sigmoid((difference(z, anchor) + shift) + rest)

    def log_masses(self, z, anchor, place):
        shift, rest = place
        return jax.nn.log_sigmoid((difference(z, anchor) + shift) + rest)

    def move(self, place, step):
        shift, rest = place
        return _two_sum(shift, rest + step)


@dataclasses.dataclass(frozen=True)
class Capped:
    """Any curve, with the masses clipped at `upper`."""

    curve: Curve
    upper: Array

    order = 1.0  # where a cap begins to bind, the slope jumps

    @property
    def from_edge(self):
        return self.curve.from_edge

    @property
    def slope(self):
        return self.curve.slope

    def start(self, anchor):
        return self.curve.start(anchor)

    def masses(self, z, anchor, place):
        far = self._far_above(z, anchor)
        p = self.curve.masses(jnp.where(far, anchor, z), anchor, place)
        return jnp.where(far, self.upper, jnp.minimum(p, self.upper))

    def log_masses(self, z, anchor, place):
        return _safe_log(self.masses(z, anchor, place))

    def _far_above(self, z, anchor):
        """Where a score is so far above the anchor that it is capped, and the curve overflows."""
        return difference(z, anchor) > float(jnp.finfo(z.dtype).max) ** 0.5

    def gap(self, mass, total):
        return self.curve.gap(mass, total)

    def move(self, place, step):
        return self.curve.move(place, step)


@dataclasses.dataclass(frozen=True)
class Either:
    """`Scaled` or `Edge`, row by row, by the value of a traced α.

    Both are p = e^μ (b + f v)₊^(1/a). The place holds theirs, and of each row these numbers: f, b
    as a sum of two, μ, and log p of the anchor, whose b may underflow.
    """

    a: Array

    @property
    def from_edge(self):
        return self.a > 1

    @property
    def order(self):
        low, high = self._curves()
        return jnp.where(self.from_edge, high.order, low.order)

    @property
    def slope(self):
        low, high = self._curves()
        return jnp.where(self.from_edge, high.slope, low.slope)

    def start(self, anchor):
        low, high = self._curves()
        return self._in_common(low.start(anchor), high.start(anchor))

    def masses(self, z, anchor, place):
        return jnp.exp(self.log_masses(z, anchor, place))

    def log_masses(self, z, anchor, place):
        *_, (factor, base, rest, level, log_anchor) = place
        finite = float(jnp.finfo(z.dtype).max) / 4
        v = jnp.clip(difference(z, anchor) * factor, -finite, finite)
        total = base + v
        lost = (v - (total - base)) + rest
        u = total + lost
        lost = lost - (u - total)
        u = jnp.maximum(u, 0)
        log_u = jnp.log(u) + jnp.where(u > 0, lost / jnp.where(u > 0, u, 1), 0)
        log_p = jnp.where(z == anchor, log_anchor, level + log_u / self._nonzero)
        return _without_excluded(log_p, z, anchor)

    def gap(self, mass, total):
        low, high = self._curves()
        return jnp.where(self.from_edge, high.gap(mass, total), low.gap(mass, total))

    def move(self, place, step):
        low, high = self._curves()
        return self._in_common(low.move(place[0], step), high.move(place[1], step))

    @property
    def _nonzero(self):
        """a, but so little instead of 0 that 1 + a w is exactly 1 and what is lost in it a w."""
        return jnp.where(jnp.abs(self.a) < 1e-20, 1e-20, self.a)

    def _curves(self):
        return Scaled(jnp.minimum(self._nonzero, 1)), Edge(jnp.maximum(self.a, 1))

    def _in_common(self, low, high):
        (level, rest, scale), (x, power) = low, high
        edge, a = self.from_edge, self._nonzero
        common = (
            jnp.where(edge, a, a * scale),
            jnp.where(edge, power, 1),
            jnp.where(edge, 0, a * rest),
            jnp.where(edge, 0, level),
            jnp.where(edge, _safe_log(x), jnp.where(a == a, level + rest, a)),
        )
        return low, high, common


def curve_of(a: float | Array) -> Curve:
    """The curve on which p(τ) of the Tsallis family with α = 1 + a is computed."""
    if isinstance(a, Array):
        return Either(a)
    return Edge(a) if a > 1 else Power(a) if a > 0.2 else Scaled(a)


def filled(like: Array, value: float) -> Array:
    """An array of one value made from `like`: a loop carry must vary over a mesh as its data do."""
    return jnp.where(like == like, jnp.asarray(value, like.dtype), jnp.asarray(value, like.dtype))


def _log_ratio(mass: Array, total: float | Array) -> Array:
    some = mass > 0
    return jnp.where(some, jnp.log(jnp.where(some, mass, 1) / total), _FAR_BELOW)


def _without_excluded(log_p: Array, z: Array, anchor: Array) -> Array:
    """`log_p`, but −∞ for scores of −∞, save in a row that holds NaN."""
    return jnp.where((z == -jnp.inf) & (anchor == anchor), -jnp.inf, log_p)


def _growth(x: Array) -> Array:
    """eˣ − 1, to about an eps of x near 0; `jnp.expm1` costs as much as a sum over 64 classes."""
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5))))
    return jnp.where(jnp.abs(x) < 1 / 16, series, jnp.exp(x) - 1)


def _two_sum(large: Array, small: Array) -> tuple[Array, Array]:
    total = large + small
    return total, small - (total - large)


def _safe_log(x: Array) -> Array:
    """log x for x ≥ 0, without the −∞ being computed where derivatives of it might be taken."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), jnp.where(x == 0, -jnp.inf, x))
