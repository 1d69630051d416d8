"""Cross-entropy: the expected −log p, right for the most confident and the most wrong."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._problem import problem
from jsoftmax.losses._log_loss import expected_log_loss
from jsoftmax.losses._targets import read_targets, read_weights


def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""The expected negative log-likelihood of targets under `softmax` of the logits.

    .. math:: L = \sum_i w_i y_i (-\log p_i) + λ (\log\sum_i e^{z_i})²

    It equals `optax.softmax_cross_entropy` and `..._with_integer_labels` where these are right, and
    is right to a few eps also where a confident logit leaves −log p ≈ 0, and at any offset. For a
    distribution it is KL(y‖p) + H(y); `fenchel_young_loss` at α = 1 is KL alone.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        targets: classes, integers of the shape of `logits` without the class axis (numbered
            row-major if `axis` is a tuple); or distributions, floats of the shape of `logits` that
            sum to 1 along `axis`. Differentiable if distributions.
        axis: the class axis or axes.
        where: boolean mask that broadcasts to `logits`: only these classes take part. Target mass
            on another class makes the loss +∞, with a finite gradient.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, with p ∝ q exp z: the class
            frequencies make it the balanced softmax. 0 masks a class. Differentiable.
        ignore_index: rows with this label have loss 0 and gradient 0.
        label_smoothing: s from 0 to 1: y becomes (1−s) y plus s spread evenly over the unmasked
            classes.
        class_weights: w ≥ 0, one number a class, or any shape that broadcasts to `logits`.
        z_loss: λ. It pulls the log-partition to 0, and so is the one term here that depends on the
            offset of the logits.
        axis_name: name of the mesh or `vmap` axis over which the class axis is split.

    Returns:
        One loss a row, in float32 at least. 0 for a row without any class. NaN for a label out of
        range in a `jax.Array`, whose values are not checked.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, there are no classes, or a label or `label_smoothing`
            given by Python or numpy is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 2.0, 8.0], [0.0, 0.0, 0.0]])
        >>> print(cross_entropy(z, jnp.array([2, 0])))
        [0.0034 1.0986]
        >>> print(cross_entropy(jnp.array([0.0, 40.0]), 1))
        4.248e-18
    """
    ask = problem("cross_entropy", logits, axis, where, prior=prior, axis_name=axis_name)
    read = read_targets("cross_entropy", targets, ask, ignore_index, label_smoothing)
    weights = read_weights("cross_entropy", class_weights, ask)
    y = read.y if weights is None else read.y * weights
    ask = read.counted_rows(ask)
    loss = expected_log_loss(ask.z, y, ask.classes, ask.prior)
    if isinstance(z_loss, jax.Array) or z_loss != 0:
        level = ask.conjugate()
        level = jnp.where(level == -jnp.inf, 0, level)
        loss = loss + jnp.asarray(z_loss, loss.dtype) * level * level
    return ask.squeezed(read.settle(loss))
