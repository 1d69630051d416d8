"""Dirichlet calibration: a linear map of log-probabilities, fitted to held-out labels."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._examples import counted, read_examples
from jsoftmax.calibration._matrix import fitted_matrix, mixed, read_penalties
from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.mappings import softmax


class DirichletCalibration(NamedTuple):
    """The result of `dirichlet_calibration`: `kernel`, [K, K], and `bias`, [K].

    Args:
        kernel: W, one row for each new class.
        bias: b.

    Example:
        >>> import jax.numpy as jnp
        >>> calibration = DirichletCalibration(jnp.eye(2) / 2, jnp.zeros(2))  # a temperature of 2
        >>> print(calibration.apply(jnp.array([0.8, 0.2])))
        [0.6666667 0.3333333]
    """

    kernel: Array
    bias: Array

    @on_explicit_axes(like="probabilities", axis="axis")
    def apply(
        self, probabilities: ArrayLike, axis: int | tuple[int, ...] = -1
    ) -> Float[Array, "..."]:
        """Return softmax(W log p + b), where a p below eps counts as eps.

        Args:
            probabilities: p of shape [..., K, ...].
            axis: the class axis, or a tuple of axes that numbers the classes in its order.

        Returns:
            Probabilities, in the dtype of the input (the default float dtype for integers).
        """
        p = checks.as_array("DirichletCalibration.apply", "probabilities", probabilities)
        function = "DirichletCalibration.apply"
        z = mixed(function, self.kernel, self.bias, _log(p), axis)
        return softmax(z, axis).astype(checks.result_dtype(p))


@on_explicit_axes(like="probabilities", axis="axis")
def dirichlet_calibration(
    probabilities: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    off_diagonal: ArrayLike = 1e-2,
    intercept: ArrayLike = 1e-2,
    diagonal: ArrayLike = 1e-3,
    axis_name: Hashable | None = None,
) -> DirichletCalibration:
    r"""Fit Dirichlet calibration: a linear map of log-probabilities, followed by softmax.

    .. math:: \min_{W, b} \; \frac{-\sum_n w_n \log \mathrm{softmax}(W \log p_n + b)_{y_n}}
              {\sum_n w_n} + \frac{λ}{K(K-1)} \sum_{i ≠ j} W_{ij}^2 + \frac{μ}{K} ‖b‖^2
              + \frac{ν}{K} \sum_i (W_{ii} - 1)^2

    It is exact if the probabilities, given the label, follow Dirichlet distributions. It needs only
    probabilities, of any classifier; if there are logits, `matrix_scaling` does the same to them.
    W = I/T and b = 0 is temperature scaling. λ and μ are the off-diagonal and intercept
    regularisation (ODIR): choose them by the loss on further examples. The paper leaves the
    diagonal free; a ν > 0 makes the solution unique and finite for separable labels too.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`, of
            held-out examples. A p below the eps of its dtype (of float32 at least), such as the
            zeros of sparse mappings, counts as eps.
        targets: classes, integers of the shape of `probabilities` without the class axis; or
            distributions, floats of the shape of `probabilities` that sum to 1 along `axis`.
        axis: the class axis or axes.
        weights: w ≥ 0, one number a row. Rows of weight 0 are ignored.
        ignore_index: rows with this label are ignored.
        off_diagonal: λ > 0.
        intercept: μ > 0.
        diagonal: ν > 0.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        `DirichletCalibration(kernel, bias)`, of shapes [K, K] and [K], in float32 at least; not
        differentiable. `calibration.apply(probabilities)` gives the new ones. NaN for a label out
        of range in a `jax.Array`.

    Raises:
        TypeError: if `probabilities` are not real numbers or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, there are no classes, a penalty is a number that is not
            positive, `weights` are negative, or a label given by Python or numpy is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> z = 3 * jax.random.normal(jax.random.key(0), (2000, 3))
        >>> labels = jax.random.categorical(jax.random.key(1), z / 2)
        >>> p = jsoftmax.softmax(z)  # twice as sure as it may be
        >>> better = dirichlet_calibration(p, labels).apply(p)
        >>> print(jsoftmax.expected_calibration_error(p, labels).round(2))
        0.11
        >>> print(bool(jsoftmax.expected_calibration_error(better, labels) < 0.03))
        True

    Reference:
        M. Kull et al., "Beyond temperature scaling: obtaining well-calibrated multiclass
        probabilities with Dirichlet calibration", NeurIPS 2019.
    """
    function = "dirichlet_calibration"
    penalties = read_penalties(
        function, off_diagonal=off_diagonal, intercept=intercept, diagonal=diagonal
    )
    p = checks.as_array(function, "probabilities", probabilities)
    ask, y, w = read_examples(
        function, _log(p), targets, None, None, axis, None, weights, ignore_index
    )
    return DirichletCalibration(*fitted_matrix(counted(ask.z, w), y, w, penalties, ask, axis_name))


def _log(p: Array) -> Array:
    """Return log max(p, eps)."""
    p = p.astype(checks.compute_dtype(p))
    return jnp.log(jnp.maximum(p, float(jnp.finfo(p.dtype).eps)))
