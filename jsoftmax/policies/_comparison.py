"""Compare two policies: their divergence, and importance ratios of actions."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import problem
from jsoftmax.core.regularizers import SHANNON


def kl_divergence(
    p: ArrayLike,
    q: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Return the Kullback–Leibler divergence of q from p, safe where either is zero.

    .. math:: \mathrm{KL}(p ‖ q) = \sum_i p_i \log\frac{p_i}{q_i} - p_i + q_i ≥ 0

    The last two terms vanish in the sum, and make every single term non-negative, so that the
    divergence of two almost equal policies is not lost in rounding. A trust region uses
    KL(old ‖ new). If the new policy is the softmax of logits, `fenchel_young_loss(logits, old)` is
    the same number, and finite also where a new probability underflows.

    Args:
        p: probabilities of shape [..., K, ...], non-negative, summing to 1 along `axis`.
        q: probabilities that broadcast to `p`.
        axis: the class axis or axes.
        where: boolean mask that broadcasts to `p`: only these classes take part.
        keepdims: keep the class axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        One number a row, in float32 at least. +∞ where p has mass and q has none; the gradient
        leaves out its infinite terms, and is finite.

    Raises:
        TypeError: if `p` or `q` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> old, new = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.5, 0.25])
        >>> print(kl_divergence(old, new), kl_divergence(new, old))
        0.3465736 inf

    Reference:
        S. Kullback and R. A. Leibler, "On information and sufficiency", 1951.
    """
    q = checks.as_array("kl_divergence", "q", q)
    ask = problem("kl_divergence", p, axis, where, axis_name=axis_name, called="p")
    q = checks.aligned("kl_divergence", "q", q, ask.z.shape, "p")
    dtype = jnp.promote_types(ask.z.dtype, checks.compute_dtype(q))
    p, q = (ask.unmasked(x.astype(dtype), 0) for x in (ask.z, q))
    return ask.squeezed(_kl(p, jnp.broadcast_to(q, p.shape), ask.classes), keepdims)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _kl(p: Array, q: Array, classes: ClassAxis) -> Array:
    log_q = jnp.where(q > 0, jnp.log(jnp.where(q > 0, q, 1)), -jnp.inf)
    terms = SHANNON.divergence(p, q, jnp.where(q == q, log_q, q))
    return classes.sum(jnp.where((p > 0) & (q == 0), jnp.inf, terms))


@partial(_kl.defjvp, symbolic_zeros=True)
def _kl_jvp(classes, primals, tangents):
    (p, q), (d_p, d_q) = primals, tangents
    value = _kl(p, q, classes)
    tangent = jnp.zeros_like(value)
    some_p, some_q = jnp.where(p > 0, p, 1), jnp.where(q > 0, q, 1)
    if not isinstance(d_p, SymbolicZero):
        slope = jnp.where((p > 0) & (q > 0), jnp.log(some_p) - jnp.log(some_q), 0)
        tangent = tangent + classes.sum(slope * d_p)
    if not isinstance(d_q, SymbolicZero):
        slope = jnp.where(q > 0, (q - p) / some_q, 0)
        tangent = tangent + classes.sum(slope * d_q)
    return value, tangent


