"""The score-function estimator (REINFORCE) with a leave-one-out baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._simplex import log_probabilities
from jsoftmax.sampling._draw import draw, one_hot_max
from jsoftmax.sampling._noise import gumbel_like


def reinforce_leave_one_out(
    key: ArrayLike,
    logits: ArrayLike,
    fn: Callable[[Array], Any],
    samples: int = 2,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Average a function over one-hot samples, with an unbiased gradient for any function.

    .. math:: \bar f = \frac1S \sum_s f(D_s), \qquad
              ∂\bar f := \frac1S \sum_s \Big(f(D_s) - \frac1{S-1} \sum_{t \ne s} f(D_t)\Big)
              \,∂\log p(D_s) + \frac1S \sum_s (∂f)(D_s)

    Each sample has the mean of the others as its baseline, which costs nothing and leaves the
    gradient unbiased. `fn` need not be differentiable in its samples; its other inputs are
    differentiated as usual. The estimators that return one-hot samples instead differentiate `fn`,
    and evaluate it once, with less variance and some bias.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        fn: maps a one-hot sample of the shape of `logits` to numbers. If their shape is that of the
            rows, [...], each row has its own reward; if it is shorter, say () or [batch], a number
            is the reward of all rows along the remaining axes.
        samples: S ≥ 2, how many samples to draw; static. `fn` is mapped over them by `jax.vmap`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: boolean mask that broadcasts to `logits`.

    Returns:
        The mean of `fn` over the samples, in float32 at least.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers, `where` is not boolean or
            `samples` not an int.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, `samples` is below 2, or `fn` returns neither rows nor leading axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def cost(x):
        ...     return (x @ jnp.array([1.0, 2.0, 4.0]) - 3.0) ** 2
        >>> z, keys = jnp.array([0.0, 1.0, 2.0]), jax.random.split(jax.random.key(0), 1000)
        >>> estimate = jax.grad(reinforce_leave_one_out, argnums=1)
        >>> print(jax.jit(jax.vmap(lambda key: estimate(key, z, cost)))(keys).mean(0))
        [ 0.2400 -0.0570 -0.1830]

        The exact gradient is

        >>> print(jax.grad(lambda z: jax.nn.softmax(z) @ jax.vmap(cost)(jnp.eye(3)))(z))
        [ 0.2458  -0.0661 -0.1797]

    Reference:
        W. Kool, H. van Hoof and M. Welling, "Buy 4 REINFORCE samples, get a baseline for free!",
        2019.
    """
    name = "reinforce_leave_one_out"
    checks.whole_number(name, "samples", samples, least=2)
    drawn = draw(name, key, logits, 1.0, axis, where, None)
    ask, classes = drawn.ask, drawn.ask.classes
    log_p = log_probabilities(ask.z, None, ask.regularizer, classes)

    def sample(key: Array) -> tuple[Array, Array]:
        hard = one_hot_max(ask.z + gumbel_like(key, ask.z, classes), classes)
        return drawn.returned(hard), ask.squeezed(classes.take(log_p, hard > 0))

    one_hot, log_probs = jax.vmap(sample)(jax.random.split(drawn.key, samples))
    values = jnp.asarray(jax.vmap(fn)(one_hot))
    rows = log_probs.shape[1:]
    if values.shape[1:] != rows[: values.ndim - 1]:
        raise ValueError(
            f"jsoftmax.{name}: `fn` returns an array of shape {values.shape[1:]}; it must be the "
            f"shape of the rows of `logits`, {rows}, or of their leading axes."
        )
    values = values.astype(jnp.promote_types(values.dtype, log_probs.dtype))
    log_probs = log_probs.sum(range(values.ndim, log_probs.ndim)).astype(values.dtype)
    advantages = jax.lax.stop_gradient(values - values.mean(0, keepdims=True)) * (
        samples / (samples - 1)
    )
    score = (advantages * log_probs).mean(0)
    return values.mean(0) + (score - jax.lax.stop_gradient(score))
