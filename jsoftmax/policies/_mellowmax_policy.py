"""The mellowmax policy: a softmax with a temperature that depends on the values."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._floats import least_float
from jsoftmax.core._scores import difference
from jsoftmax.core._threshold import filled
from jsoftmax.policies._mellowmax import log_mean, read


def mellowmax_temperature(
    values: ArrayLike,
    omega: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Return the temperature that makes the expected value under `softmax` equal `mellowmax`.

    .. math:: \sum_i p_i x_i = \mathrm{mm}_ω(x) \quad\text{for}\quad
              p = \mathrm{softmax}(x/T),\; T = 1/β

    Of all policies with the mellowmax as their expected value, this softmax has the largest
    entropy. Since mellowmax is the average of such expected values over the inverse temperatures
    from 0 to ω, there is exactly one root β, and it lies between 0 and ω; for values close together
    it is ω/2. The wider they spread, the hotter the policy.

    Args:
        values: x of shape [..., K, ...].
        omega: ω, a number or an array with size 1 along `axis`, of either sign, differentiable.
            ω < 0 favours the lowest values: −∞ is the minimum; exclude actions by `where`.
        axis: the action axis or axes.
        where: boolean mask that broadcasts to `values`: only these actions take part.
        axis_name: name of the mesh or `vmap` axis that splits the actions.

    Returns:
        T in float32 at least, of the shape of `values` with size 1 along `axis`, as `temperature`
        of `softmax` takes it; of the sign of ω, ∞ at ω = 0 and 0 at ω = ±∞. Relative to the spread
        of ωx, T is accurate to a few eps; the policy always is.

    Raises:
        TypeError: if `values` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range or there are no actions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsoftmax import mellowmax, softmax
        >>> x = jnp.array([1.0, 2.0, 6.0])
        >>> p = softmax(x, temperature=mellowmax_temperature(x, 1.0))
        >>> print(p, (p * x).sum(), mellowmax(x, 1.0))
        [0.0974 0.1467 0.7559 ] 4.9261 4.9261

    Reference:
        K. Asadi and M. L. Littman, "An alternative softmax operator for reinforcement learning",
        ICML 2017.
    """
    ask, w, sign = read("mellowmax_temperature", values, omega, axis, where, axis_name)
    counted = ask.unmasked(jnp.ones_like(ask.z), 0)
    top = ask.classes.max(ask.z)
    beta = w * _fraction(ask.z, jnp.where(w == jnp.inf, 1, w), counted, ask.classes)
    t = jnp.where(beta == 0, jnp.inf, 1 / jnp.where(beta == 0, 1, beta))
    return jnp.where(top == top, sign * jnp.where(w == jnp.inf, 0, t), top)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _fraction(z: Array, w: Array, counted: Array, classes: ClassAxis) -> Array:
    """Return β/w from 0 to 1, the root r of Σ p x = L for p = softmax(r x), x = w (z − max z)."""
    return _solved(z, w, counted, classes)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=3, inline=True)
def _solved(z: Array, w: Array, counted: Array, classes: ClassAxis) -> Array:
    logarithm, x = log_mean(z, w, counted, classes)

    def enough(r):
        weight = counted * jnp.exp(r * x)
        return classes.sum(weight * x) >= logarithm * classes.sum(weight)

    zero, one = filled(logarithm, 0), filled(logarithm, 1)
    r = least_float(enough, zero, one, classes.anywhere)
    # For equal values any r is a root; and where one of them is infinite, any T is the limit.
    open_row = (classes.max(-x) > 0) & jnp.isfinite(classes.max(z))
    return jnp.where(open_row, r, 0.5)


@_fraction.defjvp
def _fraction_jvp(classes, primals, tangents):
    # L has the derivative Σ q ẋ with q = softmax(x). So Var ṙ = Σ (q − p − p r u) ẋ for
    # u = x − Σ p x and the variance of u under p. For close values q − p and p r u almost cancel,
    # so q − p is p (e^h − 1) with h = log(q/p).
    z, w, counted = primals
    d_z, d_w, _ = tangents
    r = _fraction(z, w, counted, classes)
    (logarithm, x), (cooler, _) = (log_mean(z, c * w, counted, classes) for c in (1, r))
    p = counted * jnp.exp(r * x - cooler) / jnp.maximum(classes.sum(counted), 1)
    u = x - classes.sum(p * x)
    variance = classes.sum(p * u * u)
    finite = (counted > 0) & (z > -jnp.inf)
    v = jnp.where(finite, difference(z, classes.max(z)), 0)
    d_x = w * d_z + jnp.where(jnp.isfinite(v), v, 0) * d_w
    weight = p * (jnp.expm1((1 - r) * x - (logarithm - cooler)) - r * u)
    pull = classes.sum(weight * d_x)
    moved = (variance > 0) & jnp.isfinite(classes.max(z))
    return r, jnp.where(moved, pull / jnp.where(moved, variance, 1), 0)
