"""Draw a token from truncated logits, with its log-probabilities."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import problem
from jsoftmax.sampling._draw import check_temperature, without_negative
from jsoftmax.sampling._inverse import random_words
from jsoftmax.sampling.truncation._truncated_draw import (
    SampledToken,
    Settings,
    drawn_and_scored,
    read_settings,
)


@on_explicit_axes(like="logits", axis="axis")
def sample_token(
    key: ArrayLike,
    logits: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    temperature: ArrayLike = 1.0,
    k: ArrayLike | None = None,
    p: ArrayLike | None = None,
    min_p: ArrayLike | None = None,
    n_sigma: ArrayLike | None = None,
    typical_p: ArrayLike | None = None,
    epsilon: ArrayLike | None = None,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> SampledToken:
    r"""Draw a class of each row from its truncated `softmax`, and return its log-probabilities.

    .. math:: P(y = i) ∝ m_i e^{z_i/T}

    The mask m combines `top_n_sigma_mask`, `top_k_mask`, `top_p_mask`, `min_p_mask`, `typical_mask`
    and `eta_mask`, in this order, each applied to the classes that the previous ones kept. None
    skips one. Nothing is sorted, and a vocabulary that is split over a mesh is not gathered. A
    batch may mix requests: every setting may be an array with one number per row. T = 0 makes a row
    greedy; k = K, p = 1, `min_p` = 0 or ε = 0 switch off that truncation for a row.

    Args:
        key: a key of `jax.random`. The draws are those of `categorical` with `where` = m.
        logits: scores z of shape [..., K, ...], any real dtype.
        axis: the class axis, or a tuple of axes that together hold the classes, which are then
            numbered row-major.
        temperature: T ≥ 0, a number or an array with size 1 along `axis`. T = 0 draws evenly among
            the largest scores.
        k: how many of the largest stay, at least 1; like the following settings a number or an
            array with size 1 along `axis`, traced or not.
        p: the probability of the fewest classes that stay (nucleus), from 0 to 1.
        min_p: the least probability of a class that stays, relative to the largest, from 0 to 1.
        n_sigma: how many standard deviations below the largest score others may be, at least 0.
        typical_p: the probability of the classes closest to the entropy that stay, from 0 to 1.
        epsilon: ε of `eta_mask`, from 0 to 1.
        where: boolean mask that broadcasts to `logits`. Other classes are never drawn.
        axis_name: name of the mesh or `vmap` axis that splits the class axis. The key must
            be the same on every part, and so will be the result.

    Returns:
        `token`, `log_prob` and `whole_log_prob`, each of the shape of the rows: class numbers in
        the default integer dtype, and log-probabilities in float32 at least. These are
        differentiable in `logits` and T, with the token and the mask as constants.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers, or `where` is not boolean.
        ValueError: if `key` holds several keys, shapes do not fit, `axis` is out of range, there
            are no classes, or a known setting is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.log(jnp.array([[0.1, 0.6, 0.3], [0.1, 0.6, 0.3]]))
        >>> T = jnp.array([[0.0], [1.0]])  # the first row is greedy
        >>> drawn = sample_token(jax.random.key(1), z, temperature=T, p=0.8)
        >>> print(drawn.token, drawn.log_prob.round(3), drawn.whole_log_prob.round(3))
        [1 1] [-0.    -0.405] [-0.    -0.511]
    """
    function = "sample_token"
    key = one_key(function, key)
    check_temperature(function, "temperature", temperature)
    ask = problem(function, logits, axis, where, temperature=temperature, axis_name=axis_name)
    settings = read_settings(
        function,
        ask.z,
        ask.classes,
        k=k,
        p=p,
        min_p=min_p,
        n_sigma=n_sigma,
        typical_p=typical_p,
        epsilon=epsilon,
    )
    t = without_negative(ask.temperature, ask.sign)
    found = _sampled(key, ask.z, settings, t, ask.rows, ask.classes)
    return SampledToken(*map(ask.squeezed, found))


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnames=("rows", "classes"), inline=True)
def _sampled(
    key: Array,
    z: Array,
    settings: Settings,
    temperature: Array | None,
    rows: tuple[int, ...],
    classes: ClassAxis,
) -> SampledToken:
    found = drawn_and_scored(random_words(key, rows), z, settings, temperature, classes)
    return found._replace(token=found.token.astype(jnp.zeros((), int).dtype))
