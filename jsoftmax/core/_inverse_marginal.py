"""Invert a marginal ω′, for regularizers without a formula for the link."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._filled import filled

if TYPE_CHECKING:
    from jsoftmax.core._regularizer import Regularizer

_MOST_STEPS = 200
LOWEST = -1e8  # the least log-mass that is sought


class Step(NamedTuple):
    """A step of the inversion from x = log p towards ω′(eˣ) = t."""

    ahead: Array
    bend: Array  # a: ω′ is about a multiple of p^a
    slope_ahead: Array  # about s/p after the step
    short: Array  # t − ω′
    size: Array  # of the step, in units of max(|x|, 1); 0 where rounding allows no improvement


def stepped(regularizer: Regularizer, x: Array, t: Array, bottom: Array) -> Step:
    """Return a step of Newton's method. `bottom` is ω′(0).

    The step uses a coordinate that makes ω′ almost straight. Where ω′ is finite at p = 0 this is
    log(ω′ − ω′(0)). Elsewhere ω′ is approximated by a power of p with the slope d = ∂ω′/∂x = p/s
    and the same bend: with d ∝ p^a, where a = 1 − p s′/s, the root of ω′ + d (e^{a h} − 1)/a = t is

        h = log1p(a (t − ω′)/d)/a.

    Both are exact for every order of Tsallis' family, the latter for logarithms too.
    """
    eps = float(jnp.finfo(x.dtype).eps)
    # With ρ = s/p, d is 1/ρ and a is −∂ log ρ/∂x.
    relative, bend = jax.jvp(regularizer.relative_slope, (x,), (jnp.ones_like(x),))
    marginal = regularizer.log_marginal(x)
    short = t - marginal
    r, a = short * relative, -bend / jnp.where(relative > 0, relative, 1)
    u = a * r
    inside = (u > -1) & (u < jnp.inf)
    is_log = jnp.abs(u) < eps
    ahead = jnp.log1p(jnp.where(inside, u, 0)) / jnp.where(is_log, 1, a)
    ahead = jnp.where(is_log | ~inside, r, ahead)  # or Newton's own
    room = jnp.where(bottom > -jnp.inf, marginal - bottom, 0)
    share = short / jnp.where(room > 0, room, 1)
    from_bottom = (room > 0) & (share > -1)
    ahead = jnp.where(
        from_bottom, jnp.log1p(jnp.where(from_bottom, share, 0)) * room * relative, ahead
    )
    # The longer of this step and Newton's: where ω′ is steep a short step may leave a wide gap.
    size = jnp.maximum(jnp.abs(ahead), jnp.abs(r)) / jnp.maximum(jnp.abs(x), 1)
    size = jnp.where(jnp.abs(short) <= 2 * eps * jnp.abs(t), 0, size)
    return Step(ahead, a, relative * jnp.exp(jnp.clip(-a * ahead, -4, 4)), short, size)


def inverse_marginal(regularizer: Regularizer, t: Array, near: Array) -> Array:
    """Return x = log p with ω′(eˣ) = t, sought from x = `near`; −∞ at and below ω′(0).

    A step that would leave the bracket is replaced by a bisection. So is the step after one that
    halved neither the bracket nor the distance of ω′ from t: ω′ need not be near any power.
    """
    regularizer, t, near = jax.lax.stop_gradient((regularizer, t, near))
    eps = float(jnp.finfo(t.dtype).eps)
    ceiling = float(np.log(jnp.finfo(t.dtype).max)) / 2
    start = jnp.clip(near, LOWEST, ceiling) + filled(t, 0)
    bottom = regularizer.marginal(filled(t, 0))

    def unfinished(state):
        count, *_, active = state
        return (count < _MOST_STEPS) & jnp.any(active)

    def advance(state):
        count, x, low, high, last, width, active = state
        ahead, _, _, short, size = stepped(regularizer, x, t, bottom)
        done = size <= 2 * eps
        low = jnp.where(short >= 0, jnp.maximum(low, x), low)
        high = jnp.where(short > 0, high, jnp.minimum(high, x))  # NaN is beyond the domain
        slow = (count > 4) & (jnp.abs(short) > last / 2) & (high - low > width / 2)
        fits = ~slow & (x + ahead > low) & (x + ahead < high) & (ahead != 0)
        # Not the middle of a bracket with a lower end that was never evaluated.
        middle = jnp.maximum(low / 2 + high / 2, high - 4 - 2 * jnp.abs(high))
        new = jnp.where(fits | done, x + ahead, middle)
        active = active & (high - low > 8 * eps * jnp.maximum(jnp.abs(x), 1))
        new = jnp.where(active, new, x)
        return count + 1, new, low, high, jnp.abs(short), high - low, active & ~done

    huge = filled(start, float(jnp.finfo(t.dtype).max))
    some = t > bottom
    state = (0, start, filled(start, LOWEST), filled(start, ceiling), huge, huge, some)
    _, x, *_ = jax.lax.while_loop(unfinished, advance, state)
    return jnp.where(t == t, jnp.where(some, x, -jnp.inf), t)
