"""Cross-entropy, the expected −log p, accurate for p near 1 and for p near 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._cooled import cooled, quotient
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._relative_mass import with_log_prior
from jsoftmax.losses._label_margin import lowered, read_margins
from jsoftmax.losses._log_loss import expected_log_loss, label_log_loss
from jsoftmax.losses._targets import read_targets, read_weights, weighted, wide
from jsoftmax.mappings._implementation import by_rows


@by_rows
def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    margin: ArrayLike = 0.0,
    angular_margin: ArrayLike = 0.0,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Compute the expected negative log-likelihood of targets under `softmax` of the logits.

    .. math:: L = \sum_i w_i y_i (-\log p_i) + λ (\log\sum_i e^{z_i/T})²

    with p = softmax(z/T), and with c tanh(z/c) in place of z for a soft cap c. It equals
    `optax.softmax_cross_entropy` and `..._with_integer_labels` where these are accurate, and is
    accurate to a few eps also where a confident logit makes −log p ≈ 0, and at any offset. For a
    distribution it is KL(y‖p) + H(y); `fenchel_young_loss` at α = 1 is KL alone.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        targets: classes, integers of the shape of `logits` without the class axis (numbered
            row-major in the order of the tuple if `axis` is one); or distributions, floats of the
            shape of `logits` that sum to 1 along `axis`, and differentiable. A row of zeros is
            ignored: its loss and gradient are 0.
        axis: the class axis, a tuple of axes that together hold the classes, or None for all.
        where: boolean mask that broadcasts to `logits`: only these classes take part. Target mass
            on another class makes the loss +∞, with a finite gradient.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, with p ∝ q exp z: the class
            frequencies make it the balanced softmax. 0 masks a class. Differentiable.
        ignore_index: rows with this label have loss 0 and gradient 0. An integer; it may be traced,
            but then known labels are not checked.
        label_smoothing: s from 0 to 1, a number or an array with size 1 along `axis`: y becomes
            (1−s) y plus s spread evenly over the unmasked classes. NaN out of range in a
            `jax.Array`.
        class_weights: w ≥ 0, one number a class, or any shape that broadcasts to `logits`. The
            sign is not checked in a `jax.Array`; negative weights there are used unchanged.
        z_loss: λ, a number or an array with size 1 along `axis`. It pulls the log-partition to 0,
            and is the only term that depends on the offset of the logits. At T = 0, where it has no
            limit, it is left out.
        margin: m, a number or an array with size 1 along `axis`, subtracted from the score z of the
            label before the division by T. With cosines for logits and T = 1/s this is CosFace.
            Targets must be classes. Differentiable.
        angular_margin: m in [0, π), likewise, in radians: the logits are cosines, and that of the
            label becomes cos(arccos z + m), or z − m sin m where the angle is beyond π − m. With
            T = 1/s this is ArcFace; with `margin` too it is cos(θ + m₂) − m₃.
        temperature: T, a number or an array with size 1 along `axis`, of either sign; T = 0 means
            the limit from above, a loss of 0 or +∞. T < 0 favours the lowest scores: −∞ takes the
            mass, +∞ gets none; exclude classes by `where`.
        logits_soft_cap: c > 0, a number, or None for no cap. A logit of −∞ stays excluded.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.
        implementation: "xla", or "pallas" for one kernel, which raises NotImplementedError for an
            argument that it does not take. None is "pallas" on hardware where
            `python -m jsoftmax.kernels` found it right and faster, else "xla".

    Returns:
        One loss a row, in float32 at least. 0 for a fully masked row. NaN for a label out of
        range in a `jax.Array`; its values are not checked.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, there are no classes, a label, `label_smoothing` or
            `angular_margin` given by Python or numpy is out of range, or a margin is given with
            distributions as targets.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, 2.0, 8.0], [0.0, 0.0, 0.0]])
        >>> print(cross_entropy(z, jnp.array([2, 0])))
        [0.0034 1.0986]
        >>> cosines = jnp.array([0.9, 0.2, -0.3])
        >>> print(cross_entropy(cosines, 0, angular_margin=0.5, temperature=1 / 16))
        0.00226
        >>> print(cross_entropy(jnp.array([0.0, 40.0]), 1))
        4.248e-18

    Reference:
        J. Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR
        2019; H. Wang et al., "CosFace: large margin cosine loss for deep face recognition", CVPR
        2018.
    """
    function = "cross_entropy"
    if logits_soft_cap is not None:
        logits = _capped(function, logits, logits_soft_cap)
    ask = problem(
        function, logits, axis, where, prior=prior, temperature=temperature, axis_name=axis_name
    )
    read = read_targets(function, targets, ask, ignore_index, label_smoothing)
    weights = read_weights(function, class_weights, ask)
    ask = read.counted_rows(ask)
    ask = _with_margins(function, ask, targets, margin, angular_margin)
    z = with_log_prior(cooled(ask.z, ask.temperature, ask.classes), ask.prior, ask.classes)
    if read.labels is None:
        y = read.y if weights is None else read.y * weights
        loss = expected_log_loss(z, y, ask.classes)
    else:
        loss = weighted(label_log_loss(z, read.labels, ask.classes), weights, read.y, ask.classes)
    if checks.static_number(z_loss) != 0:
        strength = checks.per_row(function, "z_loss", z_loss, ask.z, ask.classes, loss.dtype)
        loss = loss + strength * log_partition_of(ask) ** 2
    return ask.squeezed(read.settle(loss))


def _with_margins(
    function: str, ask: Problem, targets: Any, margin: Any, angular_margin: Any
) -> Problem:
    """Return the problem with lowered scores of labels."""
    margins = read_margins(
        function,
        margin,
        angular_margin,
        lambda name, x: checks.per_row(function, name, x, ask.z, ask.classes, ask.z.dtype),
    )
    if margins is None:
        return ask
    labels = checks.as_array(function, "targets", targets)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"jsoftmax.{function}: `margin` and `angular_margin` need integer targets; these are "
            f"distributions of dtype {labels.dtype}, without a single label."
        )
    labels = wide(jnp.expand_dims(labels, ask.classes.axis))
    is_label = ask.classes.index(ask.z).astype(labels.dtype) == labels
    # Where T < 0 has negated the scores, the highest is the worst.
    z = ask.sign * lowered(ask.sign * ask.z, is_label, margins)
    return dataclasses.replace(ask, z=ask.unmasked(z, -jnp.inf))


def log_partition_of(ask: Problem) -> Array:
    """Return log Σ exp(z/T), kept as a size-1 axis; 0 for a fully masked row."""
    level = ask.conjugate()
    level = jnp.where(level == -jnp.inf, 0, level)
    return level if ask.temperature is None else quotient(level, ask.temperature)


def _capped(function: str, logits: ArrayLike, cap: Any) -> Array:
    """Return c tanh(z/c) in the computing dtype; −∞ stays −∞."""
    z = checks.as_array(function, "logits", logits)
    c = checks.static_number(cap)
    if c is None or not c > 0:
        raise ValueError(
            f"jsoftmax.{function}: `logits_soft_cap` must be a positive number known while tracing,"
            f" got {cap!r}."
        )
    z = z.astype(checks.compute_dtype(z))
    return jnp.where(z == -jnp.inf, z, c * jnp.tanh(jnp.where(z == -jnp.inf, 0, z) / c))
