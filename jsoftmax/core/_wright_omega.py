"""Wright's omega function, the logarithmic form of Lambert's W."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def wright_omega(s: Array) -> Array:
    """Return w > 0 with w + log w = s, to rounding; 0 for −∞.

    One of two starting values, right to a quarter, then three steps of fourth order.

    Reference:
        P. W. Lawrence, R. M. Corless and D. J. Jeffrey, "Algorithm 917: complex double-precision
        evaluation of the Wright ω function", 2012, for the step of Fritsch, Shafer and Crowley.
    """
    x = jnp.minimum(s, 1)
    grown = jnp.exp(x)
    large = jnp.maximum(s, 1)
    # In y = log w, which neither underflows nor cancels: a w below every float is e^s.
    y = jnp.where(s < 1, x - jnp.log1p(grown), jnp.log(large - jnp.log(large)))
    for _ in range(3):
        w = jnp.exp(y)
        residual = jnp.where(s > -jnp.inf, s, y) - w - y
        one = 1 + w
        inner = one * (one + 2 / 3 * residual)
        y = y + jnp.log1p(residual / one * (inner - residual / 2) / (inner - residual))
    return jnp.where(s == -jnp.inf, 0, jnp.exp(y))
