"""ReinMax of several samples, each with the others as control variates."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.sampling._corrected import softmax_of
from jsoftmax.sampling._draw import draw
from jsoftmax.sampling._noise import gumbel_like
from jsoftmax.sampling._straight_through import straight_through


def reinmax_cv(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    samples: int = 2,
    weight: ArrayLike = 0.25,
    axis_name: Hashable | None = None,
) -> Float[Array, "S ..."]:
    r"""Draw samples with the derivative of `reinmax` and each other as control variates.

    .. math:: D_s \sim p = \mathrm{softmax}(z), \qquad
              ∂D_s := M_s\,∂z + \frac{c}{S-1} \sum_{t \ne s} (\bar M - M_t)\,∂z, \qquad
              \bar M = \mathrm{E}\,M_t

    where M_s ∂z is the derivative of `reinmax` at D_s. With q = softmax(z/T) the mean M̄ is
    J(q) + (p − q)(p − q)ᵀ/2, which is J(p) at T = 1. The gradient of a mean (1/S) Σ f(D_s) has the
    expectation of `reinmax`, since the added terms have mean 0 and do not depend on D_s. In other
    words, the baseline of each sample is the mean of ∇f at the others. For a linear f and c = 1 the
    variance is 0. The more ∇f changes from class to class, the smaller is the best c; a larger c
    adds variance.

    For a single sample this is impossible. Given D, the derivative of `reinmax` is constant, and
    any other factor of ∇f(D) that keeps the mean for all f has that constant as its mean given D:
    its variance is at least as large. `reinmax_rao`, and the ReinMax-CV of Wang and Bui, which adds
    Gumbel-softmax at two noises, change the mean instead.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0, a number or an array with size 1 along `axis`. The samples do not
            depend on it, and the derivative is of second order at T = 1 only.
        axis: the class axis of `logits`, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`.
        samples: S ≥ 2, how many samples to draw; static.
        weight: c, one finite number, not differentiated. 0 gives `reinmax` of S samples.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        S independent one-hot samples, along a new first axis, of the dtype of `logits` (the default
        float dtype for integers); zeros in a fully masked row. They have a first derivative,
        with respect to `logits` only.

    Raises:
        TypeError: if `key` is not a key, `logits` or `weight` are not real numbers, `where` is not
            boolean or `samples` not an int.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, `temperature` is below 0, `samples` below 2, or `weight` an array or
            not finite. A traced T below 0 gives a NaN derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z, weights = jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 2.0, 4.0])
        >>> def cost(z):
        ...     x = reinmax_cv(jax.random.key(0), z, samples=4, weight=1.0)
        ...     return jax.vmap(lambda x: x @ weights)(x).mean()
        >>> print(jax.jit(jax.grad(cost))(z))
        [-0.2017 -0.3036  0.5053 ]

        For a linear function and weight 1 it is exact:

        >>> print(jax.grad(lambda z: jax.nn.softmax(z) @ weights)(z))
        [-0.2017 -0.3036  0.5053 ]
    """
    name = "reinmax_cv"
    checks.whole_number(name, "samples", samples, least=2)
    c = _one_number(name, "weight", weight)
    drawn = draw(name, key, logits, temperature, axis, where, axis_name)
    ask, z, classes = drawn.ask, drawn.movable, drawn.ask.classes
    p, q = jax.lax.stop_gradient((softmax_of(drawn)[0], drawn.soft(ask.z)))

    def sample(key: Array) -> Array:
        noise = gumbel_like(key, ask.z, classes)
        return dataclasses.replace(drawn, noise=noise).hard()

    def rotated(p: Array) -> Array:
        """Return J(p) z. Since p is constant, the derivative in z is J(p)."""
        return p * classes.deviation(p, z)

    hard = jax.vmap(sample)(jax.random.split(drawn.key, samples))
    own = 2 * jax.vmap(rotated)((hard + q) / 2) - rotated(p) / 2
    # M̄ = 2 E J((D + q)/2) − J(p)/2, which E DDᵀ = diag p turns into the formula above.
    mean = rotated(q) + (p - q) * classes.sum((p - q) * z) / 2
    others = (own.sum(0) - own) / (samples - 1)
    return drawn.returned(straight_through(hard, own + c.astype(own.dtype) * (mean - others)))


def _one_number(function: str, name: str, value: ArrayLike) -> Array:
    """Return a number for all rows, checked to be finite if it is known while tracing."""
    number = checks.as_array(function, name, value)
    if number.ndim:
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {number.shape}; give one number for all rows."
        )
    known = checks.known_values(value)
    if known is not None and not np.isfinite(known):
        raise ValueError(f"jsoftmax.{function}: `{name}` must be finite, got {value!r}.")
    return jax.lax.stop_gradient(number)
