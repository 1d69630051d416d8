"""Divergences between two distributions over a few events, from their logarithms."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

DIRECTIONS = {  # whether the divergence contains KL(p‖q), and whether KL(q‖p)
    "forward": (True, False),
    "reverse": (False, True),
    "jeffreys": (True, True),
    "jensen_shannon": (False, False),
}


def log_divergence(direction: str, log_p: Array, log_q: Array, share: Array | None) -> Array:
    """Compute the divergence of rows that sum to 1; the last axis is kept with size 1."""
    is_forward, is_reverse = DIRECTIONS[direction]
    terms = jnp.zeros_like(log_q)
    if is_forward:
        terms = terms + _terms(log_p, log_q)
    if is_reverse:
        terms = terms + _terms(log_q, log_p)
    if share is not None:
        parts = (jnp.log(share), log_p), (jnp.log1p(-share), log_q)
        log_m = _log_sum(*(x + y for x, y in parts))
        terms = terms + sum(jnp.exp(x) * _terms(y, log_m) for x, y in parts)
    return jnp.sum(terms, axis=-1, keepdims=True)


def _terms(log_y: Array, log_x: Array) -> Array:
    """Compute y log(y/x) − y + x ≥ 0 for each entry.

    It is y ψ(u) for u = log(x/y) and ψ(u) = eᵘ − 1 − u, by a series where u is small. For u > 1 eᵘ
    may overflow, so x is used for y eᵘ.
    """
    both = (log_y > -jnp.inf) & (log_x > -jnp.inf)
    safe_y, safe_x = jnp.where(both, log_y, 0), jnp.where(both, log_x, 0)
    y, x, u = jnp.exp(safe_y), jnp.exp(safe_x), safe_x - safe_y
    small, large = jnp.abs(u) < 0.25, u > 1
    near = jnp.where(small, u, 0)
    series = jnp.ones_like(near)
    for n in range(12, 2, -1):  # 0.25¹¹/13! is 4e-17
        series = 1 + near / n * series
    middle = jnp.where(small | large, 0.5, u)
    inside = y * jnp.where(small, near * near / 2 * series, jnp.expm1(middle) - middle)
    inside = jnp.where(large, x - y - y * u, inside)
    x = jnp.where(log_x > -jnp.inf, jnp.exp(log_x), 0)
    alone = jnp.where(log_y == -jnp.inf, x, jnp.where(log_y == log_y, jnp.inf, log_y))
    terms = jnp.where(both, inside, alone)
    return jnp.where((log_y == log_y) & (log_x == log_x), terms, jnp.nan)


def _log_sum(x: Array, y: Array) -> Array:
    """Compute log(eˣ + eʸ)."""
    top = jnp.maximum(x, y)
    finite = jnp.where(top > -jnp.inf, top, 0)
    exists = top > -jnp.inf
    less = jnp.where(exists, jnp.minimum(x, y) - finite, 0)
    return jnp.where(exists, finite + jnp.log1p(jnp.exp(less)), top)
