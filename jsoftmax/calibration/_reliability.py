"""Reliability diagrams and calibration errors: confidence against accuracy, bin by bin."""

from __future__ import annotations

from collections.abc import Hashable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._binary import read_binary
from jsoftmax.calibration._bins import (
    Reliability,
    binned,
    gaps,
    mean_gap,
    read_bins,
    read_predictions,
)
from jsoftmax.core._explicit_axes import on_explicit_axes


@on_explicit_axes(like="probabilities", axis="axis")
def reliability_diagram(
    probabilities: ArrayLike,
    labels: ArrayLike,
    bins: int = 15,
    axis: int | tuple[int, ...] = -1,
    *,
    equal_mass: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Reliability:
    r"""Return mean confidence and accuracy of predictions, in bins of similar confidence.

    The confidence of an example is its largest probability; it is right if its label has that
    probability. If m classes share it, each is predicted one time in m, and counts 1/m.

    For two classes `probabilities` may be those of class 1 alone, with labels 0 and 1 of the same
    shape. Then p itself is binned and compared with the share of labels 1 (as in `sklearn`'s
    `calibration_curve`), not the confidence in the likelier class; pass `stack([1 - p, p], -1)` for
    that.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`; or of
            class 1 of two, of any shape.
        labels: classes, integers of the shape of `probabilities` without the class axis; or 0 and 1
            in their shape.
        bins: the number B of bins.
        axis: the class axis or axes.
        equal_mass: False for bins of equal width: bin b holds (b/B, (b+1)/B], and the first also 0;
            an edge is b/B in the dtype of `probabilities` (float32 at least). True for bins of
            equal weight: an example is in bin b if the share of examples that are no more confident
            is in (b/B, (b+1)/B]. So equal confidences are always in one bin.
        where: boolean mask that broadcasts to `probabilities`: other classes have probability 0.
        weights: w ≥ 0, one number a row. Rows of weight 0 are ignored.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        `Reliability(confidence, accuracy, weight)`, each of shape [bins], in float32 at least.
        Everything is NaN if a row of positive weight holds NaN, or a label in a `jax.Array` is out
        of range.

    Raises:
        TypeError: if `probabilities` are not real numbers, `where` is not boolean, or `labels` are
            not integers.
        ValueError: if shapes do not fit, there are no classes, `bins` is less than 1, `weights` are
            negative, or a label given by Python or numpy is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> p = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> diagram = reliability_diagram(p, jnp.array([0, 1, 0, 1]), bins=4)
        >>> print(diagram.weight, diagram.confidence, diagram.accuracy)
        [0. 0. 2. 2.] [0.   0.   0.65 0.85] [0.  0.  1.  0.5]
        >>> diagram = reliability_diagram(p[:, 1], jnp.array([0, 1, 0, 1]), bins=4)
        >>> print(diagram.weight, diagram.confidence, diagram.accuracy)
        [2. 1. 1. 0.] [0.15 0.4  0.7  0.  ] [0.5 0.  1.  0. ]

    Reference:
        A. Niculescu-Mizil and R. Caruana, "Predicting good probabilities with supervised learning",
        ICML 2005.
    """
    function = "reliability_diagram"
    return binned(*_top(function, probabilities, labels, axis, where, weights), *read_bins(
        function, bins, equal_mass
    ), axis_name)  # fmt: skip


@on_explicit_axes(like="probabilities", axis="axis")
def expected_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    bins: int = 15,
    axis: int | tuple[int, ...] = -1,
    *,
    equal_mass: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, ""]:
    r"""Return the mean distance of confidence from accuracy over bins of `reliability_diagram`.

    .. math:: \mathrm{ECE} = \sum_b \frac{W_b}{W} |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    It depends on the predicted class only; `classwise_calibration_error` on all classes. For two
    classes `probabilities` may be those of class 1 alone, as in `reliability_diagram`. An estimate
    from n examples is biased upwards: for perfect probabilities it is 0 in the limit, but up to
    √(bins/n)/2 on average. Compare values with the same bins and the same n.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`; or of
            class 1 of two, of any shape.
        labels: classes, integers of the shape of `probabilities` without the class axis; or 0 and 1
            in their shape.
        bins: the number of bins.
        axis: the class axis or axes.
        equal_mass: whether bins are of equal weight rather than of equal width.
        where: boolean mask that broadcasts to `probabilities`: other classes have probability 0.
        weights: w ≥ 0, one number a row. Rows of weight 0 are ignored.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        A number from 0 to 1, in float32 at least; 0 if no row counts. Its gradient treats the bins
        as constants.

    Raises:
        TypeError: as `reliability_diagram`.
        ValueError: as `reliability_diagram`.

    Example:
        >>> import jax.numpy as jnp
        >>> p = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> print(expected_calibration_error(p, jnp.array([0, 1, 0, 1]), bins=4))
        0.35

    Reference:
        M. Pakdaman Naeini, G. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities
        using Bayesian binning", AAAI 2015.
    """
    function = "expected_calibration_error"
    examples = _top(function, probabilities, labels, axis, where, weights)
    return mean_gap(binned(*examples, *read_bins(function, bins, equal_mass), axis_name))


@on_explicit_axes(like="probabilities", axis="axis")
def maximum_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    bins: int = 15,
    axis: int | tuple[int, ...] = -1,
    *,
    equal_mass: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, ""]:
    r"""Return the largest distance of confidence from accuracy in bins of `reliability_diagram`.

    .. math:: \mathrm{MCE} = \max_b |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    A bin of one example can be the worst: with `equal_mass` no bin is so small. For two classes
    `probabilities` may be those of class 1 alone, as in `reliability_diagram`.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`; or of
            class 1 of two, of any shape.
        labels: classes, integers of the shape of `probabilities` without the class axis; or 0 and 1
            in their shape.
        bins: the number of bins.
        axis: the class axis or axes.
        equal_mass: whether bins are of equal weight rather than of equal width.
        where: boolean mask that broadcasts to `probabilities`: other classes have probability 0.
        weights: w ≥ 0, one number a row. Rows of weight 0 are ignored.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        A number from 0 to 1, in float32 at least; 0 if no row counts.

    Raises:
        TypeError: as `reliability_diagram`.
        ValueError: as `reliability_diagram`.

    Example:
        >>> import jax.numpy as jnp
        >>> p = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> print(maximum_calibration_error(p, jnp.array([0, 1, 1, 1]), bins=4))
        0.35

    Reference:
        M. Pakdaman Naeini, G. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities
        using Bayesian binning", AAAI 2015.
    """
    function = "maximum_calibration_error"
    examples = _top(function, probabilities, labels, axis, where, weights)
    return jnp.max(gaps(binned(*examples, *read_bins(function, bins, equal_mass), axis_name)))


def _top(function, probabilities, labels, axis, where, weights):
    """Return the confidence of every row, its correctness from 0 to 1, and its weight."""
    binary = read_binary(function, probabilities, labels, where, weights)
    if binary is not None:
        return tuple(x.ravel() for x in binary)
    p, hit, w, ask = read_predictions(function, probabilities, labels, axis, where, weights)
    confidence = jnp.max(p, axis=ask.classes.axis, keepdims=True)
    best = (p == confidence) & (True if ask.mask is None else ask.mask)
    right = ask.classes.sum(jnp.where(best, hit, 0))
    right = right / jnp.maximum(ask.classes.sum(best.astype(p.dtype)), 1)
    return confidence.ravel(), right.ravel(), w.ravel()
