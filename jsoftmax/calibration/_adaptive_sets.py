"""Nonconformity scores from probabilities: 1 − p, or the mass of classes at least as probable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._examples import classes_back, classes_first
from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import problem


def lac_scores(
    probabilities: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Return the nonconformity scores 1 − p of the least ambiguous set-valued classifier.

    .. math:: s_k = 1 - p_k

    With the true probabilities no other sets of the same coverage are smaller on average. But their
    coverage is uneven: hard examples are covered less often than easy ones, and may have an empty
    set. In low precision 1 − p rounds small probabilities to ties; -`log_softmax` has the same
    order.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`.
        axis: the class axis or axes.
        where: boolean mask that broadcasts to `probabilities`: other classes have the score +∞.

    Returns:
        Scores of the shape of `probabilities`, from 0 to 1, in float32 at least.

    Raises:
        TypeError: if `probabilities` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(lac_scores(jnp.array([0.7, 0.3, 0.0])))
        [0.3 0.7 1. ]

    Reference:
        M. Sadinle, J. Lei and L. Wasserman, "Least ambiguous set-valued classifiers with bounded
        error levels", JASA 2019.
    """
    ask = problem("lac_scores", probabilities, axis, where, called="probabilities")
    return ask.unmasked(1 - ask.unmasked(ask.z, 0), jnp.inf)


@on_explicit_axes(like="probabilities", axis="axis")
def aps_scores(
    probabilities: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    key: ArrayLike | None = None,
    penalty: ArrayLike = 0.0,
    free: ArrayLike = 0,
    where: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Return the scores of adaptive prediction sets: the mass of classes at least as probable.

    .. math:: s_k = \sum_{j : p_j > p_k} p_j + U \sum_{j : p_j = p_k} p_j + λ (r_k - m)_+

    with U = 1, or uniform on [0, 1) for each row if there is a `key`, and r the number of classes
    that are at least as probable. Hard examples get larger sets, so that they are covered nearly as
    often as easy ones. Without a key sets are larger than necessary, except for an example so easy
    that its first class has more mass than the threshold: its set is empty. With a key (a new one
    for every call) sets are smaller. Classes of equal probability enter together. λ > 0 keeps sets
    small: every class beyond the m most probable costs λ more (RAPS).

    Classes of probability 0 under a sparse mapping have the score 1 of the whole mass, up to
    rounding and λ: if the threshold is that high, they are all in the set.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`.
        axis: the class axis or axes.
        key: None, or a single key of `jax.random`.
        penalty: λ ≥ 0.
        free: m ≥ 0, the number of classes without a penalty.
        where: boolean mask that broadcasts to `probabilities`: other classes have the score +∞.

    Returns:
        Scores of the shape of `probabilities`, in float32 at least. NaN in a row that holds NaN.

    Raises:
        TypeError: if `probabilities` are not real numbers, `where` is not boolean, or `key` is not
            a key.
        ValueError: if shapes do not fit, there are no classes, `key` is a batch of keys, or
            `penalty` or `free` are negative numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> p = jnp.array([0.25, 0.625, 0.125])
        >>> print(aps_scores(p))
        [0.875 0.625 1.   ]
        >>> print(aps_scores(p, penalty=0.5, free=1))
        [1.375 0.625 2.   ]

    Reference:
        Y. Romano, M. Sesia and E. Candès, "Classification with valid and adaptive coverage",
        NeurIPS 2020; for λ A. Angelopoulos, S. Bates, J. Malik and M. I. Jordan, "Uncertainty sets
        for image classifiers using conformal prediction", ICLR 2021.
    """
    function = "aps_scores"
    ask = problem(function, probabilities, axis, where, called="probabilities")
    dtype = ask.z.dtype
    penalty, free = (
        _not_negative(function, name, x, dtype)
        for name, x in (("penalty", penalty), ("free", free))
    )
    # Masked classes sort after those of probability 0, and have no mass.
    p = jnp.moveaxis(classes_first(ask.unmasked(ask.z, -1), ask.classes), 0, -1)
    order = jnp.argsort(-p, axis=-1)
    ordered = jnp.take_along_axis(p, order, -1)
    mass = jnp.cumsum(jnp.maximum(ordered, 0), -1)
    first, last = ties(ordered)
    before = jnp.where(first > 0, jnp.take_along_axis(mass, jnp.maximum(first - 1, 0), -1), 0)
    own = jnp.take_along_axis(mass, last, -1) - before
    if key is not None:
        own = own * jax.random.uniform(one_key(function, key), (*own.shape[:-1], 1), dtype)
    scores = before + own
    scores = scores + penalty * jnp.maximum((last + 1).astype(dtype) - free, 0)
    scores = jnp.take_along_axis(scores, jnp.argsort(order, axis=-1), -1)
    scores = jnp.where(jnp.isnan(p).any(-1, keepdims=True), jnp.nan, scores)
    scores = classes_back(jnp.moveaxis(scores, -1, 0), ask.z, ask.classes)
    return ask.unmasked(scores, jnp.inf)


def ties(ordered: Array) -> tuple[Array, Array]:
    """Return the first and the last position of the ties of each entry of sorted rows."""
    place = jnp.broadcast_to(jnp.arange(ordered.shape[-1]), ordered.shape)
    new = jnp.diff(ordered, axis=-1) != 0
    edge = jnp.ones((*ordered.shape[:-1], 1), bool)
    first = jnp.where(jnp.concatenate([edge, new], -1), place, 0)
    last = jnp.where(jnp.concatenate([new, edge], -1), place, ordered.shape[-1] - 1)
    axis = ordered.ndim - 1
    return jax.lax.cummax(first, axis), jax.lax.cummin(last, axis, reverse=True)


def _not_negative(function: str, name: str, x: Any, dtype: np.dtype) -> Array:
    number, array = checks.static_number(x), checks.as_array(function, name, x)
    if (number is not None and not number >= 0) or array.ndim:
        raise ValueError(f"jsoftmax.{function}: `{name}` must be one number ≥ 0, got {x!r}.")
    return array.astype(dtype)
