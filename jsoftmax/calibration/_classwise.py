"""Calibration error of the probabilities of all classes, not only the predicted one."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._bins import binned, mean_gap, read_bins, read_predictions
from jsoftmax.calibration._examples import classes_first
from jsoftmax.core._explicit_axes import on_explicit_axes


@on_explicit_axes(like="probabilities", axis="axis")
def classwise_calibration_error(
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
    r"""Return the mean calibration error of the probability of *every* class.

    .. math:: \frac{1}{K} \sum_k \sum_b \frac{W_{kb}}{W} |\mathrm{share}_{kb} - \bar p_{kb}|

    For each class k all examples are binned by p_k, and in each bin the mean of p_k is compared
    with the share of examples of that class.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`.
        labels: classes, integers of the shape of `probabilities` without the class axis.
        bins: the number of bins.
        axis: the class axis or axes.
        equal_mass: whether the bins of a class are of equal weight rather than of equal width.
        where: boolean mask that broadcasts to `probabilities`: an example does not count for its
            masked classes.
        weights: w ≥ 0, one number a row. Rows of weight 0 are ignored.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        A number from 0 to 1, in float32 at least: the mean over the classes; 0 if no row counts.

    Raises:
        TypeError: as `reliability_diagram`.
        ValueError: as `reliability_diagram`.

    Example:
        >>> import jax.numpy as jnp
        >>> p = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> print(classwise_calibration_error(p, jnp.array([0, 1, 0, 1]), bins=2))
        0.15

    Reference:
        M. Kull et al., "Beyond temperature scaling: obtaining well-calibrated multiclass
        probabilities with Dirichlet calibration", NeurIPS 2019.
    """
    function = "classwise_calibration_error"
    bins, equal_mass = read_bins(function, bins, equal_mass)
    p, hit, w, ask = read_predictions(function, probabilities, labels, axis, where, weights)
    w = ask.unmasked(jnp.broadcast_to(w, p.shape), 0)

    size = ask.classes.size(p)

    def of_class(p, hit, w):
        return mean_gap(binned(p, hit, w, bins, equal_mass, axis_name))

    return jnp.mean(
        jax.vmap(of_class)(*(classes_first(x, ask.classes).reshape(size, -1) for x in (p, hit, w)))
    )
