"""Soft arg max: the expected location of the maximum."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._problem import problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen


def soft_argmax(
    logits: ArrayLike,
    coordinates: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the expected index, or coordinate, of the class: :math:`\sum_i p_i x_i`.

    A differentiable substitute for `argmax`. It is a mean: with two separate peaks it lies between
    them, at neither. With α > 1 classes of low score have no influence at all.

    Args:
        logits: scores z of shape [..., K, ...], for instance a heat map.
        coordinates: x, broadcastable to `logits`; the index along the axis if None.
        axis: the class axis, a tuple of axes that together hold the classes, or None for all.
        alpha: α > 0 of the `entmax` that weighs, a number or an array with size 1 along `axis`; 1
            if None.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `logits`.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes Ω(p) = Σ q ω(p/q); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T = 0 gives
            the mean coordinate of the largest entries, with zero gradient. T < 0 favours the
            lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        One number a row, in float32 at least. If `axis` is a tuple or None and no coordinates are
        given, one index per axis, in the order of the tuple, in a new last axis.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or several
            axes without coordinates are split by an `axis_name`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(soft_argmax(jnp.array([0.0, 10.0, 10.0, 0.0])))
        1.5000001
        >>> heat = jnp.zeros((4, 5)).at[2, 3].set(20.0)
        >>> print(soft_argmax(heat, axis=(0, 1)))
        [2. 3.]
        >>> print(soft_argmax(jnp.zeros(3), prior=jnp.array([1.0, 1.0, 2.0])))
        1.25
    """
    ask = problem(
        "soft_argmax", logits, axis, where,
        regularizer=chosen("soft_argmax", alpha, regularizer, 1.0), prior=prior,
        temperature=temperature, axis_name=axis_name,
    )  # fmt: skip
    p = ask.probabilities()
    if coordinates is not None:
        x = checks.as_array("soft_argmax", "coordinates", coordinates)
        x = checks.aligned("soft_argmax", "coordinates", x, p.shape).astype(p.dtype)
        return ask.squeezed(ask.mean(p, x))
    if not (axis is None or isinstance(axis, tuple | list)):
        index = ask.classes.index(p).astype(p.dtype)
        return ask.squeezed(ask.classes.sum(p * index))
    if axis_name is not None:
        raise ValueError(
            "jsoftmax.soft_argmax: give `coordinates` when several axes are split by `axis_name`; "
            "the function cannot tell which of them is split."
        )
    iotas = [jax.lax.broadcasted_iota(p.dtype, p.shape, a % p.ndim) for a in ask.classes.axis]
    return jnp.stack([ask.squeezed(ask.classes.sum(p * iota)) for iota in iotas], axis=-1)
