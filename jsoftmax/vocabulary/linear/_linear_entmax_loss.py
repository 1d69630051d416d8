"""Entmax loss from features and a class table, for every token."""

from __future__ import annotations

from collections.abc import Hashable

from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core.regularizers import of_order
from jsoftmax.vocabulary.linear._linear_fenchel_young_loss import divergences
from jsoftmax.vocabulary.linear._mesh_parts import on_parts


@on_parts()
def linear_entmax_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    targets: ArrayLike | tuple[ArrayLike, ...],
    *,
    alpha: ArrayLike = 1.5,
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
    r"""Compute `entmax_loss` of the logits h W + b: `linear_fenchel_young_loss` of order α.

    .. math:: z = c \tanh((h W + b)/c)/T, \qquad L = Ω_α^*(z) + Ω_α(y) - ⟨y, z⟩ ≥ 0

    At α = 1 it is KL(y‖p), for classes the cross-entropy; at α = 2 the sparsemax loss. It is
    differentiable in features, kernel, bias, temperature, prior and α. But never minimise it over
    α: it falls as α grows, for any logits.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        targets: classes, integers of shape [...]; or the pair (ids, weights), both of shape
            [..., m]: m classes per token with weights that sum to 1, a few at most.
        alpha: α > 0, a number or an array of size 1 along the classes, as [..., 1].
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
        TypeError: as `linear_cross_entropy`.
        ValueError: as `linear_cross_entropy`, and if `alpha` is a number that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> h, W = jnp.array([1.0, 0.5]), jnp.array([[1.0, 0.0, -2.0], [0.0, 1.0, 2.0]])
        >>> print(linear_entmax_loss(h, W, 1, alpha=2.0))
        0.5625
        >>> print(jax.grad(lambda h: linear_entmax_loss(h, W, 1, alpha=2.0))(h))
        [ 0.75 -0.75]
    """
    function = "linear_entmax_loss"
    return divergences(
        function, features, kernel, targets, of_order(function, alpha, False), bias, where, prior,
        log_prior, ignore_index, label_smoothing, class_weights, temperature, logits_soft_cap,
        class_axis, axis_name, block_tokens, block_classes,
    )  # fmt: skip
