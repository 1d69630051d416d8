"""Samples of k classes: ordered ones without replacement, and relaxed k-hot ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen
from jsoftmax.mappings import PartialLogSumExp
from jsoftmax.mappings._capped import mass, solve_capped
from jsoftmax.sampling._distribution import spread
from jsoftmax.sampling._draw import draw
from jsoftmax.sampling._shapes import sample_shape


class GumbelTopK(NamedTuple):
    """The result of `gumbel_topk`: classes in the order of their draws.

    Args:
        indices: class numbers, with k along the class axis; −1 where a row had no class left.
        log_prob: log-probability of the ordered draw, of the shape of the rows; −∞ where a row
            has fewer than k classes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> draw = gumbel_topk(jax.random.key(0), jnp.array([0.0, 1.0, 2.0]), k=2)
        >>> print(draw.indices, draw.log_prob)
        [2 1] -0.7209
    """

    indices: Int[Array, "..."]
    log_prob: Float[Array, "..."]


@on_explicit_axes(like="logits", axis="axis")
def gumbel_topk(
    key: ArrayLike,
    logits: ArrayLike,
    k: int,
    axis: int = -1,
    *,
    shape: tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
) -> GumbelTopK:
    r"""Draw k classes from softmax without replacement, in order, in one pass.

    .. math:: P(i_1, …, i_k) = \prod_{t=1}^k
              \frac{e^{z_{i_t}}}{\sum_{j \notin \{i_1, …, i_{t-1}\}} e^{z_j}}

    They are the k largest of z + G. The first is the arg max of `gumbel_softmax` of the same key;
    together they are the classes of `relaxed_topk` at T = 0. The log-probability is differentiable
    in the logits, for score-function estimators.

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype. Classes of −∞ are never drawn.
        k: how many, from 1 to K; static.
        axis: the class axis, one only.
        shape: the shape of `log_prob`, as in `categorical`: it ends in the shape of `logits`
            without the class axis, or a shape it broadcasts to. For n draws a row (n, ...).
            By default one draw per row. Memory grows with it, since each draw has its own noise.
        where: boolean mask that broadcasts to `logits`. Classes where it is False are never drawn.

    Returns:
        A `GumbelTopK`: indices with k along `axis` counted from the end, and the log-probability of
        each ordered draw, of the given shape, in float32 at least.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers, `where` is not boolean, `k`
            not an int, `axis` a tuple or `shape` not a tuple of sizes.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or `k` is not from 1 to K.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([[0.0, 1.0, 2.0], [0.0, -jnp.inf, 0.0]])
        >>> indices, log_prob = gumbel_topk(jax.random.key(0), z, k=2)
        >>> print(jnp.take_along_axis(z, indices, axis=-1), jnp.exp(log_prob))
        [[2. 1.]
         [0. 0.]] [0.4863 0.5   ]

    Reference:
        W. Kool, H. van Hoof and M. Welling, "Stochastic beams and where to find them", ICML 2019.
    """
    if isinstance(axis, tuple | list):
        raise TypeError(f"jsoftmax.gumbel_topk: `axis` must be a single axis, got {axis!r}.")
    checks.whole_number("gumbel_topk", "k", k)
    z = checks.as_array("gumbel_topk", "logits", logits)
    last = checks.class_axis("gumbel_topk", z, axis, None).axis[0]
    if k > z.shape[last]:
        raise ValueError(
            f"jsoftmax.gumbel_topk: `k` is {k}, but `logits` of shape {z.shape} have only "
            f"{z.shape[last]} classes along axis {axis}, and draws are without replacement."
        )
    mask = checks.mask_like("gumbel_topk", where, z)
    if shape is not None:
        rows = list(z.shape)
        classes = rows.pop(last)
        wanted = list(sample_shape("gumbel_topk", shape, tuple(rows)))
        wanted.insert(len(wanted) + 1 + last, classes)
        z = spread(z, tuple(wanted))
    drawn = draw("gumbel_topk", key, z, 1.0, last, mask, None)
    indices, log_prob = _in_order(drawn.ask.z, drawn.noise, k, last)
    return GumbelTopK(indices, log_prob)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnames=("k", "last"), inline=True)
def _in_order(z: Array, noise: Array, k: int, last: int) -> tuple[Array, Array]:
    """Return the classes of the k largest z + noise, and the log-probability of this order."""
    z, noise = jnp.moveaxis(z, last, -1), jnp.moveaxis(noise, last, -1)
    _, indices = jax.lax.top_k(jax.lax.stop_gradient(z) + noise, k)
    chosen = jnp.take_along_axis(z, indices, axis=-1)
    enough = chosen > -jnp.inf
    chosen = jnp.where(enough, chosen, 0)
    # A draw at z has log-probability −log(1 + Σ exp(z_j − z)) over the classes left after it. From
    # the last draw to the first, so that small sums are not lost in large ones.
    others = jnp.vectorize(
        lambda i: jnp.ones(z.shape[-1], bool).at[i].set(False), signature="(k)->(n)"
    )
    left = others(indices)
    after = PartialLogSumExp.of(jnp.where(left, z, -jnp.inf))
    log_prob = jnp.zeros_like(after.total)
    for t in reversed(range(k)):
        drawn_then = chosen[..., t]
        some = after.total > 0
        log_odds = after.maximum - drawn_then + jnp.log(jnp.where(some, after.total, 1))
        log_prob = log_prob - jnp.logaddexp(log_odds, jnp.zeros_like(log_odds))
        height = jax.lax.stop_gradient(drawn_then)
        after = after.merge(PartialLogSumExp(height, jnp.exp(drawn_then - height)))
    log_prob = jnp.where(enough.all(-1), log_prob, -jnp.inf)
    return jnp.moveaxis(jnp.where(enough, indices, -1), -1, last), log_prob


@on_explicit_axes(like="logits", axis="axis")
def relaxed_topk(
    key: ArrayLike,
    logits: ArrayLike,
    k: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    temperature: ArrayLike = 1.0,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Draw a relaxed sample of k classes without replacement: `topk_entmax` of noisy scores.

    .. math:: x = \mathrm{topk}_α\big((z + G)/T,\; k\big), \qquad 0 ≤ x_i ≤ 1,\; \sum_i x_i = k

    As T falls to 0, x becomes k-hot: the classes of `gumbel_topk` of the same key. No x_i exceeds
    1, as it can in sums of successive softmaxes (Xie and Ermon, 2019).

    Args:
        key: one key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype.
        k: the mass, 0 < k ≤ number of unmasked classes; a number or an array with size 1 along
            `axis`, differentiable; it need not be an integer.
        axis: the class axis, or a tuple of axes that together hold the classes.
        temperature: T ≥ 0, a number or an array with size 1 along `axis`.
        alpha: α > 0, a number or an array with size 1 along `axis`; 1.5 if None.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`: `FermiDirac()` gives the logistic
            form of `topk_sigmoid`, where no x_i is 0 or 1.
        where: boolean mask that broadcasts to `logits`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        x of the shape and dtype of `logits` (the default float dtype for integers), summing to k
        along `axis`.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers or `where` is not boolean.
        ValueError: if `key` is a batch of keys, shapes do not fit, `axis` is out of range, there
            are no classes, or `temperature`, `alpha` or `k` is a number out of range. Traced values
            out of range give NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([0.0, 1.0, 2.0, 1.0])
        >>> for t in (1.0, 0.1, 0.0):
        ...     print(relaxed_topk(jax.random.key(0), z, 2, temperature=t))
        [0.         0.3618 0.9568 0.6814]
        [0. 0. 1. 1.]
        [0. 0. 1. 1.]

    Reference:
        W. Kool, H. van Hoof and M. Welling, "Stochastic beams and where to find them", ICML 2019,
        for the noise; B. Amos, V. Koltun and J. Z. Kolter, "The limited multi-label projection
        layer", 2019, for the logistic form.
    """
    drawn = draw(
        "relaxed_topk", key, logits, temperature, axis, where, axis_name,
        regularizer=chosen("relaxed_topk", alpha, regularizer),
    )  # fmt: skip
    ask = dataclasses.replace(drawn.ask, z=drawn.scores)
    x = solve_capped(ask, jnp.ones((), ask.z.dtype), mass("relaxed_topk", k, ask))
    return drawn.returned(x)
