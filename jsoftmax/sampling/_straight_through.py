"""Samples that are one-hot in value and relaxed in their derivative."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.sampling._draw import check_temperature, draw, without_negative


def straight_through(hard: ArrayLike, soft: ArrayLike) -> Float[Array, "..."]:
    """Return the value of `hard` with the derivative of `soft`.

    For any step function and its surrogate in the backward pass: a one-hot arg max and a mapping, a
    k-hot one and `topk_entmax`, a rounded number and the number. The value equals `hard` bit for
    bit, unlike soft + stop_gradient(hard − soft); derivatives of all orders are those of `soft`.

    Args:
        hard: the value, of any shape. Nothing is differentiated with respect to it.
        soft: the differentiated surrogate, of the shape of `hard` and a floating dtype.

    Returns:
        `hard` in the dtype of `soft`.

    Raises:
        TypeError: if `soft` is not floating, or `hard` not real.
        ValueError: if the shapes differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsoftmax import hardmax, sparsemax
        >>> def choose(z):
        ...     return straight_through(hardmax(z), sparsemax(z))
        >>> z = jnp.array([1.0, 0.5, -1.0])
        >>> print(choose(z), jax.grad(lambda z: choose(z)[0])(z))
        [1. 0. 0.] [ 0.5 -0.5  0. ]

    Reference:
        Y. Bengio, N. Léonard and A. Courville, "Estimating or propagating gradients through
        stochastic neurons for conditional computation", 2013.
    """
    hard = checks.as_array("straight_through", "hard", hard)
    soft = checks.as_array("straight_through", "soft", soft)
    if not jnp.issubdtype(soft.dtype, jnp.floating):
        raise TypeError(
            f"jsoftmax.straight_through: `soft` has dtype {soft.dtype}, which has no derivative; "
            "give it floats."
        )
    if hard.shape != soft.shape:
        raise ValueError(
            f"jsoftmax.straight_through: `hard` has shape {hard.shape} and `soft` {soft.shape}; "
            "give both the same shape."
        )
    return _value_of_one(hard.astype(soft.dtype), soft)


@jax.custom_jvp
def _value_of_one(hard: Array, soft: Array) -> Array:
    return hard


@_value_of_one.defjvp
def _value_of_one_jvp(primals, tangents):
    return _value_of_one(*primals), tangents[1]


def straight_through_categorical(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw a one-hot sample of softmax, differentiated as if it were the probabilities.

    .. math:: D \sim \mathrm{softmax}(z), \qquad ∂D := ∂\,\mathrm{softmax}(z/T)

    The plain straight-through estimator. The derivative does not depend on the drawn class, so it
    has little variance. It is of first order: exact at T = 1 for a linear function of D. `reinmax`
    corrects it to second order.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0 of the derivative, a number or an array with size 1 along `axis`. The
            sample does not depend on it. At T = 0 the derivative is 0.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`. Classes where it is False are never drawn
            and have gradient 0.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A one-hot sample of the shape and dtype of `logits` (the default float dtype for integers);
        zeros in a fully masked row.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or `temperature` is below 0. A traced T below 0 gives a NaN derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> sample = lambda z: straight_through_categorical(jax.random.key(0), z)
        >>> print(sample(z), jax.grad(lambda z: sample(z)[0])(z))
        [0. 0. 1.] [ 0.0819 -0.0220 -0.0599]

    Reference:
        Y. Bengio, N. Léonard and A. Courville, "Estimating or propagating gradients through
        stochastic neurons for conditional computation", 2013.
    """
    name = "straight_through_categorical"
    drawn = draw(name, key, logits, temperature, axis, where, axis_name)
    return drawn.returned(straight_through(drawn.hard(), drawn.soft(drawn.ask.z)))


def decoupled_straight_through(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    forward_temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw a one-hot sample at one temperature, with the derivative of softmax at another.

    .. math:: D \sim \mathrm{softmax}(z/T_f), \qquad ∂D := ∂\,\mathrm{softmax}(z/T)

    T_f sets the exploration, T the spread of gradients over classes; their best values need not be
    near one another. T_f = 1 is `straight_through_categorical`.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0 of the derivative, a number or an array with size 1 along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`.
        forward_temperature: T_f ≥ 0 of the sample, a number or an array with size 1 along `axis`.
            T_f = 0 takes the largest score, a random one of them if several are equal.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A one-hot sample of the shape and dtype of `logits` (the default float dtype for integers);
        zeros in a fully masked row.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or a temperature is below 0. Traced ones below 0 give NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> print(decoupled_straight_through(jax.random.key(0), z, forward_temperature=0.0))
        [0. 0. 1.]

    Reference:
        R. Shah, M. Yan, M. C. Mozer and D. Liu, "Improving discrete optimisation via decoupled
        straight-through estimator", 2024.
    """
    name = "decoupled_straight_through"
    check_temperature(name, "forward_temperature", forward_temperature)
    drawn = draw(name, key, logits, temperature, axis, where, axis_name)
    ask = drawn.ask
    forward = checks.as_array(name, "forward_temperature", forward_temperature)
    forward = checks.per_row(name, "forward_temperature", forward, ask.z, ask.classes, ask.z.dtype)
    sign = jnp.where(forward < 0, jnp.asarray(-1, forward.dtype), jnp.asarray(1, forward.dtype))
    hard = drawn.hard(without_negative(forward, sign))
    return drawn.returned(straight_through(hard, drawn.soft(ask.z)))


def straight_through_gumbel(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw a one-hot sample of softmax, differentiated as `gumbel_softmax` of the same noise.

    .. math:: D = \mathrm{onehot}\arg\max(z + G), \qquad ∂D := ∂\,\mathrm{softmax}((z + G)/T)

    At small T its bias is small and its variance large. `gumbel_rao` lowers the variance.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0 of the derivative, a number or an array with size 1 along `axis`. The
            sample does not depend on it. At T = 0 the derivative is 0.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`. Classes where it is False are never drawn
            and have gradient 0.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A one-hot sample of the shape and dtype of `logits` (the default float dtype for integers);
        zeros in a fully masked row.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or `temperature` is below 0. A traced T below 0 gives a NaN derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> sample = lambda z: straight_through_gumbel(jax.random.key(0), z, temperature=0.5)
        >>> print(sample(z), jax.grad(lambda z: sample(z)[0])(z))
        [0. 0. 1.] [ 0.0006 -0.0001 -0.0005]

    Reference:
        E. Jang, S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", 2016.
    """
    drawn = draw("straight_through_gumbel", key, logits, temperature, axis, where, axis_name)
    return drawn.returned(straight_through(drawn.hard(), drawn.soft(drawn.scores)))
