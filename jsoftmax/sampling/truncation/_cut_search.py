"""Find the cut that keeps classes of a target total weight, by maxima and sums alone.

For weights w ≥ 0 and an order u of the classes,

    S(t) = Σ w over u ≥ t,    cut = the largest t with S(t) ≥ target.

S is a step function that falls in t. log S/(Σw − S) is close to a straight line in t, since tails
of scores are close to exponential: a secant on it, kept in a bracket, comes within some hundred
classes of the cut in 3 to 6 sums. The cut itself is then read from the maxima of short blocks, and
one more sum confirms it. Halving the bits of t would take 31 sums.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._filled import filled

_PATIENCE = 8  # secant steps alone; then every third step halves the bits of the bracket
_NEAR = 300  # about so many classes from an end of the bracket to the cut, their maxima are used
_BLOCKS = (16, 8)  # classes per block with one maximum; the larger, if it divides the row
_ROUNDING = 4  # eps: the approximate error of sums of a whole row


class _Bracket(NamedTuple):
    """Brackets S(low) ≥ target > S(high), one per row."""

    low: Array
    high: Array
    mass_low: Array  # S(low)
    mass_high: Array  # S(high), 0 while it is not known
    rise_low: Array  # at low, the function that the secant finds a zero of, or half of it
    rise_high: Array
    turned: Array  # the end that moved last: 1 for low, −1 for high
    is_stuck: Array  # whether the last sum equalled that of an end: no class is in between
    found: Array  # whether low is a cut
    turn: Array


def cut_at(
    order: Array,
    weights: Array | None,
    total: Array,
    target: Array,
    lowest: Array,
    anchor: Array,
    rate: Array,
    classes: ClassAxis,
    is_monotone: bool = True,
) -> Array:
    """Return a cut t per row: the classes with `order` ≥ t are the fewest that weigh the target.

    Classes of the same order stay together. A mass that differs from the target by the rounding of
    its sum counts as the target.

    Args:
        order: u, −∞ for excluded classes.
        weights: w; None for 1 each.
        total: Σ w.
        target: at most the total. Below the weight of one class, the largest stay.
        lowest: an order low enough that the classes from it on weigh the target for certain.
        anchor: with the rate, a bound on weights: no class with u ≥ t has less than
            exp(rate · min(t − anchor, 0)).
        rate: see `anchor`; 0 where all weights are 1.
        is_monotone: whether weights are no larger than that bound.
        classes: the class axis.
    """
    given = (order, weights, total, target, lowest, anchor, rate)
    constants = jax.tree.map(jax.lax.stop_gradient, given)  # the kept set has no derivative
    return classes.by_rows(partial(_searched, classes, is_monotone), *constants)


def _searched(
    classes: ClassAxis,
    is_monotone: bool,
    order: Array,
    weights: Array | None,
    total: Array,
    target: Array,
    lowest: Array,
    anchor: Array,
    rate: Array,
) -> Array:
    top = classes.max(order)
    top = jnp.where(target == target, top, top)  # varies over the mesh axes of the target too
    row = _Row(classes, order, weights, total, lowest, top, anchor, rate, is_monotone)
    return row.cut(target, row.block())


class _Row(NamedTuple):
    """A row to be cut: see `cut_at`."""

    classes: ClassAxis
    order: Array
    weights: Array | None
    total: Array
    lowest: Array
    top: Array  # the largest order
    anchor: Array
    rate: Array
    is_monotone: bool  # whether the bound is the weight itself

    def mass(self, t: Array) -> Array:
        here = self.order >= t
        if self.weights is None:  # integers, exact up to 2³¹
            return self.classes.sum(here.astype(jnp.int32)).astype(self.total.dtype)
        return self.classes.sum(jnp.where(here, self.weights, 0))

    def least(self, t: Array) -> Array:
        """Return a lower bound of the weights of classes with u ≥ t."""
        below = t - self.anchor
        return jnp.exp(jnp.where(below < 0, below * self.rate, 0))

    def rise(self, s: Array) -> Array:
        more = 0.5 if self.weights is None else self.total * 1e-6
        return jnp.log((s + more) / (jnp.maximum(self.total - s, 0) + more))

    def is_cut(self, low: Array, s: Array, target: Array) -> Array:
        rounding = _ROUNDING * float(jnp.finfo(s.dtype).eps) * s
        # Without one of its classes the total would be too small. A NaN ends the search.
        return ~(s - self.least(low) >= target) | (s - target <= rounding)

    def block(self) -> int | None:
        """The length of the blocks that are reduced to their maxima; None in short rows."""
        fits = (n for n in _BLOCKS if self.classes.peaks(self.order, size=n) is not None)
        return next(fits, None)

    def cut(self, target: Array, block: int | None) -> Array:
        """Return the cut, by secants, and near it from the maxima of blocks."""
        aim = self.rise(target)
        alone = self.least(self.top)  # a lower bound of the weight of the largest
        nothing = filled(self.top, 0)
        start = _Bracket(
            low=jnp.where(alone >= target, self.top, self.lowest),
            high=_next(self.top),
            mass_low=self.total + nothing,
            mass_high=nothing,
            rise_low=self.rise(self.total) - aim + nothing,
            rise_high=self.rise(alone) - aim + nothing,
            turned=nothing.astype(jnp.int32),
            is_stuck=nothing > 0,
            found=(alone >= target)
            | self.is_cut(self.lowest, self.total, target)
            | (self.top != self.top),
            turn=jnp.int32(0),
        )

        def advance(b: _Bracket) -> _Bracket:
            share = b.rise_low / (b.rise_low - b.rise_high)
            t = b.low * (1 - share) + b.high * share
            is_late = (b.turn >= _PATIENCE) & (b.turn % 3 == 0)
            t = jnp.where(is_late, _between(b.low, b.high), t)
            t = jnp.where(t == t, t, b.high)
            above, below = self.distances(b, target, t)
            # No class is on one side of the last t, or few are between an end and the cut.
            is_near = b.is_stuck if block is None else jnp.minimum(above, below) < _NEAR
            wants = is_near & ~is_late & ~b.found
            t = jax.lax.cond(
                self.classes.anywhere(wants),
                lambda: jnp.where(wants, self.probed(b, target, above < below, block), t),
                lambda: t,
            )
            return self.tried(b, jnp.clip(t, _next(b.low), b.high), target, aim)

        end = jax.lax.while_loop(lambda b: self.classes.anywhere(~b.found), advance, start)
        return end.low

    def distances(self, b: _Bracket, target: Array, near: Array) -> tuple[Array, Array]:
        """Return bounds on the number of classes from the low end to the cut, and to the high end.

        The latter holds if the cut is not below `near`.
        """
        return (
            (b.mass_low - target) / self.least(b.low),
            (target - b.mass_high) / self.least(near),
        )

    def probed(self, b: _Bracket, target: Array, from_low: Array, block: int | None) -> Array:
        """Return the cut, if no two classes from an end of the bracket to the cut share a block.

        From the high end they are the fewest that weigh its deficit, from the low end the fewest
        that weigh more than its excess.
        """
        before_high = jnp.where(self.order < b.high, self.order, -jnp.inf)
        if block is None:  # the next class
            return self.classes.max(before_high)
        after_low = jnp.where(self.order >= b.low, -self.order, -jnp.inf)
        toward = jnp.where(from_low, after_low, before_high)
        weights = None if self.is_monotone else self.weights
        toward, weights = self.classes.peaks(toward, weights, block) or (toward, weights)
        if self.is_monotone and self.weights is not None:
            weights = self.least(jnp.where(from_low, -toward, toward))
        too_much = b.mass_low - target
        if weights is None:
            more, unit = too_much + 1, jnp.ones_like(too_much)
        else:  # from the low end in units of the least weight, a lower bound of all
            more, unit = _next(too_much), jnp.where(from_low, self.least(b.low), 1)
            weights = weights / unit
        each = jnp.ones_like(toward) if weights is None else weights
        total = self.classes.sum(jnp.where(toward > -jnp.inf, each, 0))
        row = self._replace(
            order=toward,
            weights=weights,
            total=total,
            lowest=jnp.where(from_low, -b.high, b.low),
            top=self.classes.max(toward),
            anchor=jnp.where(from_low, -b.high, self.anchor),
            rate=jnp.where(from_low, 0, self.rate),
        )
        wanted = jnp.minimum(jnp.where(from_low, more, target - b.mass_high) / unit, total)
        cut = row.cut(wanted, None)
        return jnp.where(from_low, -cut, cut)

    def tried(self, b: _Bracket, t: Array, target: Array, aim: Array) -> _Bracket:
        """Return the bracket after a sum at t."""
        s = self.mass(t)
        enough = s >= target
        f = self.rise(s) - aim
        # An end that stays twice gets half its weight (the Illinois rule); else the secant creeps.
        half_low = jnp.where(b.turned < 0, 0.5, 1.0).astype(s.dtype)
        half_high = jnp.where(b.turned > 0, 0.5, 1.0).astype(s.dtype)
        moved = _Bracket(
            low=jnp.where(enough, t, b.low),
            high=jnp.where(enough, b.high, t),
            mass_low=jnp.where(enough, s, b.mass_low),
            mass_high=jnp.where(enough, b.mass_high, s),
            rise_low=jnp.where(enough, f, b.rise_low * half_low),
            rise_high=jnp.where(enough, b.rise_high * half_high, f),
            turned=jnp.where(enough, 1, -1).astype(jnp.int32),
            is_stuck=(s == b.mass_low) | (s == b.mass_high),
            found=b.found,
            turn=b.turn,
        )
        is_last = ~(_next(moved.low) < moved.high)
        found = self.is_cut(moved.low, moved.mass_low, target) | is_last | (s != s)
        moved = moved._replace(found=found)
        settled = jax.tree.map(lambda new, old: jnp.where(b.found, old, new), moved, b)
        return settled._replace(found=b.found | found, turn=b.turn + 1)


def _ordered(x: Array) -> Array:
    """Return floats as integers of the same order."""
    kind = np.dtype(f"int{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(x, kind)
    return jnp.where(bits < 0, bits ^ np.iinfo(kind).max, bits)


def _floats(ordered: Array, dtype: np.dtype) -> Array:
    """Return the floats of integers, the inverse of `_ordered`."""
    kind = ordered.dtype
    bits = jnp.where(ordered < 0, ordered ^ np.iinfo(kind).max, ordered)
    return jax.lax.bitcast_convert_type(bits, dtype)


def _between(low: Array, high: Array) -> Array:
    """Return the float in the middle of all floats from `low` to `high`."""
    a, b = _ordered(low), _ordered(high)
    return _floats((a >> 1) + (b >> 1) + (a & b & 1), low.dtype)


def _next(x: Array) -> Array:
    """Return the next float above a finite one."""
    ordered = _ordered(jnp.where(x == 0, 0, x))  # −0 has other bits than 0
    return jnp.where(jnp.abs(x) < jnp.inf, _floats(ordered + 1, x.dtype), x)
