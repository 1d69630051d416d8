"""The log loss of one class per row, and the range check of labels."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._scores import difference


def is_class(labels: Array, count: int) -> Array:
    """Return whether each integer is in [0, count)."""
    # Compared in int32, labels of a narrow or unsigned dtype cannot wrap.
    wide = labels if labels.dtype.itemsize > 4 else labels.astype(jnp.int32)
    return (wide >= 0) & (wide < count)


def log_prob_at(z: Array, label: Array, classes: ClassAxis) -> Array:
    """Return log softmax(z) at one class a row, −∞ in a fully masked row; gradient 0 at −∞."""
    value = -log_loss_at(z, label, classes)[0]
    never = (value == -jnp.inf) | (classes.max(z) == -jnp.inf)
    return jnp.where(never, -jnp.inf, value)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def log_loss_at(z: Array, label: Array, classes: ClassAxis) -> tuple[Array, Array]:
    """Return −log p of one class a row, p = softmax(z), and log Σ exp(z − max z).

    `label` is a class number with a size-1 class axis, as both results have. A fully masked row has
    the loss 0.
    """
    # With v = z − max z the loss is log Σ exp(v − v_y). Below the top it is −v_y ≥ 0 plus
    # log Σ exp v ≥ 0; at the top, log1p of the mass of all others, which rounding keeps beside 1.
    top = classes.max(z)
    v, own_score = difference(z, top), classes.at(z, label)
    own = difference(own_score, top)
    others = classes.sum(jnp.where(classes.index(z) == label, 0, jnp.exp(v)))
    below = jnp.maximum(others, 1) - 1 + jnp.exp(own)  # 1 of the others is the top
    excess = jnp.where(own == 0, jnp.log1p(others), jnp.log1p(below))
    loss = jnp.where((own_score < top) & (top == jnp.inf), jnp.inf, excess - own)
    return jnp.where(top == -jnp.inf, 0, loss), excess


@partial(log_loss_at.defjvp, symbolic_zeros=True)
def _log_loss_at_jvp(classes, primals, tangents):
    # L̇ = Σ_{j≠y} p_j ż_j − (1 − p_y) ż_y with 1 − p_y = 1 − e^(−L), exact where it is small.
    (z, label), (d_z, _) = primals, tangents
    loss, excess = log_loss_at(z, label, classes)
    if isinstance(d_z, SymbolicZero):
        return (loss, excess), (jnp.zeros_like(loss), jnp.zeros_like(excess))
    p = jnp.exp(difference(z, classes.max(z)) - excess)
    move = jnp.where(classes.index(z) == label, jnp.expm1(-loss), p)
    d_z = jnp.where(z > -jnp.inf, d_z, 0)
    return (loss, excess), (classes.sum(move * d_z), classes.sum(p * d_z))
