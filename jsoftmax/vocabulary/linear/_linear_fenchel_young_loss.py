"""Fenchel–Young losses from features and a class table, for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import SHANNON
from jsoftmax.vocabulary.linear._class_prior import with_prior
from jsoftmax.vocabulary.linear._linear_arguments import (
    Fixed,
    Moving,
    Rule,
    class_weights_of,
    read_rows,
    with_regularizer,
)
from jsoftmax.vocabulary.linear._mesh_parts import on_parts
from jsoftmax.vocabulary.linear._outcomes import outcomes
from jsoftmax.vocabulary.linear._token_targets import Fate, with_targets


@on_parts()
def linear_fenchel_young_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    targets: ArrayLike | tuple[ArrayLike, ...],
    regularizer: Regularizer = SHANNON,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    log_prior: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
) -> Float[Array, "..."]:
    r"""Compute `fenchel_young_loss` of the logits h W + b, without a large array of logits.

    .. math:: z = c \tanh((h W + b)/c)/T, \qquad L = Ω^*(z) + Ω(y) - ⟨y, z⟩ ≥ 0, \qquad
              Ω(p) = \sum_i q_i\, ω(p_i/q_i)

    With `Tsallis(1.0)` it is KL(y‖p), for classes the cross-entropy; with `Tsallis(2.0)` the
    sparsemax loss. Values and derivatives are those of `fenchel_young_loss`, in both modes and of
    any order: in features, kernel, bias, temperature, prior and the arrays of the regularizer. All
    other arguments are constants to derivatives. The threshold of a row is found while the row is
    in memory, and the backward pass needs only that threshold: it costs as much as that of
    `linear_cross_entropy`. Block sizes follow the same rule.

    Never minimise it over the order α of `Tsallis`: for every one-hot target the loss *falls* as α
    grows, for any logits.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        targets: classes, integers of shape [...]; or the pair (ids, weights), both of shape
            [..., m]: m classes per token with weights that sum to 1, a few at most.
        regularizer: ω, a `Regularizer`; its arrays have size 1 along the classes, as [..., 1].
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]: only these classes take part. Target mass
            on a masked class makes the loss +∞, with a finite gradient.
        prior: a reference measure q ≥ 0 that broadcasts to [..., K], such as shape [K]; None for 1.
            A class of prior 0 is masked. Differentiable.
        log_prior: log q instead of q, which may underflow at α = 1; −∞ masks a class.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        label_smoothing: from 0 to 1, spread evenly over the unmasked classes.
        class_weights: w ≥ 0 of shape [K]; the loss of a token is multiplied by ⟨w, y⟩.
        temperature: T > 0, a number or an array of size 1 along the classes, as [..., 1]. In an
            array any other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: the axis of the classes in `kernel`: −1 for [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes of `kernel`, `bias`,
            `class_weights`, `where` and prior. Targets are numbered over all parts.
        block_tokens: rows of scores in memory at once; None for the rule.
        block_classes: classes per block of the backward pass; None for the rule.

    Returns:
        One loss per token, of shape [...], in float32 at least. 0 for a fully masked token. NaN for
        a label out of range in a `jax.Array`: its values are not checked.

    Raises:
        TypeError: as `linear_cross_entropy`, and if `regularizer` is not a `Regularizer`.
        ValueError: as `linear_cross_entropy`.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> h, W = jnp.array([1.0, 0.5]), jnp.array([[1.0, 0.0, -2.0], [0.0, 1.0, 2.0]])
        >>> print(linear_fenchel_young_loss(h, W, 1, jsoftmax.Tsallis(2.0)))
        0.5625
        >>> def loss(strength):
        ...     return linear_fenchel_young_loss(h, W, 1, jsoftmax.Elastic(strength))
        >>> print(jax.grad(loss)(jnp.array(0.5)))
        0.2

    Reference:
        M. Blondel, A. F. T. Martins and V. Niculae, "Learning with Fenchel–Young losses", JMLR
        2020.
    """
    return divergences(
        "linear_fenchel_young_loss", features, kernel, targets, regularizer, bias, where, prior,
        log_prior, ignore_index, label_smoothing, class_weights, temperature, logits_soft_cap,
        class_axis, axis_name, block_tokens, block_classes,
    )  # fmt: skip


def divergences(
    function: str, features: Any, kernel: Any, targets: Any, regularizer: Regularizer, bias: Any,
    where: Any, prior: Any, log_prior: Any, ignore_index: Any, label_smoothing: Any,
    class_weights: Any, temperature: Any, logits_soft_cap: float | None, class_axis: int,
    axis_name: Hashable | None, block_tokens: int | None, block_classes: int | None,
) -> Array:  # fmt: skip
    """Compute the losses of `function`, one per token."""
    rows = read_rows(
        function, features, kernel, bias=bias, where=where, class_axis=class_axis,
        temperature=temperature, logits_soft_cap=logits_soft_cap, axis_name=axis_name,
        block_tokens=block_tokens, block_classes=block_classes,
    )  # fmt: skip
    rows = with_prior(with_regularizer(rows, regularizer), prior, log_prior)
    rows, fate = with_targets(rows, targets, ignore_index, label_smoothing)
    fixed = rows.fixed._replace(class_weights=class_weights_of(rows, class_weights))
    rows = dataclasses.replace(rows, fixed=fixed)
    loss = _settled(rows.rule, rows.moving, rows.fixed, fate)
    return rows.shaped(loss)[..., 0]


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its transpose is
# compiled once too.
@partial(jax.jit, static_argnums=0)
def _settled(rule: Rule, moving: Moving, fixed: Fixed, fate: Fate) -> Array:
    outcome, _ = outcomes(rule, moving, fixed)
    loss = outcome.loss
    if fixed.class_weights is not None:
        # A weight of 0 outweighs an infinite loss.
        loss = outcome.weight * jnp.where((outcome.weight == 0) & (loss == jnp.inf), 0, loss)
    return fate.settle(loss)
