"""Sets of classes that hold the true one as often as promised, whatever the classifier is worth.

Split conformal prediction needs a score of how strange each class would be as the label. If the
next example is exchangeable with n examples that were kept apart, the rank of its score among
theirs is uniform, so it is no higher than the ⌈(n+1)c⌉-th of them with probability at least c.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from fractions import Fraction

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from jsoftmax.calibration._examples import counted, read_labels, read_weights
from jsoftmax.calibration._sums import cumulative
from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._mesh_axes import gathered
from jsoftmax.core._problem import problem


@on_explicit_axes(like="scores", axis="axis")
def conformal_threshold(
    scores: ArrayLike,
    labels: ArrayLike,
    coverage: ArrayLike = 0.9,
    axis: int | tuple[int, ...] = -1,
    *,
    weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, ""]:
    r"""The score up to which classes belong in a set that holds the label as often as `coverage`.

    .. math:: \hat q = \text{the } ⌈(n+1)c⌉\text{-th smallest of } s_1(y_1), …, s_n(y_n)

    and +∞ if n is smaller than that. The sets `conformal_sets(scores, q)` of new examples from the
    same source hold their label with probability at least c, and if no two scores are equal at most
    c + 1/(n+1). That is so on average over the draw of both; given these n examples, the coverage
    of new ones has the distribution Beta(k, n+1−k), k = ⌈(n+1)c⌉.

    Any score will do: `lac_scores`, `aps_scores`, `entmax_scores`, losses of each class. The better
    it orders, the smaller the sets. Where many scores of labels are equal, as the score 1 − p is 1
    for every label to which a sparse mapping gave probability 0, coverage is larger than asked: if
    more than a share 1 − c of the labels had probability 0, the threshold is 1, and every set holds
    every class. `entmax_scores` has no such ties.

    Args:
        scores: of shape [..., K, ...] for n rows that were not trained on: how strange each class
            would be. The rows of all leading axes are taken together.
        labels: classes, integers of the shape of `scores` without the class axis.
        coverage: c, from 0 to 1; as a number it is taken as the decimal fraction that it is written
            as, so that (n+1)c is not rounded up where it is whole.
        axis: the class axis or axes.
        weights: w ≥ 0, one number a row, in units of the weight of a new example: the threshold is
            the least score s with Σ_{sᵢ ≤ s} wᵢ ≥ c (Σ w + 1). Rows of weight 0 do not count,
            whatever stands there; `weights=labels == k` gives the threshold of one class.
        axis_name: name of the mesh or `vmap` axis over which the *rows* are split; the answer is
            then the same on every part, to which two numbers a row travel. None for all rows here.

    Returns:
        A score, in float32 at least. NaN if the score of a label that counts is NaN, or if a label
        in a `jax.Array` is out of range.

    Raises:
        TypeError: if `scores` are not real numbers or `labels` are not integers.
        ValueError: if shapes do not fit, there are no classes, `coverage` is a number outside of
            [0, 1], `weights` are negative, or a label given by Python or numpy is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> scores = jnp.array([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]])
        >>> print(conformal_threshold(scores, jnp.array([0, 0, 0, 1]), coverage=0.6))
        0.3
        >>> print(conformal_threshold(scores, jnp.array([0, 0, 0, 1]), coverage=0.9))
        inf

    Reference:
        V. Vovk, A. Gammerman and G. Shafer, "Algorithmic learning in a random world", Springer
        2005; for weights R. J. Tibshirani, R. Foygel Barber, E. Candès and A. Ramdas, "Conformal
        prediction under covariate shift", NeurIPS 2019.
    """
    function = "conformal_threshold"
    c = checks.as_array(function, "coverage", coverage)
    known = checks.known_values(coverage)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"jsoftmax.{function}: `coverage` must be from 0 to 1, got {coverage!r}.")
    if c.ndim:
        raise ValueError(
            f"jsoftmax.{function}: `coverage` has shape {c.shape}; give one number, "
            "and use jax.vmap for several."
        )
    ask = problem(function, scores, axis, called="scores")
    hit, valid = read_labels(function, labels, ask, "scores")
    w = read_weights(function, weights, ask)
    score = ask.classes.sum(jnp.where(hit > 0, ask.z, 0))
    score = counted(jnp.where(valid, score, jnp.nan), w, jnp.inf).ravel()
    w = w.ravel()
    if axis_name is not None:
        score, w = (gathered(x, axis_name, 0) for x in (score, w))
    order = jnp.argsort(score)
    least = jnp.append(score[order], jnp.inf)
    number = checks.static_number(coverage)
    if weights is None and number is not None and is_known(w.shape[0]):
        # Exactly: 0.07 × 100 is 7, though in floats it is more.
        rank = math.ceil(Fraction(repr(number)) * (w.shape[0] + 1))
        place = max(rank, 1) - 1
    else:
        # A new example counts 1, and comes last so that all are sums of one unit.
        mass = cumulative(jnp.append(w[order], 1))
        mass, needed = mass[:-1], c.astype(w.dtype) * mass[-1]
        needed = needed * (1 - 4 * jnp.finfo(w.dtype).eps)  # what rounding may have added
        place = jnp.sum(jnp.where((mass < needed) | (mass == 0), 1, 0))
    return jnp.where(jnp.isnan(score).any(), jnp.nan, least[place])


@on_explicit_axes(like="scores", axis="axis")
def conformal_sets(
    scores: ArrayLike,
    threshold: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
) -> Bool[Array, "..."]:
    r"""The classes that are not too strange: those with a score of at most the threshold.

    .. math:: C = \{ k : s_k ≤ \hat q \}

    A set may be empty, if every class is stranger than the labels were; and hold every class.

    Args:
        scores: of shape [..., K, ...], made as those of `conformal_threshold` were.
        threshold: q, or an array that broadcasts to `scores`, as one for each class.
        axis: the class axis or axes.
        where: boolean mask that broadcasts to `scores`: other classes are in no set, also where
            the threshold is +∞.

    Returns:
        Booleans of the shape of `scores`. Where a score or the threshold is NaN nothing is known
        against a class, and it is in the set.

    Raises:
        TypeError: if `scores` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(conformal_sets(jnp.array([[0.1, 0.9], [0.3, 0.2]]), 0.3))
        [[ True False]
         [ True  True]]
    """
    function = "conformal_sets"
    ask = problem(function, scores, axis, called="scores")
    mask = checks.mask_like(function, where, ask.z, "scores")
    q = checks.as_array(function, "threshold", threshold)
    q = checks.aligned(function, "threshold", q, ask.z.shape, "scores").astype(ask.z.dtype)
    sets = ~(ask.z > q)
    return sets if mask is None else sets & mask
