"""The Fenchel–Young loss of normmax, with a norm as the regularizer."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._scores import difference
from jsoftmax.losses._log_loss import beyond_reach, mass_of_the_rest, surplus
from jsoftmax.losses._targets import read_targets, read_weights, weighted
from jsoftmax.mappings._normmax import escort, norm, norm_powers, normmax_problem


def normmax_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    alpha: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the Fenchel–Young loss of `normmax`, with gradient p − y.

    .. math:: L = \max_{p \in Δ} (⟨p, z⟩ - ‖p‖_α) + ‖y‖_α - ⟨y, z⟩ ≥ 0

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        targets: classes, or distributions that sum to 1 along `axis`; a row of zeros does not
            count.
        alpha: α > 1, a number or an array with size 1 along `axis`. Do not minimise over it.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`: only these classes take part.
        ignore_index: rows with this label have loss 0 and gradient 0.
        label_smoothing: from 0 to 1, spread evenly over the unmasked classes.
        class_weights: w ≥ 0, one number a class; the loss of a row is multiplied by ⟨w, y⟩.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        One loss a row, in float32 at least.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: as `fenchel_young_loss`, and if `alpha` is a number that is not above 1.

    Example:
        >>> import jax.numpy as jnp
        >>> print(normmax_loss(jnp.array([0.6, 0.0, -1.0]), 0))
        0.0597

    Reference:
        M. Blondel, A. F. T. Martins and V. Niculae, "Learning with Fenchel–Young losses", JMLR
        2020.
    """
    ask, alpha = normmax_problem("normmax_loss", logits, alpha, axis, where, 1.0, axis_name)
    read = read_targets("normmax_loss", targets, ask, ignore_index, label_smoothing)
    weights = read_weights("normmax_loss", class_weights, ask)
    ask = read.counted_rows(ask)
    loss = norm_loss(ask.z, read.y, alpha, ask.classes)
    return ask.squeezed(read.settle(weighted(loss, weights, read.y, ask.classes)))


def norm_loss(z: Array, y: Array, alpha: Array, classes: ClassAxis) -> Array:
    """Return max (⟨p, z⟩ − ‖p‖) + ‖y‖ − ⟨y, z⟩, kept as a size-1 axis.

    On the support z − μ = (p/‖p‖)^(α−1) = g, so with v = z − max z the loss is
    (‖y‖ − 1) + (1 − max g) + Σ y (−v), where 1 − max g is computed from all but the largest g.
    """
    q = norm_powers(z, alpha, classes)
    return _attained(escort(q, z, alpha, classes), q, z, y, alpha, classes)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _attained(p: Array, q: Array, z: Array, y: Array, alpha: Array, classes: ClassAxis) -> Array:
    top = classes.max(z)
    behind = jnp.where(beyond_reach(z, y, top), jnp.inf, -difference(z, top))
    behind = classes.sum(jnp.where(y == 0, 0, y * jnp.where(y == 0, 0, behind)))
    loss = (norm(y, alpha, classes) - 1) + _short_of_one(q, alpha, classes) + behind
    # XLA's maxima may lose a NaN; sums and comparisons keep it.
    total = classes.sum(p)
    loss = jnp.where(total == total, loss, total)
    return jnp.where((top == -jnp.inf) & (loss == loss), 0, jnp.where(loss < 0, 0, loss))


@partial(_attained.defjvp, symbolic_zeros=True)
def _attained_jvp(classes, primals, tangents):
    # As in the other Fenchel–Young losses, the tangent of p drops out at the maximum.
    p, q, z, y, alpha = primals
    *_, d_z, d_y, d_alpha = tangents
    loss = _attained(p, q, z, y, alpha, classes)
    tangent = jnp.zeros_like(loss)
    if not isinstance(d_z, SymbolicZero):
        move = surplus(p, mass_of_the_rest(p, classes), y, 1.0)
        tangent = tangent + classes.sum(jnp.where(z > -jnp.inf, move, 0) * d_z)
    if not isinstance(d_y, SymbolicZero):
        positive = jnp.where(y > 0, y, 1)
        log_ratio = jnp.log(positive) - jnp.log(norm(y, alpha, classes))
        slope = jnp.where(y > 0, jnp.exp((alpha - 1) * log_ratio), 0)
        behind = difference(z, classes.max(z)) - _short_of_one(q, alpha, classes) + 1
        slope = slope - behind
        tangent = tangent + classes.sum(jnp.where(jnp.isfinite(slope), slope, 0) * d_y)
    if not isinstance(d_alpha, SymbolicZero):
        _, along = jax.jvp(
            lambda a: norm(y, a, classes) - norm(p, a, classes), (alpha,), (d_alpha,)
        )
        tangent = tangent + jnp.where(classes.max(z) == -jnp.inf, 0, along)
    return loss, tangent


def _short_of_one(q, alpha, classes):
    """Return 1 − max g for q = g^(α/(α−1)) with Σ q = 1."""
    largest = classes.max(q)
    ties = classes.sum((q == largest).astype(q.dtype))
    others = classes.sum(jnp.where(q == largest, 0, q)) + (ties - 1) * largest
    others = jnp.minimum(others, 1 - largest / 2)
    return -jnp.expm1((1 - 1 / alpha) * jnp.log1p(-others))
