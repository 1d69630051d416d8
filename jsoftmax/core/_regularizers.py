"""The regularizers that come with the library, each with what makes it fast and precise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._curves import Curve, Edge, Power, Scaled, Shift
from jsoftmax.core._q_logarithm import log_expq, p_log_p, q_log, q_log_from_log
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._wright_omega import wright_omega

_LEAST_POWER = 0.2
Parameter: TypeAlias = Any  # a Python number, or an array with one number a row


@dataclasses.dataclass(frozen=True)
class Tsallis(Regularizer):
    r"""Tsallis' entropies: softmax at α = 1, sparsemax at α = 2, arg max at α = ∞.

    .. math:: Ω_α(p) = \frac{\sum_i p_i^α - 1}{α(α-1)}, \qquad Ω_1(p) = \sum_i p_i \log p_i

    `entmax(z, alpha)` is `regularized_argmax(z, Tsallis(alpha))`. A Python number is part of the
    program, and 1, 1.5 and 2 are fast; a `jax.Array` may be traced, learned, and differ by row.

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
        return jnp.where(p == 0, 0, p * q_log(_positive(p), self.exponent)) / self.alpha

    def marginal(self, p: Array) -> Array:
        """Return (p^a − 1)/a: −1/a at p = 0 for a > 0, −∞ for a ≤ 0."""
        a = self.exponent
        is_finite = jnp.asarray(a) > 0
        at_zero = jnp.where(is_finite, -1 / jnp.where(is_finite, a, 1.0), -jnp.inf)
        return jnp.where(p > 0, q_log(_positive(p), a), at_zero.astype(p.dtype))

    def slope(self, p: Array) -> Array:
        """Return p^(2−α) on the support and 0 off it, where the power alone would be 1 or ∞."""
        power = 1 - self.exponent
        if isinstance(power, float) and power in (0.0, 0.5, 1.0):
            if power == 1:
                return p
            s = jnp.ones_like(p) if power == 0 else jnp.sqrt(_positive(p))
        else:
            s = jnp.exp(power * jnp.log(_positive(p)))
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

        For y = 0 it is p^α/α. Otherwise, with w = log(p/y), it is y^α β(w) for

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

    def on_curve(self, anywhere: Callable, solved: Callable[[Curve], Any]) -> Any:
        """Return `solved` on the curve that suits α: of all rows, or, for a traced α, of each row.

        All its results have one number, or one entry, a row, to which α broadcasts.
        """
        a = self.exponent
        if not isinstance(a, Array):
            return solved(Edge(a) if a > 1 else Power(a) if a > _LEAST_POWER else Scaled(a))

        def powers():
            return solved(Power(jnp.clip(a, _LEAST_POWER, 1)))

        def scaled():
            # So little instead of 0 that (1 + a w)₊^(1/a) is e^w for every w but −∞, where it is 0.
            return solved(Scaled(jnp.where(jnp.abs(a) < 1e-20, 1e-20, jnp.minimum(a, 1))))

        def each():
            beyond = solved(Edge(jnp.maximum(a, 1)))
            return jax.tree.map(lambda x, y: jnp.where(a > 1, x, y), beyond, scaled())

        beyond, below = anywhere(~(a <= 1)), anywhere(a < _LEAST_POWER)
        return jax.lax.switch(jnp.where(beyond, 2, jnp.where(below, 1, 0)), (powers, scaled, each))

    @property
    def is_exponential(self) -> bool:
        return isinstance(self.alpha, float) and self.alpha == 1

    @property
    def has_equal_slopes(self) -> bool:
        return isinstance(self.alpha, float) and self.alpha == 2

    def anchors_at_edge(self) -> bool | Array:
        return self.alpha > 2

    def without_limit(self) -> tuple[Tsallis, bool | Array]:
        """Return α = 2 in the place of ∞, and NaN in that of a traced α that is not positive."""
        if isinstance(self.alpha, float):
            return (Tsallis(2.0), True) if self.alpha == jnp.inf else (self, False)
        limit = self.alpha == jnp.inf
        alpha = jnp.where(self.alpha > 0, jnp.where(limit, 2, self.alpha), jnp.nan)
        return Tsallis(alpha), limit


@dataclasses.dataclass(frozen=True)
class FermiDirac(Regularizer):
    r"""The binary entropy of every probability by itself, whose link is the logistic function.

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
        return jnp.where(inside | (p != p), _entropy_term(p) + _entropy_term(rest), jnp.inf)

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
        """Return KL of y from p, and of 1 − y from 1 − p."""
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

    def complement(self, t: Array) -> Array:
        """Return 1 − p, which is the link of −t."""
        return self.link(-t)

    @property
    def bound(self) -> float:
        return 1.0

    def on_curve(self, anywhere: Callable, solved: Callable[[Curve], Any]) -> Any:
        return solved(Shift(self))


@dataclasses.dataclass(frozen=True)
class Elastic(Regularizer):
    r"""Negative entropy and a square: between `softmax` and a softmax of sparsemax's evenness.

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
        return _entropy_term(p) + self.strength * p * (p - 1) / 2

    def marginal(self, p: Array) -> Array:
        """Return log p + λ p."""
        return jnp.where(p > 0, jnp.log(_positive(p)), jnp.where(p == 0, -jnp.inf, p)) + (
            self.strength * p
        )

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
        """w = λp, with w + log w = t + log λ and log p = t − w, which cancels where w is large."""
        some = jnp.asarray(self.strength, t.dtype) > 0
        strength = jnp.where(some, self.strength, 1).astype(t.dtype)
        return jnp.where(some, wright_omega(t + jnp.log(strength)), 0), strength

    def log_marginal(self, log_p: Array) -> Array:
        return log_p + self.strength * jnp.exp(log_p)

    def relative_slope(self, log_p: Array) -> Array:
        """Return 1/(1 + λp)."""
        return 1 / (1 + self.strength * jnp.exp(log_p))

    def without_limit(self) -> tuple[Elastic, bool | Array]:
        """Return NaN in the place of a traced λ below 0."""
        if isinstance(self.strength, float):
            return self, False
        return Elastic(jnp.where(self.strength >= 0, self.strength, jnp.nan)), False


