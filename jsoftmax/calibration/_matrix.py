"""Matrix scaling: a linear map of all scores, fitted to held-out labels."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._examples import classes_back, classes_first, counted, read_examples
from jsoftmax.calibration._sums import for_rows, total
from jsoftmax.calibration._temperature import BOUNDS, sharpness
from jsoftmax.calibration._vector import minimized, over_parts
from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._mesh_axes import alike
from jsoftmax.core._problem import Problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.losses._fenchel_young import fenchel_young


class MatrixScaling(NamedTuple):
    """The result of `matrix_scaling`: `kernel`, [K, K], and `bias`, [K].

    Args:
        kernel: row i holds the weights of the old scores in the new score of class i.
        bias: one number per class, added to its new score.

    Example:
        >>> import jax.numpy as jnp
        >>> scaling = MatrixScaling(jnp.array([[1.0, 0.5], [0.0, 1.0]]), jnp.array([0.0, 2.0]))
        >>> print(scaling.apply(jnp.array([[4.0, 2.0], [4.0, -jnp.inf]])))
        [[  5.   4.]
         [  4. -inf]]
    """

    kernel: Array
    bias: Array

    @on_explicit_axes(like="logits", axis="axis")
    def apply(self, logits: ArrayLike, axis: int | tuple[int, ...] = -1) -> Float[Array, "..."]:
        """Return `kernel @ logits + bias`; −∞ stays −∞ and adds nothing to other classes.

        Args:
            logits: scores of shape [..., K, ...].
            axis: the class axis, or a tuple of axes that numbers the classes in its order.

        Returns:
            The scaled scores, in the dtype of `logits` (the default float dtype for integers).
        """
        return mixed("MatrixScaling.apply", self.kernel, self.bias, logits, axis)


@on_explicit_axes(like="logits", axis="axis")
def matrix_scaling(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    off_diagonal: ArrayLike = 1e-2,
    intercept: ArrayLike = 1e-2,
    diagonal: ArrayLike = 1e-3,
    axis_name: Hashable | None = None,
) -> MatrixScaling:
    r"""Fit a matrix and a bias to the logits: `vector_scaling` with interactions of classes.

    .. math:: \min_{W, b} \; \frac{\sum_n w_n L_α(W z_n/T + b, y_n)}{\sum_n w_n}
              + \frac{λ}{K(K-1)} \sum_{i ≠ j} W_{ij}^2 + \frac{μ}{K} ‖b‖^2
              + \frac{ν}{K} \sum_i (W_{ii} - 1)^2

    where T is the result of `temperature_scaling`. λ and μ are the off-diagonal and intercept
    regularisation (ODIR) of Dirichlet calibration. Without them K² weights fit noise; choose them
    by the loss on further examples. The paper leaves the diagonal free; a ν > 0 makes the solution
    unique and finite for separable labels too. The solver is L-BFGS, until no derivative exceeds
    eps^(2/3), or for 500 steps.

    A shift of a row of logits has no effect on `softmax`, but it has one here:
    `dirichlet_calibration`, of log-probabilities, does not depend on it.

    Args:
        logits: scores z of shape [..., K, ...] of held-out examples.
        targets: classes, integers of the shape of `logits` without the class axis; or
            distributions, floats of the shape of `logits` that sum to 1 along `axis`.
        alpha: α > 0 of the mapping, finite, a number or an array with size 1 along `axis`; 1 if
            None.
        axis: the class axis or axes.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `logits`: only these classes take part. A row with
            a target that is masked or has the score −∞ costs +∞ for any parameters, and is ignored.
        weights: w ≥ 0, one number a row. Rows of weight 0 are ignored.
        ignore_index: rows with this label are ignored.
        off_diagonal: λ > 0.
        intercept: μ > 0.
        diagonal: ν > 0.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        `MatrixScaling(kernel, bias)` with kernel = W/T of shape [K, K] and bias [K], in float32 at
        least; not differentiable. `scaling.apply(logits)` gives the logits for `softmax` or
        `entmax`. NaN for a label out of range in a `jax.Array`.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, there are no classes, `alpha` is not positive or infinite,
            a penalty is a number that is not positive, `weights` are negative, or a label given by
            Python or numpy is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = 2 * jax.random.normal(jax.random.key(0), (500, 3))
        >>> labels = jax.random.categorical(jax.random.key(1), z.at[:, 0].add(0.5 * z[:, 1]))
        >>> scaling = matrix_scaling(z, labels)
        >>> print(bool(scaling.kernel[0, 1] > 0.25))
        True

    Reference:
        C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks",
        ICML 2017; for the penalties M. Kull et al., "Beyond temperature scaling: obtaining
        well-calibrated multiclass probabilities with Dirichlet calibration", NeurIPS 2019.
    """
    function = "matrix_scaling"
    penalties = read_penalties(
        function, off_diagonal=off_diagonal, intercept=intercept, diagonal=diagonal
    )
    ask, y, w = read_examples(
        function, logits, targets, alpha, regularizer, axis, where, weights, ignore_index
    )
    beta = sharpness(ask, y, w, BOUNDS, axis_name)
    # A score of +∞ stays the highest whatever its factor, so its row is ignored.
    w = jnp.where(ask.classes.max(ask.z) == jnp.inf, 0, w)
    kernel, bias = fitted_matrix(beta * counted(ask.z, w), y, w, penalties, ask, axis_name)
    return MatrixScaling(beta * kernel, bias)


def read_penalties(function: str, **penalties: Any) -> tuple[Array, ...]:
    """Return the penalties as one positive number each.

    Raises:
        ValueError: for an array, or a known number that is not positive.
    """
    for name, x in penalties.items():
        known = checks.known_values(x)
        if checks.as_array(function, name, x).ndim or (known is not None and not known > 0):
            raise ValueError(
                f"jsoftmax.{function}: `{name}` must be one number above 0, got {x!r}."
            )
    return tuple(jnp.asarray(x) for x in penalties.values())


def mixed(function: str, kernel: Array, bias: Array, logits: Any, axis: Any) -> Array:
    """Return kernel @ logits + bias along the class axes; −∞ stays −∞."""
    z = checks.as_array(function, "logits", logits)
    classes = checks.class_axis(function, z, axis, None)
    if classes.size(z) != bias.shape[0]:
        raise ValueError(
            f"jsoftmax.{function}: `logits` of shape {z.shape} have {classes.size(z)} classes "
            f"along axis {axis}, but the scaling is for {bias.shape[0]}."
        )
    dtype = jnp.promote_types(checks.compute_dtype(z), kernel.dtype)
    kernel, bias = kernel.astype(dtype), bias.astype(dtype)
    excluded = z == -jnp.inf
    x = classes_first(jnp.where(excluded, 0, z).astype(dtype), classes)
    x = _times(kernel, x) + bias.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(excluded, -jnp.inf, classes_back(x, z, classes)).astype(checks.result_dtype(z))


def fitted_matrix(
    x: Array,
    y: Array,
    w: Array,
    penalties: tuple[Array, ...],
    ask: Problem,
    over: Hashable | None,
) -> tuple[Array, Array]:
    """Return the kernel and the bias of least cost for the scores x."""
    penalties = tuple(p.astype(x.dtype) for p in penalties)
    return _fitted(x, y, w, penalties, ask.regularizer, ask.classes, over)


@partial(jax.jit, static_argnums=(5, 6), inline=True)
def _fitted(x, y, w, penalties, regularizer, classes: ClassAxis, over):
    excluded = x == -jnp.inf
    k = classes.size(x)
    inputs = classes_first(jnp.where(excluded, 0, x), classes)
    w = w.ravel()
    share = w / jnp.maximum(total(w, over), jnp.finfo(w.dtype).tiny)
    off_diagonal, intercept, diagonal = penalties
    is_own = jnp.eye(k, dtype=bool)

    def losses(parameters):
        kernel, bias = parameters
        bias = for_rows(bias.reshape(-1, *[1] * (inputs.ndim - 1)), inputs.shape)
        scaled = classes_back(_times(kernel, inputs) + bias, x, classes)
        scaled = jnp.where(excluded, -jnp.inf, scaled)
        return total(share * fenchel_young(scaled, y, None, regularizer, classes).ravel())

    everywhere = over_parts(losses, over, x)

    def objective(parameters):
        kernel, bias = parameters
        others = jnp.sum(jnp.where(is_own, 0, jnp.square(kernel))) / max(k * (k - 1), 1)
        own = jnp.sum(jnp.where(is_own, jnp.square(kernel - 1), 0)) / k
        cost = off_diagonal * others + diagonal * own
        return everywhere(parameters) + cost + intercept * jnp.sum(jnp.square(bias)) / k

    start = is_own.astype(x.dtype), jnp.zeros(k, x.dtype)
    start, *_ = alike((start, x, y, w), but=over)
    return minimized(objective, start)


def _times(kernel: Array, x: Array) -> Array:
    return jnp.tensordot(kernel, x, 1, precision="highest")
