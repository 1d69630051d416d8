"""Minimise a convex function of linear scores by Newton steps, in one loop.

Conjugate gradients solve for each step from products with the features, without a Hessian matrix,
and a line search shortens it until the function decreases. The loop evaluates the function in one
place only, so that it compiles once and fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_MOST_TRIES = 60  # lengths tried along one direction
_FLAT = 0.6  # the share of the slope that may remain along it
_MOST_TURNS = 250


class Minimum(NamedTuple):
    """The end of the search: the point, the size of the gradient, and the number of steps."""

    point: Any
    value: Array
    gradient: Array
    steps: Array


class Evaluated(NamedTuple):
    """The function at a point: its value, its gradient, and the input of its second derivative."""

    value: Array
    gradient: Any
    bend: Any


class Hessian(NamedTuple):
    """A second derivative as a matrix-vector product, and its diagonal."""

    times: Callable[[Any], Any]
    diagonal: Any


class _Search(NamedTuple):
    """A point, the function there, and a step length between one too short and one too long.

    `slope` is the slope along the direction at the point; `low` and `high` hold those of the ends.
    """

    point: Any
    here: Evaluated
    direction: Any
    slope: Array
    length: Array
    low: tuple[Array, Array]
    high: tuple[Array, Array]
    steps: Array
    tries: Array
    stalled: Array


def minimise(
    evaluate: Callable[[Any], Evaluated],
    hessian: Callable[[Any], Hessian],
    start: Any,
    size: Callable[[Any], Array],
    tol: Array,
    most: Array,
) -> Minimum:
    """Take at most `most` steps until the `size` of the gradient is `tol`, or no step moves.

    `hessian(bend)` is the second derivative at the point of `bend`. Close to the minimum the
    function changes by less than its rounding. There a step is accepted by its slopes (Hager and
    Zhang's approximate decrease), which lets the gradient fall to 1e-12 in float64.
    """

    def unfinished(s: _Search) -> Array:
        return (s.steps < most) & ~s.stalled & ~(size(s.here.gradient) <= tol)

    def advance(s: _Search) -> _Search:
        ahead = _plus(s.point, s.length, s.direction)
        there = evaluate(ahead)
        slope = _dot(there.gradient, s.direction)
        return jax.lax.cond(
            _is_good(s, there, slope),
            lambda: _turned(s, ahead, there, hessian, size),
            lambda: _at_another_length(s, slope),
        )

    zero, none = jnp.zeros_like(tol), jnp.zeros_like(most)
    first = jax.eval_shape(evaluate, start)
    # The first iteration evaluates the start, as a step of length 0 from the value ∞.
    here = Evaluated(jnp.full_like(first.value, jnp.inf), *jax.tree.map(jnp.ones_like, first[1:]))
    nothing, end = jax.tree.map(jnp.zeros_like, start), (zero, zero)
    s = _Search(start, here, nothing, zero, zero, end, end, none - 1, none, jnp.asarray(False))
    s = jax.lax.while_loop(unfinished, advance, s)
    return Minimum(s.point, s.here.value, size(s.here.gradient), s.steps)


def _is_good(s: _Search, there: Evaluated, slope: Array) -> Array:
    """Return whether a step is near the minimum along its direction, up to rounding."""
    fallen = there.value <= s.here.value + 1e-4 * s.length * s.slope
    eps = float(jnp.finfo(there.value.dtype).eps)
    level = jnp.abs(there.value - s.here.value) <= 16 * eps * jnp.abs(there.value)
    slope = jnp.abs(slope)
    return (fallen & (slope <= -_FLAT * s.slope)) | (level & (slope <= -0.9 * s.slope))


def _turned(s: _Search, point: Any, here: Evaluated, hessian: Callable, size: Callable) -> _Search:
    """Return the next direction, from an accepted point."""
    direction = _newton_direction(here.gradient, hessian(here.bend))
    slope = _dot(here.gradient, direction)
    moved = largest(jax.tree.map(jnp.subtract, point, s.point)) > 0
    # Where rounding hides the decrease of the function, the gradient must decrease; otherwise the
    # loop would not end.
    level = (here.value >= s.here.value) & (size(here.gradient) > 0.5 * size(s.here.gradient))
    steps = s.steps + 1
    stalled = ((steps > 0) & (level | ~moved)) | ~(slope < 0)
    zero, one = jnp.zeros_like(slope), jnp.ones_like(slope)
    ends = (zero, slope), (jnp.inf * one, zero)
    return _Search(point, here, direction, slope, one, *ends, steps, jnp.zeros_like(steps), stalled)


def _at_another_length(s: _Search, slope: Array) -> _Search:
    """Return a length nearer to the zero of the slope, which increases along a convex function."""
    is_short = slope < 0
    low, high = (
        tuple(jnp.where(is_end, new, old) for new, old in zip((s.length, slope), end, strict=True))
        for is_end, end in ((is_short, s.low), (~is_short, s.high))
    )
    bounded = high[0] < jnp.inf
    width = jnp.where(bounded, high[0] - low[0], 0)
    rise = jnp.where(bounded, high[1] - low[1], 1)
    share = jnp.clip(-low[1] / jnp.where(rise > 0, rise, 1), 0.1, 0.9)
    tries = s.tries + 1
    length = jnp.where(bounded, low[0] + share * width, 2 * s.length)
    return s._replace(length=length, low=low, high=high, tries=tries, stalled=tries >= _MOST_TRIES)


class _Residual(NamedTuple):
    """A direction d, the residual r = −g − H d, and the next conjugate direction."""

    direction: Any
    residual: Any
    ahead: Any
    square: Array
    turns: Array
    flat: Array


def _newton_direction(gradient: Any, hessian: Hessian) -> Any:
    """Return −H⁻¹g, more exactly near the minimum; the negative gradient where H is 0."""
    scale = jax.tree.map(lambda x: jnp.where(x > 0, x, 1), hessian.diagonal)
    residual = jax.tree.map(jnp.negative, gradient)
    ahead = jax.tree.map(jnp.divide, residual, scale)
    square = _dot(residual, ahead)
    # The nearer the minimum, the more exact. Far from it exactness is wasted on a sparse loss,
    # since the next step leads to another piece of it.
    share = jnp.clip(jnp.sqrt(jnp.sqrt(square)), 0.1, 0.5)
    goal = share * share * square

    def unfinished(s: _Residual) -> Array:
        return (s.turns < _MOST_TURNS) & (s.square > goal) & ~s.flat

    def improve(s: _Residual) -> _Residual:
        bent = hessian.times(s.ahead)
        bend = _dot(s.ahead, bent)
        flat = ~(bend > 0)
        length = jnp.where(flat, 0, s.square / jnp.where(flat, 1, bend))
        residual = _plus(s.residual, -length, bent)
        scaled = jax.tree.map(jnp.divide, residual, scale)
        square = _dot(residual, scaled)
        return _Residual(
            _plus(s.direction, length, s.ahead),
            residual,
            _plus(scaled, square / s.square, s.ahead),
            square,
            s.turns + 1,
            flat,
        )

    nothing, turns = jax.tree.map(jnp.zeros_like, residual), jnp.zeros((), int)
    s = _Residual(nothing, residual, ahead, square, turns, jnp.asarray(False))
    s = jax.lax.while_loop(unfinished, improve, s)
    return jax.tree.map(lambda d, x: jnp.where(s.flat & (s.turns <= 1), x, d), s.direction, ahead)


def largest(tree: Any) -> Array:
    """Return the largest absolute value of all leaves."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _dot(x: Any, y: Any) -> Array:
    parts = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y))
    return jnp.sum(jnp.stack(parts))


def _plus(x: Any, length: Array, y: Any) -> Any:
    return jax.tree.map(lambda a, b: a + length * b, x, y)