@dataclasses.dataclass(frozen=True)
class JensenShannon(Regularizer):
    r"""The Jensen–Shannon divergence from the prior: heavier tails at the top than softmax.

    .. math:: \sum_i q_i ω(p_i/q_i) = \mathrm{JS}(p, q), \qquad p_i = q_i / (e^{2(τ - z_i)} - 1)

    in nats, for a prior q that sums to 1. Its link is that of Bose and Einstein.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> print(jsoftmax.regularized_argmax(jnp.array([1.0, 0.5, 0.0]), jsoftmax.JensenShannon()))
        [0.75103 0.18735 0.06162]

    Reference:
        V. Roulet, T. Liu, N. Vieillard, M. E. Sander and M. Blondel, "Loss functions and operators
        generated by f-divergences", ICML 2025.
    """

    def value(self, p: Array) -> Array:
        """Return (p log p − (1+p) log(1+p))/2 + p log 2."""
        return (_entropy_term(p) - (1 + p) * jnp.log1p(p)) / 2 + p * jnp.log(2.0).astype(p.dtype)

    def marginal(self, p: Array) -> Array:
        """Return log(p/(1+p))/2."""
        log_p = jnp.where(p > 0, jnp.log(_positive(p)), jnp.where(p == 0, -jnp.inf, p))
        return (log_p - jnp.log1p(p)) / 2

    def slope(self, p: Array) -> Array:
        """Return 2p(1+p)."""
        return 2 * p * (1 + p)

    def link(self, t: Array) -> Array:
        """Return 1/(e^(−2t) − 1), for t < 0."""
        least = -(float(jnp.finfo(t.dtype).tiny) ** 0.5)
        return 1 / jnp.expm1(-jnp.minimum(2 * t, least))

    def log_link(self, t: Array, near: Array) -> Array:
        # log p = 2t − log(1 − e^{2t}), for t below 0; at and above it p has no bound.
        least = -(float(jnp.finfo(t.dtype).tiny) ** 0.5)
        x = jnp.minimum(2 * t, least)
        return jnp.where(t == t, x - jnp.log(-jnp.expm1(x)), t)

    def log_marginal(self, log_p: Array) -> Array:
        return -jnp.logaddexp(0, -log_p) / 2

    def relative_slope(self, log_p: Array) -> Array:
        """Return 2(1+p)."""
        return 2 * (1 + jnp.exp(log_p))


@dataclasses.dataclass(frozen=True)
class Laplace(Regularizer):
    r"""The regularizer whose link is the distribution function of Laplace: LapSum's soft top-k.

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
        inside = jnp.where(m > 0, m * jnp.log(2 * _positive(m)), 0) - m
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
        """Return ω(y) − ω(p) − ω′(p)(y − p), on one side of ½ a KL of y or of 1 − y."""
        rest = jnp.where(p < 1, 1 - p, 0)
        log_rest = jnp.where(rest > 0, jnp.log(_positive(rest)), -jnp.inf)
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

    def complement(self, t: Array) -> Array:
        """Return 1 − p, which is the link of −t."""
        return self.link(-t)

    @property
    def bound(self) -> float:
        return 1.0

    def on_curve(self, anywhere: Callable, solved: Callable[[Curve], Any]) -> Any:
        return solved(Shift(self))


SHANNON = Tsallis(1.0)


def of_order(function: str, alpha: Any, beside_axis: bool = True) -> Tsallis:
    """Return Tsallis' regularizer of an α that `function` was given.

    `beside_axis` says that it may have been confused with an axis.

    Raises:
        ValueError: for an α known while tracing that is not positive.
    """
    number = checks.static_number(alpha)
    if number is None:
        known = checks.known_values(alpha)
        if known is not None and not (known > 0).all():
            raise ValueError(f"jsoftmax.{function}: every `alpha` must be positive, got {alpha}.")
        return Tsallis(checks.as_array(function, "alpha", alpha) if known is None else known)
    if not number > 0:
        hint = ""
        if beside_axis and number < 0 and number == int(number):
            hint = f" Did you mean axis={int(number)}?"
        raise ValueError(f"jsoftmax.{function}: `alpha` must be positive, got {alpha!r}.{hint}")
    return Tsallis(number)


def chosen(
    function: str,
    alpha: Any,
    regularizer: Regularizer | None,
    order: float = 1.5,
    beside_axis: bool = True,
) -> Regularizer:
    """Return the regularizer that `function` was given, by name or by its order α.

    Raises:
        ValueError: if both are given, or for an α known while tracing that is not positive.
    """
    if regularizer is None:
        return of_order(function, order if alpha is None else alpha, beside_axis)
    if alpha is not None:
        raise ValueError(
            f"jsoftmax.{function}: both `alpha` and `regularizer` are given; leave `alpha` out, or "
            "give regularizer=jsoftmax.Tsallis(alpha)."
        )
    return regularizer


def _entropy_term(p: Array) -> Array:
    return jnp.where(p > 0, p * jnp.log(_positive(p)), jnp.where(p == 0, 0, p))


def _positive(p: Array) -> Array:
    """`p`, with 1 in place of 0, so that no infinity or NaN is formed where it is not used."""
    return jnp.where(p == 0, 1, p)


def _large(dtype) -> float:
    """So large that one more factor of any reasonable size does not overflow."""
    return float(jnp.finfo(dtype).max) ** 0.8
