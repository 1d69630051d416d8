"""The Fenchel–Young loss of the relaxed k-hot mapping, for k labels a row."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis, is_known
from jsoftmax.core._capped_simplex import anchor_of, capped_masses, threshold_of
from jsoftmax.core._problem import problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen
from jsoftmax.losses._fenchel_young import along_regularizer, perceptron
from jsoftmax.losses._targets import Targets, check_labels, one_hot
from jsoftmax.mappings._capped import solve_capped


def topk_entmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    alpha: ArrayLike | None = None,
    where: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the Fenchel–Young loss of `topk_entmax`: zero where p is k-hot at the labels.

    .. math:: L = \max_{0 ≤ p ≤ 1, \sum p = k} (⟨p, z⟩ - Ω_α(p)) + Ω_α(y) - ⟨y, z⟩ ≥ 0

    with y the k-hot vector of the labels. Its gradient is p − y. At k = 1 it is `entmax_loss`.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        labels: k different classes a row, integers of shape [..., k]: the shape of `logits`
            without the class axis, and k last.
        alpha: α > 0, a number or an array with size 1 along `axis`; 1.5 if None. Do not
            minimise over it.
        axis: the class axis.
        where: boolean mask that broadcasts to `logits`: only these classes take part. A target
            among the others makes the loss +∞, with a finite gradient.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        One loss a row, in float32 at least. NaN for labels out of range or repeated in a row of a
        `jax.Array`; its values are not checked.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `labels` have a wrong dtype.
        ValueError: if shapes do not fit, `alpha` is a number that is not positive, k is not from 1
            to the number of classes, or labels given by Python or numpy are out of range or
            repeated.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([2.0, 1.0, 0.5, -1.0])
        >>> print(topk_entmax_loss(z, jnp.array([0, 1]), alpha=2.0))
        0.0625
    """
    function = "topk_entmax_loss"
    regularizer = chosen(function, alpha, regularizer)
    ask = problem(function, logits, axis, where, regularizer=regularizer, axis_name=axis_name)
    if len(ask.classes.axis) > 1:
        raise ValueError(f"jsoftmax.{function}: `axis` must be a single axis.")
    read, k = _k_hot(function, labels, ask)
    z, y, classes = ask.z, read.y, ask.classes
    # Where fewer than k classes are left, all are chosen, and a target is masked.
    room = jnp.where(z == -jnp.inf, 0, jnp.ones_like(z))
    total = jnp.clip(classes.sum(room), 1, k)
    loss = k_hot_loss(z, y, total, ask.regularizer, classes)
    if ask.temperature is not None:  # it is 0 where the regularizer vanishes
        p = solve_capped(ask, room, total)
        limit = perceptron(z, y, p, anchor_of(z, room, total, classes), classes)
        loss = jnp.where(ask.temperature == 0, limit, loss)
    return ask.squeezed(read.settle(loss))


def _k_hot(function, labels, ask):
    array = checks.as_array(function, "labels", labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `labels` has dtype {array.dtype}; give k integer classes a row."
        )
    rows = tuple(n for a, n in enumerate(ask.z.shape, -ask.z.ndim) if a not in ask.classes.axis)
    if array.ndim != len(rows) + 1 or array.shape[:-1] != rows:
        raise ValueError(
            f"jsoftmax.{function}: `labels` has shape {array.shape}, but `logits` of shape "
            f"{ask.z.shape} need k classes a row, shape {(*rows, 'k')}."
        )
    k = array.shape[-1]
    size = ask.classes.size(ask.z)
    if k < 1 or (is_known(size) and k > size):
        raise ValueError(
            f"jsoftmax.{function}: `labels` name {k} classes a row; there are {size} classes."
        )
    known = checks.known_values(labels)
    if known is not None:
        check_labels(function, known, ask, None)
        ordered = np.sort(known, axis=-1)
        if (ordered[..., 1:] == ordered[..., :-1]).any():
            raise ValueError(f"jsoftmax.{function}: `labels` name a class twice in one row.")
    y, valid = jnp.zeros_like(ask.z), True
    for j in range(k):
        hot, is_class = one_hot(jnp.expand_dims(array[..., j], ask.classes.axis), ask)
        y, valid = y + hot, is_class & valid
    valid = valid & (ask.classes.max(y) <= 1)
    return Targets(y, valid), k


# Compiled once for each shape, also outside `jit`, as `fenchel_young` is.
@partial(jax.jit, static_argnums=(4,), inline=True)
def k_hot_loss(
    z: Array, y: Array, total: Array, regularizer: Regularizer, classes: ClassAxis
) -> Array:
    """Return Ω*(z) + Ω(y) − ⟨y, z⟩ over 0 ≤ p ≤ 1, Σ p = total, kept as a size-1 axis."""
    upper = jnp.where(z > -jnp.inf, jnp.ones_like(z), 0)
    p, t = capped_masses(z, None, regularizer, upper, total, classes)
    return _attained(p, t, z, y, regularizer, classes)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _attained(
    p: Array, t: Array | None, z: Array, y: Array, regularizer: Regularizer, classes: ClassAxis
) -> Array:
    if (above := t) is None:
        above = z - threshold_of(p, z, None, regularizer, jnp.ones_like(p), classes)
    above = jnp.where(z == -jnp.inf, z, above)
    # log p from z − τ = ω′(p), which does not underflow.
    log_p = regularizer.log_link(jnp.maximum(above, jnp.finfo(z.dtype).min), jnp.zeros_like(z))
    log_p = jnp.where(p >= 1, 0, log_p) if t is None else log_p
    log_p = jnp.where(z == -jnp.inf, -jnp.inf, jnp.minimum(log_p, 0))
    if t is None:
        terms = regularizer.divergence(y, p, log_p)
    else:
        terms = regularizer.bounded_divergence(y, p, log_p, t)
    one = jnp.ones((1,) * z.ndim, z.dtype)
    bottom, ceiling = regularizer.marginal(0 * one), regularizer.marginal(one)
    empty = (log_p == -jnp.inf) & (y > 0) & (bottom > -jnp.inf)
    behind = jnp.where(empty, bottom, 0) - above
    terms = terms + jnp.where(empty, y * jnp.where(empty, jnp.maximum(behind, 0), 0), 0)
    full = (p >= 1) & (y < 1) & (ceiling < jnp.inf)
    ahead = above - jnp.where(full, ceiling, 0)
    terms = terms + jnp.where(full, (1 - y) * jnp.where(full, jnp.maximum(ahead, 0), 0), 0)
    terms = jnp.where((z == -jnp.inf) & (y > 0), jnp.inf, terms)
    top = classes.max(z)
    return jnp.where(top == -jnp.inf, 0, jnp.where(top == top, classes.sum(terms), top))


@partial(_attained.defjvp, symbolic_zeros=True)
def _attained_jvp(classes, primals, tangents):
    # As in the other Fenchel–Young losses, the tangent of p drops out at the maximum.
    p, t, z, y, regularizer = primals
    _, _, d_z, _, d_regularizer = tangents
    loss = _attained(p, t, z, y, regularizer, classes)
    tangent = jnp.zeros_like(loss)
    if not isinstance(d_z, SymbolicZero):
        move = p - y
        if t is not None:
            move = jnp.where(t > 0, (1 - y) - regularizer.complement(jnp.maximum(t, 0)), move)
        tangent = tangent + classes.sum(jnp.where(z > -jnp.inf, move, 0) * d_z)
    along = along_regularizer(p, y, z, None, regularizer, d_regularizer, classes)
    return loss, tangent if along is None else tangent + along
