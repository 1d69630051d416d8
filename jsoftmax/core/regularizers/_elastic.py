"""The elastic regularizer: negative entropy plus a squared norm."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._regularizer import Parameter, Regularizer
from jsoftmax.core._safe_log import entropy_term, safe_log
from jsoftmax.core._wright_omega import wright_omega


@dataclasses.dataclass(frozen=True)
class Elastic(Regularizer):
    r"""Negative entropy plus a squared norm: softmax with saturating scores.

    .. math:: Ω(p) = \sum_i p_i \log p_i + \frac{λ}{2} (‖p‖² - 1)

    Every class keeps some mass, as in softmax, but scores far above the others saturate: log p
    grows by z/(1 + λp).

    Args:
        strength: λ ≥ 0, a number or an array with size 1 along the class axis; softmax at 0.

    Raises:
        ValueError: if `strength` is a negative number. A traced one gives NaN.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> print(jsoftmax.regularized_argmax(jnp.array([2.0, 1.0, 0.0]), jsoftmax.Elastic(5.0)))
        [0.45951 0.32734 0.21315]
    """

    strength: Parameter = 1.0

    def __post_init__(self):
        number = checks.static_number(self.strength)
        if number is not None:
            if not 0 <= number < jnp.inf:
                raise ValueError(
                    "jsoftmax.Elastic: `strength` must be finite and at least 0, got "
                    f"{self.strength!r}."
                )
            object.__setattr__(self, "strength", number)

    def value(self, p: Array) -> Array:
        """Return p log p + λ p(p−1)/2."""
        return entropy_term(p) + self.strength * p * (p - 1) / 2

    def marginal(self, p: Array) -> Array:
        """Return log p + λ p."""
        return safe_log(p) + (self.strength * p)

    def slope(self, p: Array) -> Array:
        """Return p/(1 + λp)."""
        return p / (1 + self.strength * p)

    def link(self, t: Array) -> Array:
        """Return p with log p + λp = t, which is W(λ eᵗ)/λ with Lambert's W."""
        w, strength = self._grown(t)
        return jnp.where(w > 1, w / strength, jnp.exp(t - w))

    def log_link(self, t: Array, near: Array) -> Array:
        w, strength = self._grown(t)
        return jnp.where(w > 1, jnp.log(jnp.maximum(w, 1)) - jnp.log(strength), t - w)

    def _grown(self, t):
        """Return w = λp, solving w + log w = t + log λ. For large w, log p = t − w cancels."""
        some = jnp.asarray(self.strength, t.dtype) > 0
        strength = jnp.where(some, self.strength, 1).astype(t.dtype)
        return jnp.where(some, wright_omega(t + jnp.log(strength)), 0), strength

    def log_marginal(self, log_p: Array) -> Array:
        return log_p + self.strength * jnp.exp(log_p)

    def relative_slope(self, log_p: Array) -> Array:
        """Return 1/(1 + λp)."""
        return 1 / (1 + self.strength * jnp.exp(log_p))

    def without_limit(self) -> tuple[Elastic, bool | Array]:
        """Return the regularizer with NaN in place of a traced λ below 0."""
        if isinstance(self.strength, float):
            return self, False
        return Elastic(jnp.where(self.strength >= 0, self.strength, jnp.nan)), False
