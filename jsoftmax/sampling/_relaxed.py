"""Relaxed samples: a mapping of scores with Gumbel noise, differentiable in the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core.regularizers import of_order
from jsoftmax.sampling._draw import draw, one_hot_max


def gumbel_softmax(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw from the concrete distribution, the relaxation of a one-hot sample of softmax.

    .. math:: x = \mathrm{softmax}\big((z + G)/T\big), \qquad G_i \text{ standard Gumbel noise}

    Its arg max is a sample of :math:`\mathrm{softmax}(z)` at every T. As T falls, x approaches a
    one-hot vector, and its gradient, unbiased for the relaxed problem, grows in variance: anneal T
    with a schedule of optax. For a one-hot value with this gradient use `straight_through_gumbel`;
    for log x, which does not underflow, `gumbel_log_softmax`; for a sparse x, `gumbel_entmax`.

    Args:
        key: one key of `jax.random`. The same key draws the same classes in every function of
            jsoftmax that samples.
        logits: scores z of shape [..., K, ...], any real dtype. Classes of −∞ are never drawn;
            where there are scores of +∞, one of them is.
        temperature: T ≥ 0, a number or an array with size 1 along `axis`. At T = 0 the sample is
            exactly one-hot, without gradient: the Gumbel-max sample of the same key.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`. Classes where it is False are never drawn
            and have gradient 0.
        axis_name: name of the mesh or `vmap` axis that splits the class axis. Give all parts the
            same key; together they draw the sample of the whole row. Where *rows* are split in
            `shard_map`, fold the device number into the key.

    Returns:
        x of the shape and dtype of `logits` (the default float dtype for integers), summing to 1
        along `axis`. Noise is drawn in float32 at least.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or `temperature` is below 0. A traced T below 0 gives NaN.

    Example:
        The schedule of the paper, max(0.5, e^(−rt)) with r = 1e-4, renewed every 1000 steps:

        >>> import jax, jax.numpy as jnp, math, optax
        >>> annealed = optax.exponential_decay(
        ...     1.0, 1000, math.exp(-1e-4 * 1000), staircase=True, end_value=0.5
        ... )
        >>> z = jnp.array([0.0, 1.0, 2.0, -jnp.inf])
        >>> for step in (0, 2500, 100_000):
        ...     print(gumbel_softmax(jax.random.key(0), z, annealed(step)).round(3))
        [0.013 0.316 0.671 0.   ]
        [0.006 0.283 0.711 0.   ]
        [0.    0.181 0.818 0.   ]

    Reference:
        E. Jang, S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", 2016;
        C. J. Maddison, A. Mnih and Y. W. Teh, "The concrete distribution", 2016.
    """
    drawn = draw("gumbel_softmax", key, logits, temperature, axis, where, axis_name)
    return drawn.returned(drawn.soft(drawn.scores))


def gumbel_log_softmax(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Return the logarithm of `gumbel_softmax` of a key, accurate where that underflows to 0.

    Its density is `exp_concrete_log_prob`.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0, a number or an array with size 1 along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        log x of the shape and dtype of `logits` (of float32 for formats without infinity); −∞ at
        classes that are masked or have a score of −∞.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or `temperature` is below 0. A traced T below 0 gives NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> print(gumbel_log_softmax(jax.random.key(0), z, temperature=0.01))
        [-396.9577  -75.3252    0.    ]

    Reference:
        C. J. Maddison, A. Mnih and Y. W. Teh, "The concrete distribution", 2016, appendix C.3.
    """
    drawn = draw("gumbel_log_softmax", key, logits, temperature, axis, where, axis_name)
    ask = dataclasses.replace(drawn.ask, z=drawn.scores)
    log_x = ask.log_probabilities()
    if ask.temperature is not None:
        winner = one_hot_max(ask.z, ask.classes)
        at_zero = jnp.where(winner > 0, 0, jnp.where(winner == 0, -jnp.inf, winner))
        log_x = jnp.where(ask.temperature == 0, at_zero, log_x)
    return log_x.astype(ask.log_dtype)


def gumbel_entmax(
    key: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] = -1,
    *,
    alpha: ArrayLike = 1.5,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw relaxed samples of softmax that can be sparse: `gumbel_softmax` with entmax of any α.

    .. math:: x = \mathrm{entmax}_α\big((z + G)/T\big)

    The arg max is a sample of :math:`\mathrm{softmax}(z)` for every α; for α > 1 most x have few
    classes, and are exactly one-hot with positive probability. α = 1 is `gumbel_softmax`, α = 2
    Gumbel-sparsemax, α = ∞ the one-hot Gumbel-max sample.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        temperature: T ≥ 0, a number or an array with size 1 along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        alpha: α > 0, a number or an array with size 1 along `axis`.
        where: boolean mask that broadcasts to `logits`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        x of the shape and dtype of `logits` (the default float dtype for integers), summing to 1
        along `axis`.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, `temperature` is below 0, or `alpha` is a number that is not positive.
            Traced values out of range give NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> for seed in range(3):
        ...     print(gumbel_entmax(jax.random.key(seed), z, 2.0, alpha=2.0))
        [0.         0.3117 0.6883]
        [0.         0.7126  0.2874]
        [0. 0. 1.]

    Reference:
        B. Peters, V. Niculae and A. F. T. Martins, "Sparse sequence-to-sequence models", ACL 2019,
        for the mapping.
    """
    drawn = draw(
        "gumbel_entmax", key, logits, temperature, axis, where, axis_name,
        regularizer=of_order("gumbel_entmax", alpha),
    )  # fmt: skip
    return drawn.returned(drawn.soft(drawn.scores))
