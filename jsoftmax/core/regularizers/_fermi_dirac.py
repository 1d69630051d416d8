"""The Fermi–Dirac regularizer: the binary entropy of each probability."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._safe_log import entropy_term
from jsoftmax.core.regularizers._symmetric import Symmetric
from jsoftmax.core.regularizers._tsallis import SHANNON


@dataclasses.dataclass(frozen=True)
class FermiDirac(Symmetric):
    r"""The binary entropy of each probability. Its link is the logistic function.

    .. math:: ω(p) = p \log p + (1-p) \log(1-p), \qquad p_i = σ(z_i - τ)

    No probability exceeds its prior, so with a prior q there must be Σ q ≥ 1.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> print(jsoftmax.regularized_argmax(jnp.array([2.0, 1.0, 0.0]), jsoftmax.FermiDirac()))
        [0.54911 0.3094  0.14149]

    Reference:
        M. Blondel, A. F. T. Martins and V. Niculae, "Learning with Fenchel–Young losses", JMLR
        2020.
    """

    def value(self, p: Array) -> Array:
        """Return p log p + (1−p) log(1−p), +∞ beyond 1."""
        inside = p <= 1
        rest = jnp.where(inside, 1 - p, 0)
        return jnp.where(inside | (p != p), entropy_term(p) + entropy_term(rest), jnp.inf)

    def marginal(self, p: Array) -> Array:
        """Return log(p/(1−p))."""
        inside = (p > 0) & (p < 1)
        x = jnp.where(inside, p, 0.5)
        limit = jnp.where(p <= 0, -jnp.inf, jnp.where(p >= 1, jnp.inf, p))
        return jnp.where(inside, jnp.log(x) - jnp.log1p(-x), limit)

    def slope(self, p: Array) -> Array:
        """Return p(1−p)."""
        return p * (1 - p)

    def link(self, t: Array) -> Array:
        """Return the logistic function of t."""
        return jax.nn.sigmoid(t)

    def log_link(self, t: Array, near: Array) -> Array:
        return jax.nn.log_sigmoid(t)

    def log_marginal(self, log_p: Array) -> Array:
        some = jnp.where(log_p < 0, log_p, -1)
        finite = some - jnp.log(-jnp.expm1(some))
        return jnp.where(log_p < 0, finite, jnp.where(log_p == log_p, jnp.inf, log_p))

    def divergence(self, y: Array, p: Array, log_p: Array) -> Array:
        """Return KL of y from p plus KL of 1 − y from 1 − p."""
        rest = 1 - p
        log_rest = jnp.log(jnp.where(rest > 0, rest, 1))
        log_rest = jnp.where(rest > 0, log_rest, jnp.where(rest == 0, -jnp.inf, jnp.nan))
        return SHANNON.divergence(y, p, log_p) + SHANNON.divergence(1 - y, rest, log_rest)

    def bounded_divergence(self, y: Array, p: Array, log_p: Array, t: Array) -> Array:
        log_rest = self.log_link(-t, -t)
        rest = jnp.where(p > 0.5, jnp.exp(log_rest), 1 - p)
        return SHANNON.divergence(y, p, log_p) + SHANNON.divergence(1 - y, rest, log_rest)

    def relative_slope(self, log_p: Array) -> Array:
        """Return 1 − p."""
        return -jnp.expm1(log_p)

    def log_slope(self, t: Array) -> Array:
        """Return log p + log(1 − p)."""
        return jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t)
