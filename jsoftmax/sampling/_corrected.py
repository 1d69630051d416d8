"""Straight-through estimators with less variance or less bias."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.sampling._draw import Draw, draw
from jsoftmax.sampling._noise import another_key, gumbel_like
from jsoftmax.sampling._straight_through import straight_through


def gumbel_rao(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    samples: int = 10,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw a `straight_through_gumbel` sample with its derivative averaged over the noise.

    .. math:: D = \mathrm{onehot}\arg\max(z + G), \qquad
              ∂D := \frac1S \sum_{s=1}^S ∂\,\mathrm{softmax}((z + G_s)/T), \quad G_s \sim G \mid D

    The expectation, and so the bias, is that of `straight_through_gumbel`. The variance is never
    larger (Rao and Blackwell), and the function of D is still evaluated once.

    Args:
        key: one key of `jax.random`. It draws the sample that `straight_through_gumbel` draws.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0 of the derivative, a number or an array with size 1 along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`.
        samples: S ≥ 1, how many conditional samples to average; static. Memory grows with it.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A one-hot sample of the shape and dtype of `logits` (the default float dtype for integers);
        zeros in a fully masked row.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers, `where` is not boolean or
            `samples` not an int.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, `temperature` is below 0 or `samples` below 1. A traced T below 0 gives
            a NaN derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> sample = jax.jit(lambda z: gumbel_rao(jax.random.key(0), z, 0.5, samples=100))
        >>> print(sample(z), jax.grad(lambda z: sample(z)[0])(z))
        [0. 0. 1.] [ 0.0667 -0.0082 -0.0585]

    Reference:
        M. B. Paulus, C. J. Maddison and A. Krause, "Rao-Blackwellizing the straight-through
        Gumbel-softmax gradient estimator", 2020.
    """
    checks.whole_number("gumbel_rao", "samples", samples)
    drawn = draw("gumbel_rao", key, logits, temperature, axis, where, axis_name)
    hard, z = drawn.hard(), drawn.movable

    def relaxed(key: Array) -> Array:
        # The noise is a constant to the derivative, though its distribution depends on z.
        scores = jax.lax.stop_gradient(_scores_given(hard, drawn, drawn.ask.z, key) - z) + z
        return drawn.soft(scores)

    keys = jax.random.split(another_key(drawn.key), samples)
    return drawn.returned(straight_through(hard, jax.vmap(relaxed)(keys).mean(0)))


def _scores_given(hard: Array, drawn: Draw, z: Array, key: Array) -> Array:
    """Return scores with noise, z + G, given that the largest is where `hard` is 1."""
    # With E = e^(−G) exponential, the largest of all is −log E + log Z, at whichever class. The
    # others are below it: e^(−y_j) = E_j e^(−z_j) + e^(−largest).
    classes = drawn.ask.classes
    noise = gumbel_like(key, z, classes)
    total = classes.sum(jnp.exp(z))
    log_total = jnp.log(jnp.where(total == 0, 1, total))
    largest = classes.sum(jnp.where(hard > 0, noise, 0)) + log_total
    return jnp.where(hard > 0, largest, -jnp.logaddexp(-noise - z, -largest))


