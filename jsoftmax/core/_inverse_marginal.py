"""The inverse of a marginal ω′, for regularizers that do not know their link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._filled import filled

if TYPE_CHECKING:
    from jsoftmax.core._regularizer import Regularizer

_MOST_STEPS = 200
_LOWEST = -1e8  # the least log-mass that is sought


def inverse_marginal(regularizer: Regularizer, t: Array, near: Array) -> Array:
    """Return x = log p with ω′(eˣ) = t, sought from x = `near`; −∞ at and below ω′(0).

    A step is Newton's in the coordinate in which ω′ is locally a power of p: with d = ∂ω′/∂x = p/s
    and d ∝ p^a, where a = 1 − p s′/s, the root of ω′ + d (e^{a h} − 1)/a = t is

        h = log1p(a (t − ω′)/d)/a,

    which is exact in one step for every order of Tsallis' family, logarithms included. A step that
    leaves the bracket halves it instead, and so does one after which neither the bracket nor the
    distance of ω′ from t is half of what it was: ω′ need not be near any power.
    """
    regularizer, t, near = jax.lax.stop_gradient((regularizer, t, near))
    eps = float(jnp.finfo(t.dtype).eps)
    ceiling = float(np.log(jnp.finfo(t.dtype).max)) / 2
    start = jnp.clip(near, _LOWEST, ceiling) + filled(t, 0)

    def unfinished(state):
        count, *_, active = state
        return (count < _MOST_STEPS) & jnp.any(active)

    def advance(state):
        count, x, low, high, last, width, active = state
        # With ρ = s/p, d is 1/ρ and a is −∂ log ρ/∂x.
        relative, bend = jax.jvp(regularizer.relative_slope, (x,), (jnp.ones_like(x),))
        short = t - regularizer.log_marginal(x)
        low = jnp.where(short >= 0, jnp.maximum(low, x), low)
        high = jnp.where(short > 0, high, jnp.minimum(high, x))  # NaN is beyond the domain
        r, a = short * relative, -bend / jnp.where(relative > 0, relative, 1)
        u = a * r
        inside = (u > -1) & (u < jnp.inf)
        is_log = jnp.abs(u) < eps
        power = jnp.log1p(jnp.where(inside, u, 0)) / jnp.where(is_log, 1, a)
        ahead = jnp.where(is_log | ~inside, r, power)  # or Newton's own
        slow = (count > 4) & (jnp.abs(short) > last / 2) & (high - low > width / 2)
        fits = ~slow & (x + ahead > low) & (x + ahead < high) & (ahead != 0)
        # Not the middle of a bracket whose lower end nobody has seen.
        middle = jnp.maximum(low / 2 + high / 2, high - 4 - 2 * jnp.abs(high))
        new = jnp.where(fits, x + ahead, middle)
        # Finished where the gap is what rounding leaves of ω′, or where the step and Newton's are
        # short: where ω′ is steep a short step alone may leave a wide gap.
        least = 2 * eps * jnp.maximum(jnp.abs(x), 1)
        done = jnp.maximum(jnp.abs(new - x), jnp.abs(r)) <= least
        active = active & (jnp.abs(short) > 2 * eps * jnp.abs(t)) & (high - low > 4 * least)
        new = jnp.where(active, new, x)
        return count + 1, new, low, high, jnp.abs(short), high - low, active & ~done

    huge = filled(start, float(jnp.finfo(t.dtype).max))
    some = t > regularizer.marginal(filled(t, 0))
    state = (0, start, filled(start, _LOWEST), filled(start, ceiling), huge, huge, some)
    _, x, *_ = jax.lax.while_loop(unfinished, advance, state)
    return jnp.where(t == t, jnp.where(some, x, -jnp.inf), t)
