"""Mappings with caps on p or with total mass k: relaxed k-hot arg max and constrained entmax."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.core._capped_simplex import anchor_of, capped_masses
from jsoftmax.core._cooled import cooled
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import FermiDirac, chosen


def topk_entmax(
    logits: ArrayLike,
    k: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the relaxed k-hot arg max: `entmax` with total mass k and entries of at most 1.

    .. math:: p = \arg\max ⟨p, z/T⟩ - Ω_α(p)
              \quad\text{over}\quad 0 ≤ p_i ≤ 1,\; \sum_i p_i = k

    so that :math:`p_i = \min(1, [1 + (α-1)(z_i/T - τ)]_+^{1/(α-1)})`. k = 1 is `entmax`; k need not
    be an integer. As T → 0 or α → ∞ the k largest classes get 1. `topk_sigmoid` is the smooth
    counterpart.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        k: the mass, 0 < k ≤ number of unmasked classes; a number or an array with size 1 along
            `axis`. Differentiable where some class is strictly between 0 and 1; elsewhere its
            derivative is 0.
        alpha: α > 0, a number or an array with size 1 along `axis`; 1.5 if None.
        axis: the class axis or axes; None for all.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `logits`.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, which makes Ω(p) = Σ q ω(p/q);
            0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        p of the shape and dtype of `logits` (the default float dtype for integers), between 0 and
        1, summing to k.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `alpha`
            or `k` is a number out of range. Traced values out of range give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> print(topk_entmax(jnp.array([2.0, 1.0, 0.5, -1.0]), k=2, alpha=2.0))
        [1.         0.7500 0.2500 0.        ]

    Reference:
        B. Amos, V. Koltun and J. Z. Kolter, "The limited multi-label projection layer", 2019, for
        the Fermi–Dirac form.
    """
    ask = problem(
        "topk_entmax", logits, axis, where, regularizer=chosen("topk_entmax", alpha, regularizer),
        prior=prior, temperature=temperature, axis_name=axis_name,
    )  # fmt: skip
    total, one = mass("topk_entmax", k, ask), jnp.ones((), ask.z.dtype)
    return solve_capped(ask, one, total, ones_filled_by(k)).astype(ask.dtype)


