"""Attention by its dense formula, in float64, sharing nothing with the library.

The threshold τ is bisected and held fixed; two Newton steps from there are differentiated by JAX as
they stand. Each step doubles the number of correct terms of the Taylor series of τ: the first makes
the first derivative right, the second the third too, so that gradients and Hessians are exact.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient


def attention(q, k, v, bias, scale, alpha, sinks, *, seen, cap) -> tuple[Array, Array]:
    """Mixtures (B, T, N, Hv) of the values (B, S, N, Hv), and thresholds (B, T, N).

    A head of queries has one of keys for itself. `bias` and `seen` have the shape (B, N, T, S),
    `scale`, `alpha` and `sinks` (N,). A sink of −∞ is none, and so is a cap of ∞.
    """
    p, tau = weights(q, k, bias, scale, alpha, sinks, seen=seen, cap=cap)
    return jnp.einsum("bnts,bsnh->btnh", p, v), jnp.swapaxes(tau, 1, 2)


def weights(q, k, bias, scale, alpha, sinks, *, seen, cap) -> tuple[Array, Array]:
    """The weights (B, N, T, S), zero in rows that see nothing, and their thresholds (B, N, T)."""
    z = scale[:, None, None] * jnp.einsum("btnh,bsnh->bnts", q, k) + bias
    finite_cap = jnp.where(jnp.isinf(cap), 1, cap)
    z = jnp.where(jnp.isinf(cap), z, finite_cap * jnp.tanh(z / finite_cap))
    z = jnp.where(seen, z, -jnp.inf)
    sinks = jnp.broadcast_to(sinks[:, None, None], (*z.shape[:-1], 1))
    p, tau = entmax(jnp.concatenate([z, sinks], -1), alpha[:, None, None])
    return p[..., :-1], tau


def entmax(z, alpha) -> tuple[Array, Array]:
    """Compute α-entmax p over the last axis (size 1 in `alpha`), and τ of z − τ = (p^a − 1)/a.

    A class at −∞ takes no part. α = ∞ is the arg max, which ties share.
    """
    live = z > -jnp.inf
    top = jnp.max(z, -1, keepdims=True)
    shift = stop_gradient(jnp.where(top > -jnp.inf, top, 0))
    v = jnp.where(live, z - shift, 0)
    ties = live & (v == 0)
    hard = ties / jnp.maximum(ties.sum(-1, keepdims=True), 1)
    a = jnp.where(alpha == jnp.inf, 1.0, alpha - 1)

    def excess(v, a, tau):
        return jnp.where(live, link(v - tau, a), 0).sum(-1, keepdims=True) - 1

    tau = _bisect(lambda tau: excess(stop_gradient(v), stop_gradient(a), tau), a, z.shape[-1])
    for _ in range(2):
        slopes = jnp.where(live, link(v - tau, a, less=1), 0).sum(-1, keepdims=True)
        tau = tau + excess(v, a, tau) / jnp.where(slopes > 0, slopes, 1)
    p = jnp.where(live, link(v - tau, a), 0)
    tau = jnp.where(alpha == jnp.inf, top, tau + shift)
    tau = jnp.where(live.any(-1, keepdims=True), tau, -jnp.inf)
    return jnp.where(alpha == jnp.inf, hard, p), tau[..., 0]


def link(t, a, less=0) -> Array:
    """Compute [1 + a t]₊^(1/a − less), and at a = 0 its limit, with derivatives in a."""
    limit = a == 0
    safe = jnp.where(limit, 1, a)
    base = 1 + safe * t
    inside = base > 0
    power = jnp.where(inside, jnp.where(inside, base, 1) ** (1 / safe - less), 0)
    # log(1 + a t)/a = t − a t²/2 + a² t³/3 − …
    t = jnp.where(limit, jnp.maximum(t, -800), 0)
    logarithm = t - a * t**2 / 2 + a**2 * t**3 / 3
    return jnp.where(limit, jnp.exp(logarithm * (1 - a * less)), power)


def _bisect(excess, a, n) -> Array:
    """τ between 0, where the top class alone has mass 1, and where n equal ones would have it."""
    a = stop_gradient(a)
    safe = jnp.where(a == 0, 1, a)
    high = jnp.where(a == 0, jnp.log(n), (1 - n**-safe) / safe)
    high = high + jnp.zeros_like(excess(high))

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        above = excess(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (0 * high, high))
    return stop_gradient((low + high) / 2)
