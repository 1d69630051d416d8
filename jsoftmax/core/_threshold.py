"""The threshold τ of p = link(z − τ), Σ p = total: one solver for every regularizer and every row.

A *curve* writes p as a function of v = z − max z and of the sought threshold, in coordinates in
which that function neither overflows nor cancels, and says how to move along it. `solve` finds the
point at which the masses sum to the total by a bracketed secant on log Σ p, which for n equal
scores is a straight line; one sum over the row a step.

The curves of `Tsallis`, with a = α − 1 and c = (p of the largest score)^a, are all
p = (c + a v)₊^(1/a). Rounded to one float, c would spoil the sum of a wide row, and the entries
near the edge of the support, so it is kept as a sum of two.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._regularizers import log_expq, nonzero
from jsoftmax.core._scores import Scores, difference, lost_in_difference

_MOST_STEPS = 100


@runtime_checkable
class Curve(Protocol):
    """p as a function of scores and of the place on the curve."""

    def start(self, top: Array) -> Any:
        """The place at which the largest score alone has mass one."""
        ...

    def masses(self, z: Array, top: Array, place: Any) -> Array:
        """p of the scores `z`, whose row has the maximum `top`."""
        ...

    def log_masses(self, z: Array, top: Array, place: Any) -> Array:
        """log p, −∞ off the support."""
        ...

    def gap(self, mass: Array, total: float | Array) -> Array:
        """How far a sum of masses is above the total: the function whose root is sought."""
        ...

    def move(self, place: Any, step: Array) -> Any:
        """The place one step along the curve, in the direction of more mass."""
        ...


class _Logarithmic:
    """Curves along which log Σ p is almost a straight line in the log-mass of the largest score."""

    def gap(self, mass, total):
        some = mass > 0
        return jnp.where(some, jnp.log(jnp.where(some, mass, 1) / total), _FAR_BELOW)


@dataclasses.dataclass(frozen=True)
class Root(_Logarithmic):
    """α = 1 + 1/m for a small whole m: p = tᵐ for t = (c + v/m)₊, without exponentials.

    Sparsemax is m = 1, 1.5-entmax m = 2. The place is c, as a sum of two.
    """

    m: int

    def start(self, top):
        return filled(top, 1), filled(top, 0)

    def masses(self, z, top, place):
        c, rest = place
        v = difference(z, top)
        t = jnp.maximum(((v if self.m == 1 else v / self.m) + c) + rest, 0)
        return t if self.m == 1 else jax.lax.integer_pow(t, self.m)

    def log_masses(self, z, top, place):
        return _safe_log(self.masses(z, top, place))

    def move(self, place, step):
        c, rest = place
        return _two_sum(c, rest + (c + rest) * jnp.expm1(step / self.m))


@dataclasses.dataclass(frozen=True)
class Scaled(_Logarithmic):
    """a < 1: p = e^λ (1 + a w)₊^(1/a), w = v e^(−aλ) + μ, at a = 0 too. The place is (λ, μ)."""

    a: float | Array

    def start(self, top):
        return filled(top, 0), filled(top, 1), filled(top, 0)

    def masses(self, z, top, place):
        return jnp.exp(self.log_masses(z, top, place))

    def log_masses(self, z, top, place):
        level, w = place[0], self.argument(z, top, place)
        if isinstance(self.a, float) and abs(self.a) >= 0.25:  # far from 1, log loses nothing
            log_p = level + jnp.log(jnp.maximum(1 + self.a * w, 0)) * (1 / self.a)
        else:
            log_p = level + log_expq(w, self.a)
        if isinstance(self.a, float) and self.a > 0:
            return log_p
        return jnp.where(z == -jnp.inf, z, log_p)

    def argument(self, z, top, place):
        """w, finite also for z = −∞."""
        _, scale, shift = place
        return jnp.maximum(difference(z, top) * scale, -jnp.finfo(z.dtype).max) + shift

    def move(self, place, step):
        level, _, shift = place
        a = jnp.asarray(self.a, level.dtype)
        growth = jnp.where(a == 0, step, jnp.expm1(a * step) / nonzero(a))
        moved = shift + (1 + a * shift) * growth
        # Far moves start from a new level, which keeps μ small and 1 + a μ exact.
        far = jnp.abs(moved) > 1 / 64
        level = jnp.where(far, level + log_expq(moved, a), level)
        return level, jnp.exp(-a * level), jnp.where(far, 0, moved)


@dataclasses.dataclass(frozen=True)
class Edge(_Logarithmic):
    """a > 1, where p leaves 0 with infinite slope: p = (a t)₊^(1/a), t = v + distance of the edge.

    Near the edge t must be exact, so v and the distance are sums of two. For large a the distance
    underflows; all is scaled by a power of two, which is exact. The place is (the logarithm of the
    scale over a, the scale, the distance as a sum of two).
    """

    a: float | Array

    def start(self, top):
        a = jnp.asarray(self.a, top.dtype)
        distance = filled(top, 1) / a
        return filled(top, 0), filled(top, 1), distance, (1 - distance * a) / a

    def masses(self, z, top, place):
        if isinstance(self.a, float) and self.a == 2:
            return jnp.sqrt(jnp.maximum(2 / place[1] * self.argument(z, top, place), 0))
        return jnp.exp(self.log_masses(z, top, place))

    def log_masses(self, z, top, place):
        log_t = jnp.log(jnp.maximum(self.a * self.argument(z, top, place), 0))
        return (log_t - place[0] * _LOG_2) / self.a

    def argument(self, z, top, place):
        """t, times the scale."""
        _, scale, distance, rest = place
        v = jnp.maximum(difference(z, top) * scale, -jnp.finfo(z.dtype).max)
        return (v + distance) + (rest + lost_in_difference(z, top) * scale)

    def move(self, place, step):
        power, _, distance, rest = place
        distance, rest = _two_sum(distance, rest + (distance + rest) * jnp.expm1(self.a * step))
        # A distance far below 1 is scaled back towards it. The scale itself must not overflow:
        # past its largest value only the ties of the maximum are within reach of the edge.
        up = jnp.maximum(-jnp.round(jnp.log2(distance)), 0)
        up = jnp.where((up > 8) & (up < jnp.inf), up, 0)
        power, up = power + up, up.astype(jnp.int32)
        scale = jnp.ldexp(filled(power, 1), jnp.minimum(power, 120).astype(jnp.int32))
        return power, scale, jnp.ldexp(distance, up), jnp.ldexp(rest, up)


@dataclasses.dataclass(frozen=True)
class Logistic(_Logarithmic):
    """The Fermi–Dirac form p = 1/(1 + e^−(v + μ)). The place is μ, as a sum of two."""

    def start(self, top):
        return filled(top, 0), filled(top, 0)

    def masses(self, z, top, place):
        shift, rest = place
        return jax.nn.sigmoid((difference(z, top) + shift) + rest)

    def log_masses(self, z, top, place):
        shift, rest = place
        return jax.nn.log_sigmoid((difference(z, top) + shift) + rest)

    def move(self, place, step):
        shift, rest = place
        return _two_sum(shift, rest + step)


@dataclasses.dataclass(frozen=True)
class Capped:
    """Any curve, with the masses clipped at `upper`."""

    curve: Curve
    upper: Array

    def start(self, top):
        return self.curve.start(top)

    def masses(self, z, top, place):
        far = self._far_above(z, top)
        p = self.curve.masses(jnp.where(far, top, z), top, place)
        return jnp.where(far, self.upper, jnp.minimum(p, self.upper))

    def log_masses(self, z, top, place):
        far = self._far_above(z, top)
        log_p = self.curve.log_masses(jnp.where(far, top, z), top, place)
        return jnp.where(far, jnp.log(self.upper), jnp.minimum(log_p, jnp.log(self.upper)))

    def _far_above(self, z, top):
        """Where a score is so far above the anchor that it is capped, and the curve overflows."""
        return difference(z, top) > float(jnp.finfo(z.dtype).max) ** 0.5

    def gap(self, mass, total):
        return self.curve.gap(mass, total)

    def move(self, place, step):
        return self.curve.move(place, step)


@dataclasses.dataclass(frozen=True)
class Either(_Logarithmic):
    """`Scaled` or `Edge` by the value of a traced α."""

    a: Array

    def _curves(self):
        return Scaled(jnp.minimum(self.a, 1)), Edge(jnp.maximum(self.a, 1))

    def start(self, top):
        return tuple(curve.start(top) for curve in self._curves())

    def masses(self, z, top, place):
        return jnp.exp(self.log_masses(z, top, place))

    def log_masses(self, z, top, place):
        low, high = self._curves()
        w, t = low.argument(z, top, place[0]), high.argument(z, top, place[1])
        edge = self.a > 1
        # One logarithm for both: that of 1 + x gets back what rounding took from x.
        x = self.a * w
        one_more = jnp.maximum(1 + x, 0)
        u = jnp.where(edge, jnp.maximum(self.a * t, 0), one_more)
        lost = jnp.where(edge | (u == 0), 0, x - (one_more - 1)) / jnp.where(u == 0, 1, u)
        log_p = jnp.where(edge | (x != 0), (jnp.log(u) + lost) / nonzero(self.a), w)
        level = jnp.where(edge, -place[1][0] * _LOG_2 / jnp.maximum(self.a, 1), place[0][0])
        return jnp.where(z == -jnp.inf, z, level + log_p)

    def move(self, place, step):
        return tuple(curve.move(at, step) for curve, at in zip(self._curves(), place, strict=True))


def curve_of(a: float | Array) -> Curve:
    """The curve on which p(τ) of the Tsallis family with α = 1 + a is computed."""
    if isinstance(a, Array):
        return Either(a)
    if a > 0 and round(1 / a) in (1, 2, 3, 4) and abs(a * round(1 / a) - 1) < 1e-15:
        return Root(round(1 / a))
    return Edge(a) if a > 1 else Scaled(a)


def solve(
    curve: Curve, scores: Scores, total: float | Array = 1.0, anchor: Array | None = None
) -> tuple[Array, Any]:
    """The anchor of each row, and the place on the curve where its masses sum to `total`.

    The anchor, from which scores are measured, is the maximum unless it is given.
    """
    # The peaks of a row are a row: solve there first, coarsely, then start from that place.
    rows = [scores]
    while anchor is None and (peaks := rows[-1].peaks()) is not None:
        rows.append(peaks)
    top = rows[-1].max() if anchor is None else anchor
    eps = float(jnp.finfo(top.dtype).eps)
    place, slope = curve.start(top), filled(top, 1)
    for row in reversed(rows):
        precision, most = (4 * eps, _MOST_STEPS) if row is scores else (2**-8, 8)
        place, slope = _search(curve, row, top, total, place, slope, precision, most)
    return top, place


_LOG_2 = 0.6931471805599453
_FAR_BELOW = -10.0  # the gap of a sum that underflowed: some place far below the sought one


def _search(curve, scores, top, total, place, slope, precision, most):
    """Secant steps on the gap, kept inside the bracket that its signs give; one sum a step.

    Where the gap is not yet below `precision`, the step taken from it is checked by the next sum;
    where it is, the last step is taken unchecked, and leaves an error of lower order.
    """
    eps = float(jnp.finfo(top.dtype).eps)
    solvable = top > -jnp.inf
    bent = isinstance(curve.curve if isinstance(curve, Capped) else curve, Edge | Either)

    def unfinished(state):
        count, *_, active = state
        return (count < most) & scores.anywhere(active)

    def advance(state):
        count, place, (step, earlier), (last, before), slope, left, right, _ = state
        mass = scores.sum(lambda z: curve.masses(z, top, place))
        gap = curve.gap(mass, total)
        # The ends of the bracket are given by their distances from here.
        left, right = jnp.where(gap < 0, 0, left), jnp.where(gap > 0, 0, right)
        active = solvable & (jnp.abs(gap) > precision) & (right - left > eps * eps)
        change = (gap - last) / jnp.where(step == 0, 1, step)
        # A difference of gaps that is all rounding tells nothing of the slope.
        tells = (step != 0) & (change > 0) & (jnp.abs(gap - last) > 16 * eps)
        slope = jnp.where(tells, change, slope)
        ahead = -gap / slope
        if bent:
            inverse = _inverse_quadratic(gap, last, before, -step, -step - earlier)
            inside = (inverse > left) & (inverse < right) & (jnp.abs(inverse) < 4 * jnp.abs(gap))
            ahead = jnp.where(inside & active, inverse, ahead)
        # Without an upper end the steps grow; with both, one that leaves the bracket, and now and
        # then one in any case, halves it.
        ahead = jnp.where(jnp.isinf(right), jnp.maximum(ahead, -2 * left), ahead)
        outside = (ahead <= left) | (ahead >= right) | (count % 8 == 7)
        halve = outside & active & jnp.isfinite(left) & jnp.isfinite(right)
        ahead = jnp.where(halve, (left + right) / 2, ahead)
        ahead = jnp.where(solvable & jnp.isfinite(ahead), ahead, 0)
        place = curve.move(place, ahead)
        left, right = left - ahead, right - ahead
        return count + 1, place, (ahead, step), (gap, last), slope, left, right, active

    zero, infinity = filled(top, 0), filled(top, jnp.inf)
    state = (0, place, (zero, zero), (zero, zero), slope, -infinity, infinity, top == top)
    _, place, _, _, slope, *_ = jax.lax.while_loop(unfinished, advance, state)
    return place, slope


def _inverse_quadratic(f0: Array, f1: Array, f2: Array, x1: Array, x2: Array) -> Array:
    """Where f is 0, from its values at 0, x1 and x2; NaN-free, and 0 if these do not tell.

    For a > 1 the inverse of f is smoother than f, which has infinite slopes.
    """
    tells = (f0 != f1) & (f1 != f2) & (f0 != f2) & (x1 != x2) & (x1 != 0)
    g1, g2, g3 = (jnp.where(tells, d, 1) for d in (f1 - f0, f2 - f0, f1 - f2))
    return jnp.where(tells, (x1 / g1 * (f2 / g3) - x2 / g2 * (f1 / g3)) * f0, 0)


def filled(like: Array, value: float) -> Array:
    """An array of one value made from `like`: a loop carry must vary over a mesh as its data do."""
    return jnp.where(like == like, jnp.asarray(value, like.dtype), jnp.asarray(value, like.dtype))


def _two_sum(large: Array, small: Array) -> tuple[Array, Array]:
    total = large + small
    return total, small - (total - large)


def _safe_log(x: Array) -> Array:
    """log x for x ≥ 0, without the −∞ being computed where derivatives of it might be taken."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), jnp.where(x == 0, -jnp.inf, x))