def importance_ratio(
    log_pi: ArrayLike, log_mu: ArrayLike, *, low: ArrayLike = 0.0, high: ArrayLike = jnp.inf
) -> Float[Array, "..."]:
    r"""Return the ratio of an action's probability under π to that under μ, which chose it.

    .. math:: ρ = \min(\max(π(a)/μ(a),\; \mathrm{low}),\; \mathrm{high})

    With `high` it is the truncated ratio of V-trace, with both bounds the clipped ratio of proximal
    policy optimisation. The bounds apply before the exponential: it does not overflow, and the
    gradient beyond them is 0, not NaN.

    Args:
        log_pi: log π(a) of any shape, as from `log_prob`.
        log_mu: log μ(a) of the same shape, or one that broadcasts with it.
        low: the least ratio, 0 ≤ low ≤ high, a number or an array that broadcasts.
        high: the largest ratio.

    Returns:
        Ratios, in float32 at least: 0 (or `low`) where π(a) = 0, whatever μ is; ∞ (or `high`) where
        μ(a) = 0 and π(a) > 0.

    Raises:
        TypeError: if an argument does not hold real numbers.
        ValueError: if shapes do not broadcast, or bounds that are numbers are not 0 ≤ low ≤ high.

    Example:
        >>> import jax.numpy as jnp
        >>> log_pi, log_mu = jnp.log(jnp.array([0.5, 0.1])), jnp.log(jnp.array([0.2, 0.4]))
        >>> print(importance_ratio(log_pi, log_mu))
        [2.5  0.25]
        >>> print(importance_ratio(log_pi, log_mu, low=0.8, high=1.2))
        [1.2 0.8]

    Reference:
        L. Espeholt et al., "IMPALA: Scalable distributed deep-RL with importance weighted
        actor-learner architectures", 2018; J. Schulman et al., "Proximal policy optimization
        algorithms", 2017.
    """
    for name, x in (("low", low), ("high", high)):
        checks.as_array("importance_ratio", name, x)
    bounds = [checks.static_number(x) for x in (low, high)]
    least, most = bounds[0] or 0.0, jnp.inf if bounds[1] is None else bounds[1]
    if not 0 <= least <= most:
        raise ValueError(
            f"jsoftmax.importance_ratio: the bounds must be 0 ≤ low ≤ high, got {low!r}, {high!r}."
        )
    log_ratio = _log_ratio("importance_ratio", log_pi, log_mu)
    floor, ceiling = (_log_bound(name, x, log_ratio) for name, x in (("low", low), ("high", high)))
    return jnp.exp(jnp.minimum(jnp.maximum(log_ratio, floor), ceiling))


def log_importance_ratio(log_pi: ArrayLike, log_mu: ArrayLike) -> Float[Array, "..."]:
    r"""Return the log of `importance_ratio`, :math:`\log π(a) - \log μ(a)`, with its limits.

    Ratios of whole trajectories are products: sum the logs over time, and take one exponential.

    Args:
        log_pi: log π(a) of any shape, as from `log_prob`.
        log_mu: log μ(a) of the same shape, or one that broadcasts with it.

    Returns:
        log ρ, in float32 at least: −∞ where π(a) = 0, whatever μ is; +∞ where μ(a) = 0 and
        π(a) > 0.

    Raises:
        TypeError: if an argument does not hold real numbers.
        ValueError: if shapes do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> log_pi, log_mu = jnp.array([-0.5, -jnp.inf]), jnp.array([-1.5, -jnp.inf])
        >>> print(log_importance_ratio(log_pi, log_mu))
        [  1. -inf]
    """
    return _log_ratio("log_importance_ratio", log_pi, log_mu)


def _log_ratio(function: str, log_pi: ArrayLike, log_mu: ArrayLike) -> Array:
    pi = checks.as_array(function, "log_pi", log_pi)
    mu = checks.as_array(function, "log_mu", log_mu)
    try:
        shape = jnp.broadcast_shapes(pi.shape, mu.shape)
    except ValueError:
        raise ValueError(
            f"jsoftmax.{function}: `log_pi` has shape {pi.shape} and `log_mu` {mu.shape}, which do "
            "not broadcast. Give one number for each action taken."
        ) from None
    dtype = jnp.promote_types(checks.compute_dtype(pi), checks.compute_dtype(mu))
    pi, mu = (
        jnp.broadcast_to(x.reshape((1,) * (len(shape) - x.ndim) + x.shape), shape).astype(dtype)
        for x in (pi, mu)
    )
    never = (pi == -jnp.inf) & (mu == mu)
    return jnp.where(never, -jnp.inf, jnp.where(never, 0, pi) - jnp.where(never, 0, mu))


def _log_bound(name: str, bound: ArrayLike, log_ratio: Array) -> Array:
    bound = checks.aligned(
        "importance_ratio", name, checks.as_array("importance_ratio", name, bound), log_ratio.shape,
        "log_pi",
    ).astype(log_ratio.dtype)  # fmt: skip
    return jnp.where(bound == 0, -jnp.inf, jnp.log(jnp.where(bound == 0, 1, bound)))
