"""The regularizer with Laplace's distribution function as its link."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._safe_log import positive
from jsoftmax.core.regularizers._symmetric import Symmetric
from jsoftmax.core.regularizers._tsallis import SHANNON


@dataclasses.dataclass(frozen=True)
class Laplace(Symmetric):
    r"""The soft top-k of LapSum. Its link is Laplace's distribution function.

    .. math:: ω′(p) = \begin{cases} \log 2p & p ≤ ½ \\ -\log 2(1-p) & p > ½ \end{cases}

    Like `FermiDirac` it bounds every probability by its prior; its tails are exact exponentials.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> z = jnp.array([2.0, 1.0, 0.0, -1.0])
        >>> print(jsoftmax.topk_entmax(z, 2, regularizer=jsoftmax.Laplace()))
        [0.88843 0.69673 0.30327 0.11157]

    Reference:
        Ł. Struski, M. B. Bednarczyk, I. T. Podolak and J. Tabor, "LapSum: one method to
        differentiate them all: ranking, sorting and top-k selection", 2025.
    """

    def value(self, p: Array) -> Array:
        """Return m log 2m − m for m = min(p, 1−p), +∞ beyond 1."""
        m = jnp.clip(jnp.minimum(p, 1 - p), 0, None)
        inside = jnp.where(m > 0, m * jnp.log(2 * positive(m)), 0) - m
        return jnp.where((p <= 1) | (p != p), inside, jnp.inf)

    def marginal(self, p: Array) -> Array:
        """Return log 2p, or −log 2(1−p) above ½."""
        m = jnp.minimum(p, 1 - p)
        log_m = jnp.log(2 * jnp.where(m > 0, m, 1))
        limit = jnp.where(p <= 0, -jnp.inf, jnp.where(p >= 1, jnp.inf, p))
        return jnp.where(m > 0, jnp.where(p > 0.5, -log_m, log_m), limit)

    def slope(self, p: Array) -> Array:
        """Return min(p, 1−p)."""
        return jnp.maximum(jnp.minimum(p, 1 - p), 0)

    def link(self, t: Array) -> Array:
        """Return Laplace's distribution function."""
        tail = jnp.exp(-jnp.abs(t)) / 2
        return jnp.where(t > 0, 1 - tail, tail)

    def log_link(self, t: Array, near: Array) -> Array:
        tail = jnp.exp(-jnp.abs(t)) / 2
        return jnp.where(t > 0, jnp.log1p(-tail), t - jnp.log(2.0).astype(t.dtype))

    def log_marginal(self, log_p: Array) -> Array:
        low = log_p + jnp.log(2.0).astype(log_p.dtype)
        some = jnp.where(log_p < 0, log_p, -1)
        high = jnp.where(log_p < 0, -jnp.log(-2 * jnp.expm1(some)), jnp.inf)
        return jnp.where(low <= 0, low, jnp.where(log_p == log_p, high, log_p))

    def divergence(self, y: Array, p: Array, log_p: Array) -> Array:
        """Return ω(y) − ω(p) − ω′(p)(y − p): with both on one side of ½, a KL of y or of 1 − y."""
        rest = jnp.where(p < 1, 1 - p, 0)
        log_rest = jnp.where(rest > 0, jnp.log(positive(rest)), -jnp.inf)
        inside = jnp.clip(p, float(jnp.finfo(p.dtype).tiny), 1 - float(jnp.finfo(p.dtype).eps) / 2)
        return self._divergence(y, p, log_p, rest, log_rest, self.marginal(inside))

    def bounded_divergence(self, y: Array, p: Array, log_p: Array, t: Array) -> Array:
        log_rest = self.log_link(-t, -t)
        return self._divergence(y, p, log_p, jnp.exp(log_rest), log_rest, t)

    def _divergence(self, y, p, log_p, rest, log_rest, t):
        low = SHANNON.divergence(y, p, log_p)
        high = SHANNON.divergence(jnp.maximum(1 - y, 0), rest, log_rest)
        across = self.value(y) - self.value(p) - t * (y - p)
        side = jnp.where(p <= 0.5, low, high)
        return jnp.where((p <= 0.5) == (y <= 0.5), side, jnp.maximum(across, 0))

    def relative_slope(self, log_p: Array) -> Array:
        """Return min(1, 1/p − 1)."""
        return jnp.minimum(1, jnp.expm1(-log_p))

    def log_slope(self, t: Array) -> Array:
        """Return log min(p, 1−p), which is −|t| − log 2."""
        return -jnp.abs(t) - jnp.log(2.0).astype(t.dtype)