def topk_sigmoid(
    logits: ArrayLike,
    k: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute logistic functions with a common shift that makes them sum to k.

    .. math:: p_i = σ(z_i/T - τ), \qquad \sum_i p_i = k

    The Fermi–Dirac distribution of k particles: a smooth relaxation of the indicator of the k
    largest, never exactly 0 or 1. `topk_entmax` is the sparse one.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        k: the mass, 0 < k ≤ number of unmasked classes; a number or an array with size 1 along
            `axis`, differentiable.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, which makes Ω(p) = Σ q ω(p/q);
            0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        p of the shape and dtype of `logits`, between 0 and 1, summing to k.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `k` is a
            number out of range. A traced `k` out of range gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> print(topk_sigmoid(jnp.array([2.0, 1.0, 0.5, -1.0]), k=2))
        [0.7932 0.5853 0.4612 0.1604]

    Reference:
        B. Amos, V. Koltun and J. Z. Kolter, "The limited multi-label projection layer", 2019.
    """
    ask = problem(
        "topk_sigmoid", logits, axis, where, regularizer=FermiDirac(), prior=prior,
        temperature=temperature, axis_name=axis_name,
    )  # fmt: skip
    total, one = mass("topk_sigmoid", k, ask), jnp.ones((), ask.z.dtype)
    return solve_capped(ask, one, total, ones_filled_by(k)).astype(ask.dtype)


def capped_entmax(
    logits: ArrayLike,
    upper: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute `entmax` with an upper bound on the probability of each class.

    .. math:: p = \arg\max_{p \in Δ,\; p ≤ u} ⟨p, z/T⟩ - Ω_α(p)

    At α = 2 it is constrained sparsemax, at α = 1 constrained softmax.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        upper: the caps u ≥ 0, a number or an array that broadcasts to `logits`; their sum over the
            unmasked classes must be at least 1. Differentiable.
        alpha: α > 0, a number or an array with size 1 along `axis`; 1.5 if None.
        axis: the class axis or axes; None for all.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `logits`.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, which makes Ω(p) = Σ q ω(p/q);
            0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        p of the shape and dtype of `logits`, with 0 ≤ p ≤ u, summing to 1.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `alpha`
            or `upper` is given as numbers out of range. Traced values out of range give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> print(capped_entmax(jnp.array([2.0, 1.0, 0.5, -1.0]), 0.6, alpha=2.0))
        [0.6 0.4 0.  0. ]

    Reference:
        C. Malaviya, P. Ferreira and A. F. T. Martins, "Sparse and constrained attention for neural
        machine translation", ACL 2018.
    """
    ask = problem(
        "capped_entmax", logits, axis, where,
        regularizer=chosen("capped_entmax", alpha, regularizer), prior=prior,
        temperature=temperature, axis_name=axis_name,
    )  # fmt: skip
    known = checks.known_values(upper)
    if known is not None and is_known(ask.classes.size(ask.z)):
        _check_caps(known, ask)
    upper = checks.as_array("capped_entmax", "upper", upper)
    upper = checks.aligned("capped_entmax", "upper", upper, ask.z.shape).astype(ask.z.dtype)
    upper = jnp.where(upper >= 0, upper, jnp.nan)
    one = jnp.ones((1,) * ask.z.ndim, ask.z.dtype)
    return solve_capped(ask, upper, one).astype(ask.dtype)


def _check_caps(upper: np.ndarray, ask: Problem) -> None:
    if not (upper >= 0).all():
        raise ValueError("jsoftmax.capped_entmax: every cap in `upper` must be at least 0.")
    if upper.ndim <= ask.z.ndim and ask.classes.axis_name is None and ask.mask is None:
        caps = upper.reshape((1,) * (ask.z.ndim - upper.ndim) + upper.shape)
        repeats = [ask.z.shape[a] if caps.shape[a] == 1 else 1 for a in ask.classes.axis]
        room = caps.sum(ask.classes.axis) * np.prod(repeats)
        if (room < 1 - 1e-6).any():
            raise ValueError(
                f"jsoftmax.capped_entmax: the caps in `upper` sum to {room.min():.6g}, and no "
                "distribution fits below them. Raise them until they sum to at least 1."
            )


def mass(function: str, k: Any, ask: Problem) -> Array:
    """Return the total mass k as an array with a size-1 class axis."""
    number = checks.static_number(k)
    known = checks.known_values(k) if number is None else np.float64(number)
    classes = ask.classes.size(ask.z)
    most = classes if is_known(classes) else np.inf
    if known is not None and not ((known > 0) & (known <= most)).all():
        raise ValueError(
            f"jsoftmax.{function}: `k` must be above 0 and at most the number of classes, "
            f"{classes}; got {k!r}."
        )
    if number is not None:
        return jnp.full((1,) * ask.z.ndim, number, ask.z.dtype)
    return checks.per_row(function, "k", k, ask.z, ask.classes, ask.z.dtype)


def solve_capped(ask: Problem, upper: Array, total: Array, filled_ones: int | None = None) -> Array:
    """Return p of the capped problem, with temperature, mask and limits."""
    upper = jnp.where(ask.z > -jnp.inf, upper, 0)
    upper = jnp.where(jnp.isnan(ask.z), jnp.ones_like(upper), upper)
    y = ask.z
    if ask.temperature is not None:
        # At T = 0 the classes above the anchor are at their caps, and those below it at zero.
        anchor = anchor_of(ask.z, upper, total, ask.classes, filled_ones)
        y = cooled(ask.z, ask.temperature, ask.classes, anchor)
    p, _ = capped_masses(y, ask.prior, ask.regularizer, upper, total, ask.classes, filled_ones)
    return ask.unmasked(p, 0)


def ones_filled_by(k: Any) -> int | None:
    """Return ⌈k⌉ where k is known while tracing, otherwise None."""
    number = checks.static_number(k)
    return None if number is None else math.ceil(number)
