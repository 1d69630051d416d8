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
        ahead = jnp.where(is_log, r, power)
        slow = (jnp.abs(short) > last / 2) & (high - low > width / 2)
        fits = inside & ~slow & (x + ahead > low) & (x + ahead < high) & (ahead != 0)
        new = jnp.where(fits, x + ahead, low / 2 + high / 2)
        # Where ω′ is steep a short step closes a wide gap, so that both must be small, if not as
        # small as rounding leaves ω′.
        least = 2 * eps * jnp.maximum(jnp.abs(x), 1)
        agree = (jnp.abs(r) <= least) | (jnp.abs(short) <= 4 * eps * jnp.abs(t))
        done = (jnp.abs(new - x) <= least) & agree | (high - low <= 4 * least)
        active = active & (short != 0)
        new = jnp.where(active, new, x)
        return count + 1, new, low, high, jnp.abs(short), high - low, active & ~done

    huge = filled(start, float(jnp.finfo(t.dtype).max))
    some = t > regularizer.marginal(filled(t, 0))
    state = (0, start, filled(start, _LOWEST), filled(start, ceiling), huge, huge, some)
    _, x, *_ = jax.lax.while_loop(unfinished, advance, state)
    return jnp.where(t == t, jnp.where(some, x, -jnp.inf), t)
