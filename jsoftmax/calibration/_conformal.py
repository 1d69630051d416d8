"""Conformal prediction: sets of classes with guaranteed coverage, for any classifier.

Split conformal prediction needs a nonconformity score of each class as the label. If the next
example is exchangeable with n held-out examples, the rank of its score among theirs is uniform, so
it is no higher than the ⌈(n+1)c⌉-th of them with probability at least c.
"""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from jsoftmax.calibration._examples import classes_back, counted, read_labels, read_weights
from jsoftmax.calibration._sums import cumulative
from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._mesh_axes import gathered
from jsoftmax.core._problem import problem

_MANY = 2**20  # for more examples a table of ranks is not worth its memory


@on_explicit_axes(like="scores", axis="axis")
def conformal_threshold(
    scores: ArrayLike,
    labels: ArrayLike,
    coverage: ArrayLike = 0.9,
    axis: int | tuple[int, ...] = -1,
    *,
    classwise: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Return the score threshold of sets that contain the label with probability `coverage`.

    .. math:: \hat q = \text{the } ⌈(n+1)c⌉\text{-th smallest of } s_1(y_1), …, s_n(y_n)

    and +∞ if n is smaller than that rank. The sets `conformal_sets(scores, q)` of new examples from
    the same source contain their label with probability at least c, and if no two scores are equal
    at most c + 1/(n+1). This holds on average over the draw of both; given these n examples, the
    coverage of new ones has the distribution Beta(k, n+1−k), k = ⌈(n+1)c⌉.

    Any score is valid: `lac_scores`, `aps_scores`, `entmax_scores`, losses of each class. A score
    with a better order gives smaller sets. Where many labels have equal scores, such as the score
    1 − p = 1 of labels with probability 0 under a sparse mapping, coverage exceeds c: if more than
    a share 1 − c of the labels had probability 0, the threshold is 1, and every set contains every
    class. `entmax_scores` has no such ties.

    With `classwise` every class has its own threshold, from the examples with that label: coverage
    is then at least c for each class, also rare ones, and not only on average. A class with fewer
    than c/(1−c) examples has the threshold +∞.

    Args:
        scores: nonconformity scores of shape [..., K, ...] for n held-out rows, larger for stranger
            classes. The rows of all leading axes are pooled.
        labels: classes, integers of the shape of `scores` without the class axis.
        coverage: c, from 0 to 1, or an array of several. A Python or numpy value is read as the
            decimal fraction that it prints as, so that an integer (n+1)c is not rounded up.
        axis: the class axis or axes.
        classwise: whether each class has its own threshold.
        weights: w ≥ 0, one number a row, in units of the weight of a new example: the threshold is
            the least score s with Σ_{sᵢ ≤ s} wᵢ ≥ c (Σ w + 1). Rows of weight 0 are ignored.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part, which receives two or three numbers a row. None for all
            rows here.

    Returns:
        A score for each level, of the shape of `coverage`, in float32 at least. With `classwise`
        the axes of the levels are followed by those of the classes, of shape [K] (followed by 1s if
        `axis` is not the last), so that the thresholds of one level broadcast to `scores`. NaN if
        a label of positive weight has the score NaN, or a label in a `jax.Array` is out of range.

    Raises:
        TypeError: if `scores` are not real numbers or `labels` are not integers.
        ValueError: if shapes do not fit, there are no classes, a known `coverage` is out of range
            [0, 1], `weights` are negative, or a label given by Python or numpy is out of range.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> scores = jnp.array([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]])
        >>> labels = jnp.array([0, 0, 0, 1])
        >>> print(conformal_threshold(scores, labels, coverage=0.6))
        0.3
        >>> print(conformal_threshold(scores, labels, coverage=np.array([0.6, 0.9])))
        [0.3 inf]
        >>> print(conformal_threshold(scores, labels, coverage=0.5, classwise=True))
        [0.3 0.2]

    Reference:
        V. Vovk, A. Gammerman and G. Shafer, "Algorithmic learning in a random world", Springer
        2005; for classes V. Vovk, "Conditional validity of inductive conformal predictors", ACML
        2012; for weights R. J. Tibshirani, R. Foygel Barber, E. Candès and A. Ramdas, "Conformal
        prediction under covariate shift", NeurIPS 2019.
    """
    function = "conformal_threshold"
    c = checks.as_array(function, "coverage", coverage)
    known = checks.known_values(coverage)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"jsoftmax.{function}: `coverage` must be from 0 to 1, got {coverage!r}.")
    ask = problem(function, scores, axis, called="scores")
    hit, valid = read_labels(function, labels, ask, "scores")
    w = read_weights(function, weights, ask)
    score = ask.classes.sum(jnp.where(hit > 0, ask.z, 0))
    score = counted(jnp.where(valid, score, jnp.nan), w, jnp.inf).ravel()
    w = w.ravel()
    shape = [k if a in ask.classes.axis else 1 for a, k in enumerate(ask.z.shape, -ask.z.ndim)]
    per_row = [score, w]
    if classwise:
        number = ask.classes.sum(hit * ask.classes.index(hit).astype(hit.dtype))
        per_row += [number.ravel(), valid.ravel()]
    if axis_name is not None:
        per_row = [gathered(x, axis_name, 0) for x in per_row]
    order = jnp.argsort(per_row[0])
    score, w, *of_class = (x[order] for x in per_row)
    levels, n = c.ravel(), w.shape[0]
    least = jnp.append(score, jnp.inf)
    exact = None if known is None or weights is not None or not is_known(n) else known.ravel()
    if not classwise:
        ranks = None if exact is None else _ranks(exact, np.array([n]))
        place = _place(w, levels) if ranks is None else ranks[:, 0] - 1
        return jnp.where(jnp.isnan(score).any(), jnp.nan, least[place]).reshape(c.shape)
    ranks = None if exact is None or n > _MANY else _ranks(exact, np.arange(n + 1))
    bad = jnp.isnan(jax.lax.stop_gradient(score))
    place, bad = _places(bad, w, *of_class, levels, ranks, ask.classes.size(ask.z))
    found, one, rows = jnp.where(bad, jnp.nan, least[place]), jnp.zeros(shape), [1] * len(ask.rows)
    found = jax.vmap(lambda x: classes_back(x.reshape(-1, *rows), one, ask.classes), -1)(found)
    return found.reshape(*c.shape, *shape[min(ask.classes.axis) :])


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=6, inline=True)
def _places(bad, w, number, valid, levels, ranks, classes):
    """Return the ranks [classes, levels] of thresholds in sorted scores, and if one is invalid."""

    def of(k):
        mine = number == k
        return _place(jnp.where(mine, w, 0), levels, ranks), (bad & (mine | ~valid)).any()

    place, bad = jax.lax.map(of, jnp.arange(classes).astype(w.dtype))
    return place, bad[:, None]


def _ranks(levels: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """Return ⌈(n+1)c⌉ ≥ 1 for every level c and every count n; None if integers overflow."""
    # Exactly: 0.07 × 100 is 7, though in floats it is more.
    fractions = [Fraction(repr(float(c))) for c in levels]
    if any(c.denominator > 2**62 // (int(counts[-1]) + 1) for c in fractions):
        return None
    ranks = [-(-c.numerator * (counts + 1) // c.denominator) for c in fractions]
    return np.maximum(np.reshape(ranks, (len(levels), len(counts))), 1).astype(np.int32)


def _place(w: Array, levels: Array, ranks: Array | np.ndarray | None = None) -> Array:
    """Return the position of the threshold of every level in sorted scores of these weights."""
    # A new example has weight 1, and comes last so that all sums are in one unit.
    mass = cumulative(jnp.append(w, 1))
    mass, whole = mass[:-1], mass[-1]
    if ranks is None:
        needed = levels.astype(w.dtype) * whole
        needed = needed * (1 - 4 * jnp.finfo(w.dtype).eps)  # an allowance for rounding
    else:
        count = jnp.sum(w > 0)
        needed = jnp.asarray(ranks, w.dtype)[:, count] * (whole / (count + 1).astype(w.dtype))
    return jnp.sum((mass < needed[:, None]) | (mass == 0), -1)


@on_explicit_axes(like="scores", axis="axis")
def conformal_sets(
    scores: ArrayLike,
    threshold: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    nonempty: bool = False,
    where: ArrayLike | None = None,
) -> Bool[Array, "..."]:
    r"""Return the prediction sets: the classes with a score of at most the threshold.

    .. math:: C = \{ k : s_k ≤ \hat q \}

    A set may be empty, or contain every class. With `nonempty` an empty set gets the class of the
    least score, which cannot lower coverage. For several levels use
    `jax.vmap(conformal_sets, (None, 0))`.

    Args:
        scores: of shape [..., K, ...], computed like those of `conformal_threshold`.
        threshold: q, or an array that broadcasts to `scores`, such as one number per class.
        axis: the class axis or axes.
        nonempty: whether an empty set gets the class of the least score, or all classes that share
            it.
        where: boolean mask that broadcasts to `scores`: other classes are in no set, also where
            the threshold is +∞.

    Returns:
        Booleans of the shape of `scores`. Where a score or the threshold is NaN, the class is in
        the set.

    Raises:
        TypeError: if `scores` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(conformal_sets(jnp.array([[0.1, 0.9], [0.3, 0.2]]), 0.3))
        [[ True False]
         [ True  True]]
        >>> print(conformal_sets(jnp.array([0.5, 0.9]), 0.3, nonempty=True))
        [ True False]
    """
    function = "conformal_sets"
    ask = problem(function, scores, axis, called="scores")
    mask = checks.mask_like(function, where, ask.z, "scores")
    q = checks.as_array(function, "threshold", threshold)
    q = checks.aligned(function, "threshold", q, ask.z.shape, "scores").astype(ask.z.dtype)
    sets = ~(ask.z > q)
    if mask is not None:
        sets = sets & mask
    if not nonempty:
        return sets
    score = ask.z if mask is None else jnp.where(mask, ask.z, jnp.inf)
    first = score == -ask.classes.max(-score)
    first = first if mask is None else first & mask
    return sets | (first & (ask.classes.max(sets.astype(score.dtype)) == 0))
