"""Normmax, with a norm as the regularizer: p is the escort distribution of an entmax."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import probabilities
from jsoftmax.core.regularizers import Tsallis


def normmax(
    logits: ArrayLike,
    alpha: ArrayLike = 2.0,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the probabilities that trade off score and the α-norm of the distribution.

    .. math:: p = \arg\max_{p \in Δ} ⟨p, z/T⟩ - ‖p‖_α

    Unlike `entmax` it prefers *equal* shares on its support, more so for larger α; at α = ∞ the
    mass is shared equally. With q = entmax of order 2 − 1/α of the scores α/(α−1) z it is
    :math:`p ∝ q^{1/α}`.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        alpha: α > 1, a number or an array with size 1 along `axis`.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        p of the shape and dtype of `logits` (the default float dtype for integers).

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `alpha`
            is a number that is not above 1. A traced α that is not above 1 gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> print(normmax(jnp.array([0.6, 0.0, -1.0])))
        [0.7342606 0.2657393 0.       ]

    Reference:
        M. Blondel, A. F. T. Martins and V. Niculae, "Learning with Fenchel–Young losses", JMLR
        2020.
    """
    ask, alpha = normmax_problem("normmax", logits, alpha, axis, where, temperature, axis_name)
    if ask.is_hard:
        return ask.hard().astype(ask.dtype)
    z = cooled(ask.z, ask.temperature, ask.classes)
    return ask.unmasked(norm_probabilities(z, alpha, ask.classes), 0).astype(ask.dtype)


def normmax_problem(
    function, logits, alpha, axis, where, temperature, axis_name
) -> tuple[Problem, Array]:
    """Return the problem, and α as an array with NaN where it is not above 1."""
    ask = problem(function, logits, axis, where, temperature=temperature, axis_name=axis_name)
    number = checks.static_number(alpha)
    if number is not None and not number > 1:
        hint = f" Did you mean axis={int(number)}?" if number in (-1, -2, -3) else ""
        raise ValueError(f"jsoftmax.{function}: `alpha` must be above 1, got {alpha!r}.{hint}")
    known = checks.known_values(alpha)
    if known is not None and not (known > 1).all():
        raise ValueError(f"jsoftmax.{function}: `alpha` must be above 1, got {alpha}.")
    dtype = ask.z.dtype
    if number is not None:
        return ask, jnp.full((1,) * ask.z.ndim, number, dtype)
    alpha = checks.per_row(function, "alpha", alpha, ask.z, ask.classes, dtype)
    return ask, jnp.where(alpha > 1, alpha, jnp.nan)


def norm_probabilities(z: Array, alpha: Array, classes: ClassAxis) -> Array:
    """Return p = argmax ⟨p, z⟩ − ‖p‖_α."""
    return escort(norm_powers(z, alpha, classes), z, alpha, classes)


def norm_powers(z: Array, alpha: Array, classes: ClassAxis) -> Array:
    """Return q = (p/‖p‖)^α, with derivative 0.

    Stationarity is z − μ = (p/‖p‖)^(α−1) on the support. Hence q = (z − μ)₊^(α/(α−1)) sums to
    one, which makes q the entmax of order 2 − 1/α of α/(α−1) z.
    """
    z, alpha = jax.lax.stop_gradient((z, alpha))
    ratio = 1 - 1 / alpha
    # Measured from the largest score, so that the error is an eps of the difference.
    v = difference(z, classes.max(z))
    return probabilities(v / ratio, None, Tsallis(1 + ratio), classes)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def escort(q: Array, z: Array, alpha: Array, classes: ClassAxis) -> Array:
    """Return p ∝ q^(1/α) for q = norm_powers(z, α)."""
    root = jnp.where(q > 0, jnp.exp(jnp.log(jnp.where(q > 0, q, 1)) / alpha), q)
    total = classes.sum(root)
    return root / jnp.where(total == 0, 1, total)


@escort.defjvp
def _escort_jvp(classes, primals, tangents):
    # Differentiating z − μ = g(p, α), g = ∇‖p‖, and inverting on the support S gives
    #     ṗ = c (I − p 1ᵀ) diag(p^(2−α)) (I − 1 pᵀ) d,   c = ‖p‖^(α−1)/(α−1),
    # with d = ż − (∂g/∂α) α̇. Each projection is applied twice, as in `ClassAxis.deviation`.
    # At α = ∞ it is piecewise constant.
    (q, z, alpha), (_, d_z, d_alpha) = primals, tangents
    p = escort(q, z, alpha, classes)
    movable = jnp.where((classes.max(z) < jnp.inf) & (alpha < jnp.inf), 1, 0)
    alpha = jnp.where(alpha < jnp.inf, alpha, 2)
    d = d_z
    if not isinstance(d_alpha, SymbolicZero):
        _, bend = jax.jvp(lambda a: norm_gradient(p, a, classes), (alpha,), (d_alpha,))
        d = d - bend
    positive = jnp.where(p > 0, p, 1)
    slope = jnp.where(p > 0, jnp.exp((2 - alpha) * jnp.log(positive)), 0)
    scale = jnp.exp((alpha - 1) * jnp.log(norm(p, alpha, classes))) / (alpha - 1)
    y = scale * slope * movable * classes.deviation(p, d)
    y = y - p * classes.sum(y)
    return p, y - p * classes.sum(y)


def norm(p: Array, alpha: Array, classes: ClassAxis) -> Array:
    """Return ‖p‖_α with a size-1 class axis, scaled against underflow; 1 for a fully masked row."""
    largest = classes.max(p)
    largest = jnp.where(largest == 0, 1, largest)
    ratio = p / largest
    total = classes.sum(power(ratio, alpha))
    return largest * jnp.exp(jnp.log(jnp.where(total == 0, 1, total)) / alpha)


def power(ratio: Array, alpha: Array) -> Array:
    """Return ratio^α for ratios from 0 to 1, also at α = ∞; the derivative at 1 is α."""
    positive = jnp.where(ratio > 0, ratio, 1)
    finite = jnp.exp(jnp.where(alpha == jnp.inf, 1, alpha) * jnp.log(positive))
    limit = jnp.where((alpha == jnp.inf) & (ratio < 1), 0, finite)
    return jnp.where(ratio > 0, limit, ratio)


def norm_gradient(p: Array, alpha: Array, classes: ClassAxis) -> Array:
    """Return ∇‖p‖_α = (p/‖p‖)^(α−1), 0 off the support."""
    log_ratio = jnp.log(jnp.where(p > 0, p, 1)) - jnp.log(norm(p, alpha, classes))
    return jnp.where(p > 0, jnp.exp((alpha - 1) * log_ratio), p)
