"""Vector scaling: a scale and a bias for every class, fitted to held-out labels."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._examples import counted, read_examples
from jsoftmax.calibration._sums import for_rows, total
from jsoftmax.calibration._temperature import BOUNDS, sharpness
from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._mesh_axes import alike
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.losses._fenchel_young import fenchel_young

_STEPS = 500


class VectorScaling(NamedTuple):
    """The result of `vector_scaling`: `scale` and `bias`, one number per class.

    Their shape broadcasts against the logits of the fit.

    Args:
        scale: the factor of the logits of each class.
        bias: the number added to the scaled logits of each class. The biases sum to 0.

    Example:
        >>> import jax.numpy as jnp
        >>> scaling = VectorScaling(jnp.array([0.5, 1.0]), jnp.array([-1.0, 1.0]))
        >>> print(scaling.apply(jnp.array([[4.0, -jnp.inf], [0.0, 2.0]])))
        [[  1. -inf]
         [ -1.   3.]]
    """

    scale: Array
    bias: Array

    def apply(self, logits: ArrayLike) -> Float[Array, "..."]:
        """Return `logits * scale + bias`; −∞ stays −∞ for any scale.

        Args:
            logits: scores of shape [..., K, ...], with the class axis as in the fit.

        Returns:
            The scaled scores, in the dtype of `logits` (the default float dtype for integers).
        """
        z = checks.as_array("VectorScaling.apply", "logits", logits)
        if z.ndim < self.scale.ndim:
            raise ValueError(
                f"jsoftmax.VectorScaling.apply: `logits` of shape {z.shape} have fewer axes than "
                f"`scale` of shape {self.scale.shape}; give logits like those of the fit."
            )
        dtype = jnp.promote_types(checks.compute_dtype(z), self.scale.dtype)
        rank = (1,) * (z.ndim - self.scale.ndim)
        scale, bias = (x.astype(dtype).reshape(rank + x.shape) for x in self)
        excluded = z == -jnp.inf
        scaled = jnp.where(excluded, 0, z).astype(dtype) * scale + bias
        return jnp.where(excluded, -jnp.inf, scaled).astype(checks.result_dtype(z))


@on_explicit_axes(like="logits", axis="axis")
def vector_scaling(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    penalty: ArrayLike = 1e-3,
    axis_name: Hashable | None = None,
) -> VectorScaling:
    r"""Fit a scale and a bias for every class: `temperature_scaling` per class.

    .. math:: \min_{a, b} \; \frac{\sum_n w_n L_α(a ⊙ z_n/T + b, y_n)}{\sum_n w_n}
              + \frac{λ}{2} (‖a - 1‖² + ‖b‖²)

    where T is the result of `temperature_scaling`, and the penalty pulls towards it: λ → ∞ is
    temperature scaling. The problem is strongly convex, so that its solution is unique and finite
    for separable labels and absent classes too, and does not depend on the unit of the logits. The
    solver is L-BFGS, until no derivative exceeds eps^(2/3) (2.4e-5 in float32, 3.7e-11 in float64),
    or for 500 steps.

    Unlike a temperature it can change the predicted class.

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
        penalty: λ > 0.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        `VectorScaling(scale, bias)` with scale = a/T, of shape [K] (followed by 1s if `axis` is not
        the last), in float32 at least; not differentiable. `scaling.apply(logits)` gives the
        logits for `softmax` or `entmax`. NaN for a label out of range in a `jax.Array`.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, there are no classes, `alpha` is not positive or infinite,
            `penalty` is a number that is not positive, `weights` are negative, or a label given by
            Python or numpy is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.zeros((4, 2))  # uninformative scores; 3 in 4 labels are 0
        >>> scaling = vector_scaling(z, jnp.array([0, 0, 0, 1]), penalty=1e-6)
        >>> print(jnp.diff(scaling.bias), jnp.log(1 / 3))
        [-1.0986] -1.0986

    Reference:
        C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks",
        ICML 2017.
    """
    function = "vector_scaling"
    ridge = checks.as_array(function, "penalty", penalty)
    if ridge.ndim:
        raise ValueError(f"jsoftmax.{function}: `penalty` must be one number, got {penalty!r}.")
    known = checks.known_values(penalty)
    if known is not None and not (known > 0).all():
        raise ValueError(f"jsoftmax.{function}: `penalty` must be positive, got {penalty!r}.")
    ask, y, w = read_examples(
        function, logits, targets, alpha, regularizer, axis, where, weights, ignore_index
    )
    beta = sharpness(ask, y, w, BOUNDS, axis_name)
    # A score of +∞ stays the highest whatever its factor, so its row is ignored.
    w = jnp.where(ask.classes.max(ask.z) == jnp.inf, 0, w)
    ridge = ridge.astype(ask.z.dtype)
    z = beta * counted(ask.z, w)
    scale, bias = _fitted(z, y, w, ridge, ask.regularizer, ask.classes, axis_name)
    # The class axes and those after them, so that there may be any number of row axes.
    shape = scale.shape[min(ask.classes.axis) :]
    return VectorScaling(beta * scale.reshape(shape), bias.reshape(shape))


@partial(jax.jit, static_argnums=(5, 6), inline=True)
def _fitted(x, y, w, penalty, regularizer, classes, over):
    """Return the best scale and bias of the scores x."""
    excluded = x == -jnp.inf
    x = jnp.where(excluded, 0, x)
    w = w.ravel()
    share = w / jnp.maximum(total(w, over), jnp.finfo(w.dtype).tiny)
    shape = [n if a in classes.axis else 1 for a, n in enumerate(x.shape, -x.ndim)]

    def losses(parameters):
        scale, bias = (for_rows(parameter, x.shape) for parameter in parameters)
        scaled = jnp.where(excluded, -jnp.inf, x * scale + bias)
        each = fenchel_young(scaled, y, None, regularizer, classes)
        return total(share * each.ravel())

    everywhere = over_parts(losses, over, x)

    def objective(parameters):
        distance = jnp.sum(jnp.square(parameters[0] - 1)) + jnp.sum(jnp.square(parameters[1]))
        return everywhere(parameters) + penalty / 2 * distance

    start = jnp.ones(shape, x.dtype), jnp.zeros(shape, x.dtype)
    start, *_ = alike((start, x, y, w), but=over)
    return minimized(objective, start)


def over_parts(local, over, like):
    """Sum local(x) and its gradients over the parts on a mesh axis.

    On each part x is cast to vary over the mesh as `like` does: the gradient is then that of the
    part, in `shard_map` as under `vmap`, and is summed once.
    """

    def of_part(x):
        return local(alike((x, like))[0])

    if over is None:
        return of_part

    def with_gradient(x):
        x, _ = alike((x, like))
        return jax.lax.psum(jax.value_and_grad(local)(x), over)

    summed = jax.custom_vjp(lambda x: jax.lax.psum(of_part(x), over))
    summed.defvjp(with_gradient, lambda slopes, d: (jax.tree.map(lambda s: d * s, slopes),))
    return summed


def minimized(objective, start):
    """Return the minimiser of the objective, by L-BFGS."""
    import optax  # here, because none of the other functions needs it

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(objective)
    tolerance = float(jnp.finfo(start[0].dtype).eps) ** (2 / 3)

    def unfinished(state):
        _, _, steepest, step = state
        return (steepest > tolerance) & (step < _STEPS)

    def improve(state):
        x, memory, _, step = state
        value, gradient = value_and_gradient(x, state=memory)
        move, memory = solver.update(
            gradient, memory, x, value=value, grad=gradient, value_fn=objective
        )
        x = optax.apply_updates(x, move)
        return x, memory, _steepest(optax.tree_utils.tree_get(memory, "grad")), step + 1

    with jax.numpy_dtype_promotion("standard"):  # optax mixes float32 with the default float
        state = (start, solver.init(start), _steepest(jax.grad(objective)(start)), 0)
        x, _, steepest, _ = jax.lax.while_loop(unfinished, improve, state)
    return jax.tree.map(lambda leaf: jnp.where(steepest == steepest, leaf, jnp.nan), x)


def _steepest(gradient):
    return jnp.maximum(*(jnp.max(jnp.abs(g)) for g in gradient))
