"""The base class of regularizers: three functions of a probability define a separable map."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._inverse_marginal import inverse_marginal
from jsoftmax.core._safe_log import safe_log
from jsoftmax.core.curves import Curve, Level

_Self = TypeVar("_Self", bound="Regularizer")
Parameter: TypeAlias = Any  # a Python number, or an array with one number a row


@dataclasses.dataclass(frozen=True)
class Regularizer:
    r"""A convex ω that makes a map p = link(z − τ) of scores, a loss, and attention.

    .. math:: p = \arg\max_{p \in Δ} ⟨p, z⟩ - Ω(p), \qquad Ω(p) = \sum_i ω(p_i)

    A subclass defines three methods, elementwise on arrays p ≥ 0 (with a prior q they receive p/q,
    which may exceed 1). From them follow the map, its logarithm, its smooth maximum, its
    Fenchel–Young loss, attention, and all derivatives, in z and in the fields of the subclass:

    ========== ============================================================ =====================
    value      ω(p), 0 at p = 0 and at p = 1                                entropy, losses
    marginal   ω′(p), up to a constant; its limit at p = 0, which may be −∞ the threshold
    slope      1/ω″(p) for p > 0, 0 at p = 0                                every derivative
    ========== ============================================================ =====================

    `marginal` must be non-decreasing in p. If it is finite at 0 the map is sparse; where it reaches
    +∞ no probability can be larger. `link`, the inverse of `marginal`, is solved by a safeguarded
    Newton iteration; a subclass with a formula overrides it, for speed.

    A subclass with parameters is a frozen dataclass. Every regularizer is a pytree: a Python number
    in a field is static, and a `jax.Array` in a field is a leaf, so it may be traced, learned, and
    differ from row to row (size 1 along the class axis) or head to head.

    Example:
        >>> import dataclasses, jax, jax.numpy as jnp, jsoftmax
        >>> @dataclasses.dataclass(frozen=True)
        ... class Quadratic(jsoftmax.Regularizer):  # sparsemax, with a strength
        ...     strength: float | jax.Array = 1.0
        ...
        ...     def value(self, p):
        ...         return self.strength * p * (p - 1) / 2
        ...
        ...     def marginal(self, p):
        ...         return self.strength * p
        ...
        ...     def slope(self, p):
        ...         return jnp.where(p > 0, 1 / self.strength, 0)
        >>> print(jsoftmax.regularized_argmax(jnp.array([1.0, 0.5, -1.0]), Quadratic(2.0)))
        [0.625 0.375 0.   ]

    Reference:
        M. Blondel, A. F. T. Martins and V. Niculae, "Learning with Fenchel–Young losses", JMLR
        2020.
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_with_keys(
            cls, _flattened_with_keys, partial(_unflattened, cls), _flattened
        )

    def value(self, p: Array) -> Array:
        """Return ω(p), 0 at p = 0 and at p = 1."""
        raise NotImplementedError(_missing(self, "value"))

    def marginal(self, p: Array) -> Array:
        """Return ω′(p) up to a constant, its limit from above at p = 0."""
        raise NotImplementedError(_missing(self, "marginal"))

    def slope(self, p: Array) -> Array:
        """Return 1/ω″(p) for p > 0, and 0 at p = 0."""
        raise NotImplementedError(_missing(self, "slope"))

    def link(self, t: Array) -> Array:
        """Return p with ω′(p) = t: 0 at and below ω′(0). Solved, unless a subclass overrides it."""
        return jnp.exp(inverse_marginal(self, t, jnp.zeros_like(t)))

    # The defaults below are right for every regularizer; ours override some for speed or precision.

    def log_link(self, t: Array, near: Array) -> Array:
        """Return log p with ω′(p) = t, sought from the log-mass `near`."""
        if self.knows_link:
            return safe_log(self.link(t))
        return inverse_marginal(self, t, near)

    def log_marginal(self, log_p: Array) -> Array:
        """Return ω′ at a log-mass."""
        return self.marginal(jnp.exp(log_p))

    def relative_slope(self, log_p: Array) -> Array:
        """Return slope(p)/p at a finite log-mass: the derivative of log p in the score."""
        p = jnp.maximum(jnp.exp(log_p), float(jnp.finfo(log_p.dtype).tiny))
        return self.slope(p) / p

    def log_slope(self, t: Array) -> Array:
        """Return log slope(p) from t = ω′(p), which alone resolves a p near its `bound`."""
        return safe_log(self.slope(self.link(t)))

    def complement(self, t: Array) -> Array:
        """Return `bound` − link(t)."""
        return self.bound - self.link(t)

    def derivative(self, p: Array) -> Array:
        """Return ω′(p) itself, with the constant that `marginal` leaves open."""
        half = jnp.full((1,) * p.ndim, 0.5, p.dtype)
        _, at_half = jax.jvp(self.value, (half,), (jnp.ones_like(half),))
        return self.marginal(p) + (at_half - self.marginal(half))

    def divergence(self, y: Array, p: Array, log_p: Array) -> Array:
        """Return ω(y) − ω(p) − ω′(p)(y − p) ≥ 0, elementwise.

        Where y and p are close that difference cancels, and is computed as ∫ (y − t) dω′(t), by a
        quadrature that is exact to rounding up to a factor of e between them.
        """
        both = (y > 0) & (p > 0)
        safe_y, safe_p = jnp.where(both, y, 1), jnp.where(both, p, 1)
        w = jnp.log(safe_y) - jnp.where(both, log_p, 0)
        close = jnp.abs(w) < 1
        near, total = jnp.where(close, w, 0), jnp.zeros_like(w)
        for node, weight in zip(*np.polynomial.legendre.leggauss(12), strict=True):
            share = float((1 + node) / 2)
            t = safe_p * jnp.exp(share * near)
            # (y − t) t/slope(t) dlog t, with y − t = t (e^{(1 − share) w} − 1).
            ahead = t * jnp.expm1((1 - share) * near)
            total = total + float(weight / 2) * ahead * near / self.relative_slope(jnp.log(t))
        some = self.derivative(jnp.where(p > 0, p, 1))
        bottom = self.derivative(jnp.zeros_like(p))
        # Where p underflows, log p does not.
        half = jnp.full((1,) * p.ndim, 0.5, p.dtype)
        below = self.log_marginal(jnp.where(log_p > -jnp.inf, log_p, 0))
        below = below + (self.derivative(half) - self.marginal(half))
        bottom = jnp.where((log_p > -jnp.inf) & jnp.isfinite(below), below, bottom)
        at_p = jnp.where(p > 0, some, jnp.where(bottom > -jnp.inf, bottom, 0))
        direct = self.value(y) - self.value(p) - at_p * (y - p)
        return jnp.where(both & close, total, jnp.maximum(direct, jnp.where(p == p, 0, p)))

    def divergence_of_zero(self, p: Array, log_p: Array) -> Array:
        """Return the divergence where y = 0, which is p ω′(p) − ω(p)."""
        return self.divergence(jnp.zeros_like(p), p, log_p)

    def bounded_divergence(self, y: Array, p: Array, log_p: Array, t: Array) -> Array:
        """Return the divergence from t = ω′(p) too, which alone resolves a p near its `bound`."""
        return self.divergence(y, p, log_p)

    def on_curve(self, anywhere: Callable, solved: Callable[[Curve], Any]) -> Any:
        """Return `solved` applied to the curve that the threshold solver uses for every row."""
        return solved(Level(self))

    @property
    def knows_link(self) -> bool:
        """Whether a subclass defines a formula for the link."""
        return type(self).link is not Regularizer.link

    @property
    def bound(self) -> float:
        """The largest value of the link, or ∞ unless it is known while tracing to be finite."""
        return math.inf

    @property
    def is_exponential(self) -> bool:
        """Whether the link is known while tracing to be exp, and τ to be logsumexp."""
        return False

    @property
    def has_equal_slopes(self) -> bool:
        """Whether the slope is known while tracing to be constant on the support."""
        return False

    def anchors_at_edge(self) -> bool | Array:
        """Whether scores are measured from the smallest one in the support, for precision."""
        return False

    def without_limit(self) -> tuple[Regularizer, bool | Array]:
        """Return the regularizer with limits replaced, and where ω is 0 and the map is arg max."""
        return self, False

    def by_rows(self: _Self, as_rows: Callable[[str, Any], Array]) -> _Self:
        """Return the regularizer with every array field made one number a row by `as_rows`."""
        names, _ = _fields(self)
        given = {n: x for n in names if (x := getattr(self, n)) is not None}
        return dataclasses.replace(self, **{n: as_rows(n, x) for n, x in given.items()})


