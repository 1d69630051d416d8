"""Tsallis' entropies, from softmax to arg max."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._q_logarithm import log_expq, p_log_p, q_log, q_log_from_log
from jsoftmax.core._regularizer import Parameter, Regularizer
from jsoftmax.core._safe_log import positive
from jsoftmax.core.curves import Curve, Edge, Power, Scaled

_LEAST_POWER = 0.2


@dataclasses.dataclass(frozen=True)
class Tsallis(Regularizer):
    r"""Tsallis' entropies: softmax at α = 1, sparsemax at α = 2, arg max at α = ∞.

    .. math:: Ω_α(p) = \frac{\sum_i p_i^α - 1}{α(α-1)}, \qquad Ω_1(p) = \sum_i p_i \log p_i

    `entmax(z, alpha)` is `regularized_argmax(z, Tsallis(alpha))`. A Python number is static, and 1,
    1.5 and 2 are fast; a `jax.Array` may be traced, learned, and differ by row.

    Args:
        alpha: α > 0, a number or an array with size 1 along the class axis (for attention: of
            shape (heads,)).

    Raises:
        ValueError: if `alpha` is a number that is not positive. A traced one gives NaN.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> print(jsoftmax.regularized_argmax(jnp.array([1.0, 0.5, -1.0]), jsoftmax.Tsallis(2.0)))
        [0.75 0.25 0.  ]

    Reference:
        C. Tsallis, "Possible generalization of Boltzmann–Gibbs statistics", 1988.
    """

    alpha: Parameter = 1.0

    def __post_init__(self):
        number = checks.static_number(self.alpha)
        if number is not None:
            if not number > 0:
                raise ValueError(f"jsoftmax.Tsallis: `alpha` must be positive, got {self.alpha!r}.")
            object.__setattr__(self, "alpha", number)

    @property
    def exponent(self) -> float | Array:
        """a = α − 1, a Python number where α is one."""
        return self.alpha - 1

    def value(self, p: Array) -> Array:
        """Return p (p^a − 1)/(α a), which is p log p at α = 1."""
        if self.is_exponential:
            return p_log_p(p)
        return jnp.where(p == 0, 0, p * q_log(positive(p), self.exponent)) / self.alpha

    def marginal(self, p: Array) -> Array:
        """Return (p^a − 1)/a: −1/a at p = 0 for a > 0, −∞ for a ≤ 0."""
        a = self.exponent
        is_finite = jnp.asarray(a) > 0
        at_zero = jnp.where(is_finite, -1 / jnp.where(is_finite, a, 1.0), -jnp.inf)
        return jnp.where(p > 0, q_log(positive(p), a), at_zero.astype(p.dtype))

    def slope(self, p: Array) -> Array:
        """Return p^(2−α) on the support and 0 off it, where the power alone would be 1 or ∞."""
        power = 1 - self.exponent
        if isinstance(power, float) and power in (0.0, 0.5, 1.0):
            if power == 1:
                return p
            s = jnp.ones_like(p) if power == 0 else jnp.sqrt(positive(p))
        else:
            s = jnp.exp(power * jnp.log(positive(p)))
        return jnp.where(p > 0, jnp.minimum(s, _large(p.dtype)), jnp.where(p == 0, 0, p))

    def link(self, t: Array) -> Array:
        """Return (1 + a t)₊^(1/a), the exponential at α = 1."""
        return jnp.exp(log_expq(t, self.exponent))

    def log_link(self, t: Array, near: Array) -> Array:
        return log_expq(t, self.exponent)

    def log_marginal(self, log_p: Array) -> Array:
        return q_log_from_log(log_p, self.exponent)

    def relative_slope(self, log_p: Array) -> Array:
        """Return p^(1−α)."""
        return jnp.exp(-self.exponent * log_p)

    def derivative(self, p: Array) -> Array:
        return self.marginal(p) + 1 / self.alpha

    def divergence(self, y: Array, p: Array, log_p: Array) -> Array:
        """Return ω(y) − ω(p) − ω′(p)(y − p) ≥ 0.

        For y = 0 this is p^α/α. Otherwise, with w = log(p/y), it is y^α β(w) for

            β(w) = (e^{αw} − 1)/α − (e^{aw} − 1)/a = e^{aw} w [φ(w) − φ(−aw)]/α,  φ(x) = (eˣ − 1)/x,

        and where w is small the bracket is summed as a series, Σ wⁿ (1 − (−a)ⁿ)/(n+1)!. Where p is
        far above y, y^α β(w) overflows, and p^α (r (rᵃ − 1)/a + 1 − r)/α for r = y/p does not.
        """
        alpha, a = self.alpha, self.exponent
        a_array = jnp.asarray(a, p.dtype)
        positive = y > 0
        log_y = jnp.log(jnp.where(positive, y, 1))
        w = jnp.where(positive, log_p, 0) - log_y
        within = jnp.maximum(w, -1)  # 0 · ∞ is NaN
        small = jnp.maximum(jnp.abs(within), jnp.abs(a_array * within)) < 0.25
        near = jnp.where(small, w, 0)
        series, power, turned = jnp.zeros_like(near), jnp.ones_like(near), jnp.ones_like(near)
        factorial = 1.0
        for n in range(1, 14):  # 0.25¹⁴/15! is 3e-21
            factorial *= n + 1
            power, turned = power * near, turned * (-a_array * near)
            series = series + (power - turned) / factorial
        series = jnp.exp(a_array * near) * near * series / alpha
        far = jnp.where(small | (w > 1), -1, w)
        direct = q_log_from_log(far, alpha) - q_log_from_log(far, a)
        above = jnp.where(w > 1, w, 1)
        ratio = jnp.exp(-above)
        exceeding = (ratio * q_log_from_log(-above, a) + 1 - ratio) / alpha
        p_power = jnp.where(p > 0, jnp.exp(alpha * jnp.log(jnp.where(p > 0, p, 1))), p)
        below = jnp.exp(alpha * log_y) * jnp.where(small, series, direct)
        inside = jnp.where(w > 1, p_power * exceeding, below)
        return jnp.where(positive, inside, jnp.where(y == 0, p_power / alpha, y))

    def divergence_of_zero(self, p: Array, log_p: Array) -> Array:
        """Return p^α/α."""
        products = {1.0: lambda: p, 1.5: lambda: p * jnp.sqrt(p), 2.0: lambda: p * p}
        if isinstance(self.alpha, float) and self.alpha in products:
            return products[self.alpha]() / self.alpha
        return jnp.exp(self.alpha * log_p) / self.alpha

    def on_curve(self, anywhere: Callable, solved: Callable[[Curve], Any]) -> Any:
        """Return `solved` on the curve that suits α: of all rows, or, for a traced α, of each row.

        Every result of `solved` has a shape that α broadcasts to.
        """
        a = self.exponent
        if not isinstance(a, Array):
            return solved(Edge(a) if a > 1 else Power(a) if a > _LEAST_POWER else Scaled(a))

        def powers():
            return solved(Power(jnp.clip(a, _LEAST_POWER, 1)))

        def scaled(a):
            # So little instead of 0 that (1 + a w)₊^(1/a) is e^w for every w but −∞, where it is 0.
            return solved(Scaled(jnp.where(jnp.abs(a) < 1e-20, 1e-20, a)))

        def each():
            # Rows of the other curve have a = NaN, so that a search stops there at its first step.
            beyond, below = (jnp.where(rows, a, jnp.nan) for rows in (a > 1, a <= 1))
            return jax.tree.map(
                lambda x, y: jnp.where(a > 1, x, y), solved(Edge(beyond)), scaled(below)
            )

        beyond, below = anywhere(~(a <= 1)), anywhere(a < _LEAST_POWER)
        return jax.lax.switch(
            jnp.where(beyond, 2, jnp.where(below, 1, 0)), (powers, lambda: scaled(a), each)
        )

    @property
    def is_exponential(self) -> bool:
        return isinstance(self.alpha, float) and self.alpha == 1

    @property
    def has_equal_slopes(self) -> bool:
        return isinstance(self.alpha, float) and self.alpha == 2

    def anchors_at_edge(self) -> bool | Array:
        return self.alpha > 2

    def without_limit(self) -> tuple[Tsallis, bool | Array]:
        """Return α = 2 in place of ∞, and NaN in place of a traced α that is not positive."""
        if isinstance(self.alpha, float):
            return (Tsallis(2.0), True) if self.alpha == jnp.inf else (self, False)
        limit = self.alpha == jnp.inf
        alpha = jnp.where(self.alpha > 0, jnp.where(limit, 2, self.alpha), jnp.nan)
        return Tsallis(alpha), limit


SHANNON = Tsallis(1.0)


def _large(dtype) -> float:
    """Return a number so large that one more factor of reasonable size does not overflow."""
    return float(jnp.finfo(dtype).max) ** 0.8
