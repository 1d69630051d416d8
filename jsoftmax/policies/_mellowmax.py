"""Mellowmax: the logarithm of a mean of exponentials, between the mean and the maximum."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._q_logarithm import second_order
from jsoftmax.core._scores import difference


def mellowmax(
    values: ArrayLike,
    omega: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute a smooth maximum that is a non-expansion: mean at ω = 0, maximum at ω = ∞.

    .. math:: \mathrm{mm}_ω(x) = \frac1ω \log\Big(\frac1n \sum_i e^{ω x_i}\Big)

    It is `logsumexp` at temperature 1/ω minus log(n)/ω, so that n equal values have that value as
    their maximum; a Bellman operator with it is a contraction. It is the average, over all inverse
    temperatures from 0 to ω, of the expected value under `softmax`. The corresponding policy is
    `softmax` at `mellowmax_temperature`.

    Args:
        values: x of shape [..., K, ...]. A value of −∞ counts in n; mask an action to exclude it.
        omega: ω, a number or an array with size 1 along `axis`, of either sign, differentiable.
            ω < 0 gives the smooth minimum: −∞ is the minimum, +∞ the farthest; exclude actions by
            `where`.
        axis: the action axis or axes.
        where: boolean mask that broadcasts to `values`: only these n actions take part.
        keepdims: keep the axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the actions.

    Returns:
        One number a row, in float32 at least. −∞ for a fully masked row (+∞ if ω < 0).

    Raises:
        TypeError: if `values` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range or there are no actions.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0, 6.0])
        >>> print(mellowmax(x, 0.0), mellowmax(x, 1.0), mellowmax(x, jnp.inf))
        3.0 4.9261 6.0

    Reference:
        K. Asadi and M. L. Littman, "An alternative softmax operator for reinforcement learning",
        ICML 2017.
    """
    ask, w, sign = read("mellowmax", values, omega, axis, where, axis_name)
    top = ask.classes.max(ask.z)
    counted = ask.unmasked(jnp.ones_like(ask.z), 0)
    value = top + _excess(ask.z, w, counted, ask.classes)
    return ask.squeezed(jnp.where(w == w, sign * value, w), keepdims)


def read(
    function: str, values: Any, omega: Any, axis: Any, where: Any, axis_name: Any
) -> tuple[Problem, Array, Array]:
    """Return the problem with values negated where ω < 0, |ω|, and the sign of ω."""
    ask = problem(function, values, axis, where, axis_name=axis_name, called="values")
    w = checks.per_row(function, "omega", omega, ask.z, ask.classes, ask.z.dtype)
    sign = jnp.where(w < 0, jnp.asarray(-1, w.dtype), jnp.asarray(1, w.dtype))
    turned = dataclasses.replace(ask, z=ask.unmasked(jnp.where(w < 0, -ask.z, ask.z), -jnp.inf))
    return turned, jnp.where(w < 0, -w, w), sign


def log_mean(z: Array, w: Array, counted: Array, classes: ClassAxis) -> tuple[Array, Array]:
    """Return L = log mean e^x, kept as a size-1 axis, and x = w (z − max z), for 0 ≤ w < ∞.

    `counted` is 1 for classes in the mean, and 0 for the rest, where x = 0.
    """
    finite = float(jnp.finfo(z.dtype).max) / 4
    v = jnp.where(counted > 0, difference(z, classes.max(z)), 0)
    x = jnp.maximum(jnp.maximum(v, -finite) * w, -finite)
    n = jnp.maximum(classes.sum(counted), 1)
    mean, shortfall = (classes.sum(counted * f(x)) / n for f in (jnp.exp, jnp.expm1))
    # Near 1 the mean of e^x has lost digits that the mean of e^x − 1 keeps.
    near = mean > 0.5
    from_one = jnp.log1p(jnp.where(near, shortfall, 0))
    return jnp.where(near, from_one, jnp.log(jnp.where(near | (mean == 0), 1, mean))), x


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _excess(z: Array, w: Array, counted: Array, classes: ClassAxis) -> Array:
    """Return mm_w(z) − max z for w ≥ 0, kept as a size-1 axis, with the derivative of mm_w(z)."""
    top = classes.max(z)
    logarithm, x = log_mean(z, jnp.where(w == jnp.inf, 1, w), counted, classes)
    # Where w is so small that e^x rounds to 1 + x, mellowmax is the mean.
    linear = classes.max(-x) < float(jnp.finfo(z.dtype).eps) / 4
    n = jnp.maximum(classes.sum(counted), 1)
    bounded = jnp.isfinite(top)
    below = jnp.where((counted > 0) & bounded, z / n - jnp.where(bounded, top, 0) / n, 0)
    value = jnp.where(linear, classes.sum(below), logarithm / jnp.where(linear, 1, w))
    return jnp.where(bounded & (w < jnp.inf), value, 0)


@partial(_excess.defjvp, symbolic_zeros=True)
def _excess_jvp(classes, primals, tangents):
    # ∂/∂z_i = e^y_i / n for y = w (z − mm). ∂/∂w = (⟨p, z⟩ − mm)/w is, by Σ e^y = n,
    # mean (y e^y − e^y + 1)/w²: no term is negative, and at w = 0 it is half of the variance.
    z, w, counted = primals
    d_z, d_w, _ = tangents
    value = _excess(z, w, counted, classes)
    top = classes.max(z)
    n = jnp.maximum(classes.sum(counted), 1)
    logarithm, x = log_mean(z, jnp.where(w == jnp.inf, 1, w), counted, classes)
    y = x - logarithm
    tangent = jnp.zeros_like(value)
    if not isinstance(d_z, SymbolicZero):
        ties = jnp.where(z == top, counted, 0)
        hard = ties / jnp.maximum(classes.sum(ties), 1)
        p = jnp.where(w == jnp.inf, hard, counted * jnp.exp(y) / n)
        tangent = tangent + classes.sum(jnp.where(z > -jnp.inf, p, 0) * d_z)
    if not isinstance(d_w, SymbolicZero):
        near = jnp.abs(y) < 1
        distance = jnp.where(near & (counted > 0), difference(z, top) - value, 0)
        inner = distance * distance * second_order(jnp.where(near, y, 0))
        far = jnp.where(near, 1, y)
        outer = (far * jnp.exp(far) - jnp.expm1(far)) / (w * w + (w == 0))
        along_w = classes.sum(counted * jnp.where(near, inner, outer)) / n
        tangent = tangent + jnp.where(jnp.isfinite(top) & (w < jnp.inf), along_w, 0) * d_w
    return value, tangent
