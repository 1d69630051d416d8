"""Log-densities of relaxed samples and of their logarithms."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import log_probabilities
from jsoftmax.sampling._draw import check_temperature, without_negative


def concrete_log_prob(
    sample: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the log-density of the concrete distribution, sampled by `gumbel_softmax`.

    .. math:: p(x) = (n-1)!\; T^{n-1} \prod_i \frac{e^{z_i} x_i^{-T-1}}{\sum_j e^{z_j} x_j^{-T}}

    on the simplex of the n classes, with respect to the volume of any n − 1 of the x_i. It is not a
    probability, and may exceed 1. At small T samples underflow to the border, where the density is
    0 or infinite; use `exp_concrete_log_prob` of a `gumbel_log_softmax` there.

    Args:
        sample: x of shape [..., K, ...], positive, summing to 1 along `axis`. An x below the
            smallest normal number is replaced by that number.
        logits: scores z that broadcast to the shape of `sample`. Classes of −∞ do not count among
            the n; where x is above 0 there, the density is 0.
        temperature: T > 0, a number or an array with size 1 along `axis`.
        axis: the class axis or axes of `sample`.
        where: boolean mask that broadcasts to `sample`: only these classes exist.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        log p(x), one number a row, in float32 at least; 0 in a fully masked row.

    Raises:
        TypeError: if `sample` or `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or
            `temperature` is not above 0. A traced T that is not gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> print(concrete_log_prob(jnp.array([0.2, 0.3, 0.5]), jnp.zeros(3), 1.0))
        0.7001

    Reference:
        C. J. Maddison, A. Mnih and Y. W. Teh, "The concrete distribution", 2016.
    """
    name = "concrete_log_prob"
    ask, x, exists = _asked(name, "sample", sample, logits, temperature, axis, where, axis_name)
    tiny = float(jnp.finfo(x.dtype).tiny)
    log_x = jnp.log(jnp.maximum(jnp.where(exists, x, 1), tiny))
    log_density = _log_density(ask, log_x, exists) - ask.classes.sum(log_x)
    return ask.squeezed(_settled(ask, log_density, ~exists & (x > 0)))


def exp_concrete_log_prob(
    log_sample: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the log-density of the logarithm of a concrete sample, from `gumbel_log_softmax`.

    .. math:: p(y) = (n-1)!\; T^{n-1} \prod_i \frac{e^{z_i - T y_i}}{\sum_j e^{z_j - T y_j}}

    on the surface Σ exp y = 1, with respect to the volume of the corresponding n − 1 of the y_i
    that `concrete_log_prob` has in the x_i, times Π x_i. Ratios of densities, as in a KL
    divergence, are the same for x and y = log x; these do not underflow.

    Args:
        log_sample: y of shape [..., K, ...], with Σ exp y = 1 along `axis`.
        logits: scores z that broadcast to the shape of `log_sample`. Classes of −∞ do not count
            among the n; where y is above −∞ there, the density is 0.
        temperature: T > 0, a number or an array with size 1 along `axis`.
        axis: the class axis or axes of `log_sample`.
        where: boolean mask that broadcasts to `log_sample`: only these classes exist.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        log p(y), one number a row, in float32 at least; 0 in a fully masked row.

    Raises:
        TypeError: if `log_sample` or `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or
            `temperature` is not above 0. A traced T that is not gives NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsoftmax import gumbel_log_softmax
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> y = gumbel_log_softmax(jax.random.key(0), z, temperature=0.01)
        >>> print(exp_concrete_log_prob(y, z, 0.01) - exp_concrete_log_prob(y, -z, 0.01))
        5.3856

    Reference:
        C. J. Maddison, A. Mnih and Y. W. Teh, "The concrete distribution", 2016, appendix C.3.
    """
    name = "exp_concrete_log_prob"
    ask, y, exists = _asked(
        name, "log_sample", log_sample, logits, temperature, axis, where, axis_name
    )
    log_density = _log_density(ask, jnp.where(exists, y, 0), exists)
    return ask.squeezed(_settled(ask, log_density, ~exists & (y > -jnp.inf)))


def _asked(
    name, called, sample, logits, temperature, axis, where, axis_name
) -> tuple[Problem, Array, Array]:
    """Return the problem in the shape of the sample, the sample, and a mask of drawable classes."""
    check_temperature(name, "temperature", temperature, zero=False)
    sample = checks.as_array(name, called, sample)
    logits = checks.as_array(name, "logits", logits)
    logits = checks.aligned(name, "logits", logits, sample.shape, called)
    dtype = jnp.promote_types(checks.compute_dtype(sample), checks.compute_dtype(logits))
    logits = jnp.broadcast_to(logits.astype(dtype), sample.shape)
    ask = problem(name, logits, axis, where, temperature=temperature, axis_name=axis_name)
    t = without_negative(ask.temperature, ask.sign)
    if t is not None:
        t = jnp.where(t == 0, jnp.nan, t)
    z = difference(ask.z, ask.classes.max(ask.z))
    ask = dataclasses.replace(ask, z=z, temperature=t)
    return ask, sample.astype(dtype), ask.z != -jnp.inf


def _log_density(ask: Problem, y: Array, exists: Array) -> Array:
    """Return the log-density of y, kept as a size-1 axis."""
    classes = ask.classes
    n = jnp.maximum(classes.sum(exists.astype(y.dtype)), 1)
    t = jnp.ones((), y.dtype) if ask.temperature is None else ask.temperature
    scores = jnp.where(exists, ask.z - t * y, -jnp.inf)
    log_share = log_probabilities(scores, None, ask.regularizer, classes)
    constant = jax.lax.lgamma(n) + (n - 1) * jnp.log(t)
    return constant + classes.sum(jnp.where(exists, log_share, 0))


def _settled(ask: Problem, log_density: Array, impossible: Array) -> Array:
    """Return the log-density, −∞ where a class has impossible mass; masked entries are ignored."""
    impossible = ask.unmasked(impossible, False)
    some = ask.classes.sum(impossible.astype(log_density.dtype)) > 0
    return jnp.where(some, -jnp.inf, log_density)