def parted(regularizer: Regularizer) -> tuple[tuple[Array, ...], Any]:
    """Return the arrays of a regularizer, and its hashable structure, for loops over blocks."""
    numbers, structure = jax.tree.flatten(regularizer)
    return tuple(numbers), structure


def joined(structure: Any, numbers: Any) -> Regularizer:
    """Return the regularizer of these parts, or its tangent with None for constant numbers."""
    return jax.tree.unflatten(structure, numbers)


def _missing(regularizer: Regularizer, method: str) -> str:
    name = type(regularizer).__name__
    return (
        f"jsoftmax.Regularizer: {name} does not define `{method}`. Write {name}.{method}(self, p), "
        "elementwise on an array of probabilities."
    )


def _fields(regularizer: Regularizer) -> tuple[tuple[str, ...], tuple[tuple[str, Any], ...]]:
    """Return the names of the fields that are leaves, and the static fields with their values."""
    fields = [f.name for f in dataclasses.fields(regularizer)]
    if strange := sorted(set(vars(regularizer)) - set(fields)):
        name = type(regularizer).__name__
        raise TypeError(
            f"jsoftmax.Regularizer: {name} has the attribute `{strange[0]}`, which is not a field. "
            f"Declare it, and decorate the class with @dataclasses.dataclass(frozen=True)."
        )
    static = bool | int | float | np.number
    known = [(n, getattr(regularizer, n)) for n in fields]
    known = tuple((n, x) for n, x in known if isinstance(x, static))
    names = {n for n, _ in known}
    return tuple(n for n in fields if n not in names), known


def _flattened(regularizer):
    names, known = _fields(regularizer)
    return [getattr(regularizer, n) for n in names], (names, known)


def _flattened_with_keys(regularizer):
    children, (names, known) = _flattened(regularizer)
    keys = [jax.tree_util.GetAttrKey(n) for n in names]
    return list(zip(keys, children, strict=True)), (names, known)


def _unflattened(cls, structure, children):
    names, known = structure
    regularizer = object.__new__(cls)
    for name, x in (*zip(names, children, strict=True), *known):
        object.__setattr__(regularizer, name, x)
    return regularizer
