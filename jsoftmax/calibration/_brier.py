"""The Brier score, the squared distance of probabilities from the one-hot label."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._binary import read_binary
from jsoftmax.calibration._examples import read_labels
from jsoftmax.core._problem import problem


def brier_score(
    probabilities: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Return the squared distance of probabilities from the label: 0 at best, 2 at worst.

    .. math:: \sum_k (p_k - [y = k])²

    It is a proper score, like cross-entropy, but finite also for a label of probability 0, so that
    it can compare sparse and dense predictions. For two classes `probabilities` may be those of
    class 1 alone, with labels 0 and 1 of the same shape: the score is then (p − y)², half of the
    above, from 0 to 1 (as `sklearn`'s `brier_score_loss`).

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`; or of
            class 1 of two, of any shape.
        labels: classes, integers of the shape of `probabilities` without the class axis; or 0 and 1
            in their shape.
        axis: the class axis or axes.
        where: boolean mask that broadcasts to `probabilities`: other classes have probability 0.

    Returns:
        One number a row, in float32 at least. NaN for a label out of range in a `jax.Array`.

    Raises:
        TypeError: if `probabilities` are not real numbers, `where` is not boolean, or `labels` are
            not integers.
        ValueError: if shapes do not fit, there are no classes, or a label given by Python or numpy
            is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(brier_score(jnp.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]), jnp.array([0, 0])))
        [0.5 2. ]
        >>> print(brier_score(jnp.array([0.5, 0.25]), jnp.array([1, 0])))
        [0.25   0.0625]

    Reference:
        G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
        Review 1950.
    """
    binary = read_binary("brier_score", probabilities, labels, where)
    if binary is not None:
        p, y, _ = binary
        return jnp.square(p - y)
    ask = problem("brier_score", probabilities, axis, where, called="probabilities")
    hit, valid = read_labels("brier_score", labels, ask)
    score = ask.classes.sum(jnp.square(ask.unmasked(ask.z, 0) - hit))
    return ask.squeezed(jnp.where(valid, score, jnp.nan))