def reinmax(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw a one-hot sample of softmax with a derivative of second-order accuracy.

    .. math:: D \sim p = \mathrm{softmax}(z), \qquad
              ∂D := 2\,J\!\left(\tfrac{D + \mathrm{softmax}(z/T)}2\right) ∂z - \tfrac12\,J(p)\,∂z,
              \qquad J(p) = \mathrm{diag}(p) - p p^⊤

    The mean of the gradient is exact at T = 1 for every quadratic function of D, by Heun's rule;
    `straight_through_categorical` is Euler's, exact for linear ones. It evaluates the function
    once and needs no second derivative. `reinmax_rao` has less variance at some bias; `reinmax_cv`
    has less variance at the same mean, for several samples.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0, a number or an array with size 1 along `axis`. The sample does not
            depend on it, and the derivative is of second order at T = 1 only.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A one-hot sample of the shape and dtype of `logits` (the default float dtype for integers);
        zeros in a fully masked row. It has a first derivative, with respect to `logits` only.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or `temperature` is below 0. A traced T below 0 gives a NaN derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> sample = jax.jit(lambda z: reinmax(jax.random.key(0), z))
        >>> print(sample(z), jax.grad(lambda z: sample(z)[0])(z).round(4))
        [0. 0. 1.] [ 0.045  0.    -0.045]

    Reference:
        L. Liu, C. Dong, X. Liu, B. Yu and J. Gao, "Bridging discrete and backpropagation:
        straight-through and beyond", 2023, algorithm 2.
    """
    drawn = draw("reinmax", key, logits, temperature, axis, where, axis_name)
    ask, z = drawn.ask, drawn.movable
    hard = drawn.hard()
    p, tempered = jax.lax.stop_gradient((softmax_of(drawn)[0], drawn.soft(ask.z)))
    middle = (hard + tempered) / 2

    def rotated(p: Array) -> Array:
        """Return J(p) z. Since p is constant, the derivative in z is J(p)."""
        return p * ask.classes.deviation(p, z)

    return drawn.returned(straight_through(hard, 2 * rotated(middle) - rotated(p) / 2))


def reinmax_rao(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    samples: int = 10,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw a `reinmax` sample with its larger term averaged over Gumbel-softmax derivatives.

    .. math:: D \sim p = \mathrm{softmax}(z), \qquad
              ∂D := \frac2S \sum_{s=1}^S ∂\,\mathrm{softmax}((θ + G_s)/T) - \tfrac12\,J(p)\,∂z,
              \quad θ = \log\tfrac{D + p}2, \quad G_s \sim G \mid \arg\max(θ + G) = D

    where the derivative of the softmax is taken as if ∂θ were ∂z. `reinmax` has J((D + p)/2) in
    place of the average. Given D that is constant, so conditioning on D cannot lower its variance;
    here it changes the estimator. The mean is no longer exact for quadratic functions of D: the
    lower variance costs bias, and T sets the trade-off. A larger S lowers the variance, and the
    mean is the same for every S.

    It follows the public code that accompanies the paper: (D + p)/2 uses p at temperature 1, and
    the derivative has the factor 1/T. `reinmax_cv` lowers the variance and keeps the mean.

    Args:
        key: one key of `jax.random`. It draws the sample that `reinmax` draws.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0 of the derivative, a number or an array with size 1 along `axis`. The
            sample does not depend on it.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`.
        samples: S ≥ 1, how many conditional samples to average; static. Memory grows with it.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A one-hot sample of the shape and dtype of `logits` (the default float dtype for integers);
        zeros in a fully masked row. It has a first derivative, with respect to `logits` only.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers, `where` is not boolean or
            `samples` not an int.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, `temperature` is below 0 or `samples` below 1. A traced T below 0 gives
            a NaN derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> sample = jax.jit(lambda z: reinmax_rao(jax.random.key(0), z, samples=100))
        >>> print(sample(z), jax.grad(lambda z: sample(z)[0])(z).round(4))
        [0. 0. 1.] [ 0.0727 -0.0071 -0.0657]

    Reference:
        D. Wang and T. D. Bui, "Beyond ReinMax: low-variance gradient estimators for discrete latent
        variables", 2026.
    """
    checks.whole_number("reinmax_rao", "samples", samples)
    drawn = draw("reinmax_rao", key, logits, temperature, axis, where, axis_name)
    ask, z = drawn.ask, drawn.movable
    hard = drawn.hard()
    p, total = jax.lax.stop_gradient(softmax_of(drawn))
    # log(p/2) where another class was drawn, also for a p that underflows.
    shifted = jnp.where(hard > 0, jnp.log((1 + p) / 2), ask.z - jnp.log(2 * total))

    def relaxed(key: Array) -> Array:
        scores = jax.lax.stop_gradient(_scores_given(hard, drawn, shifted, key) - z) + z
        return drawn.soft(scores)

    keys = jax.random.split(another_key(drawn.key), samples)
    mean = jax.vmap(relaxed)(keys).mean(0)
    rotated = p * ask.classes.deviation(p, z)
    return drawn.returned(straight_through(hard, 2 * mean - rotated / 2))


def softmax_of(drawn: Draw) -> tuple[Array, Array]:
    """Return softmax(z) at temperature 1, of scores measured from the largest, and Σ exp z > 0."""
    exponentials = jnp.exp(drawn.ask.z)
    total = drawn.ask.classes.sum(exponentials)
    total = jnp.where(total == 0, 1, total)
    return exponentials / total, total
