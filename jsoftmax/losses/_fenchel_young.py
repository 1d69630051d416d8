"""Fenchel–Young losses: Ω*(z) + Ω(y) − ⟨y, z⟩, summed from terms none of which is negative.

The textbook form loses a small loss in the difference of large numbers. With p the prediction,
z − τ = ω′(p) on its support, and Σ (y − p) = 0,

    L = Σ [ω(y) − ω(p) − ω′(p)(y − p)] + Σ_{p=0} y (τ + ω′(0) − z) + Σ_{p=u} (u − y)(z − τ − ω′(u)),

the last sum for maps with caps u. Its gradient is p − y, and ∂L/∂α = ∂_αΩ(y) − ∂_αΩ(p).
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import problem
from jsoftmax.core._regularizers import Tsallis, q_log_from_log
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import entropy_of, log_probabilities
from jsoftmax.losses._log_loss import (
    beyond_reach,
    mass_of_the_rest,
    refined_log,
    surplus,
)
from jsoftmax.losses._targets import read_targets, read_weights, weighted


def fenchel_young_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    alpha: ArrayLike = 1.0,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""The loss whose prediction is `entmax` of order α: zero exactly when p = y, gradient p − y.

    .. math:: L = Ω_α^*(z) + Ω_α(y) - ⟨y, z⟩ ≥ 0

    At α = 1 it is KL(y‖p), which for classes is `cross_entropy`; at α = 2 the sparsemax loss. For
    α > 1 it is zero once the target leads by 1/(α−1). It is convex in the logits.

    Never minimise it over its own α: for every one-hot target the loss *falls* as α grows, whatever
    the logits are, so α would run away without anything being learned.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        targets: classes, integers of the shape of `logits` without the class axis; or
            distributions, floats of the shape of `logits` that sum to 1 along `axis`. A row of
            zeros does not count: its loss and gradient are 0.
        alpha: α > 0, a number or an array with size 1 along `axis`.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`: only these classes take part. Target mass
            on another class makes the loss +∞, with a finite gradient.
        ignore_index: rows with this label have loss 0 and gradient 0.
        label_smoothing: s from 0 to 1: y becomes (1−s) y plus s spread evenly over the unmasked
            classes.
        class_weights: w ≥ 0, one number a class; the loss of a row is multiplied by ⟨w, y⟩.
        axis_name: name of the mesh or `vmap` axis over which the class axis is split.

    Returns:
        One loss a row, in float32 at least. 0 for a row without any class. NaN for a label out of
        range in a `jax.Array`, whose values are not checked.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, there are no classes, `alpha` is a number that is not
            positive, or a label or `label_smoothing` given by Python or numpy is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([1.0, 0.5, -1.0])
        >>> print(fenchel_young_loss(z, 1, alpha=2.0))
        0.5625
        >>> print(jax.grad(fenchel_young_loss)(z, 1, 2.0))
        [ 0.75 -0.75  0.  ]

    Reference:
        M. Blondel, A. F. T. Martins and V. Niculae, "Learning with Fenchel–Young losses", JMLR
        2020.
    """
    return _loss(
        "fenchel_young_loss", logits, targets, alpha, axis, where, ignore_index, label_smoothing,
        class_weights, axis_name,
    )  # fmt: skip


def entmax_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    alpha: ArrayLike = 1.5,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""The loss of `entmax`: `fenchel_young_loss`, at α = 1.5 unless told otherwise.

    Never minimise it over its own α: it falls as α grows, whatever the logits are.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        targets: classes, or distributions that sum to 1 along `axis`; a row of zeros does not
            count.
        alpha: α > 0, a number or an array with size 1 along `axis`.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`: only these classes take part.
        ignore_index: rows with this label have loss 0 and gradient 0.
        label_smoothing: from 0 to 1, spread evenly over the unmasked classes.
        class_weights: w ≥ 0, one number a class; the loss of a row is multiplied by ⟨w, y⟩.
        axis_name: name of the mesh or `vmap` axis over which the class axis is split.

    Returns:
        One loss a row, in float32 at least.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: as `fenchel_young_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(entmax_loss(jnp.array([3.0, 0.0, -1.0]), 0))
        0.0

    Reference:
        B. Peters, V. Niculae and A. F. T. Martins, "Sparse sequence-to-sequence models", ACL 2019.
    """
    return _loss(
        "entmax_loss", logits, targets, alpha, axis, where, ignore_index, label_smoothing,
        class_weights, axis_name,
    )  # fmt: skip


def sparsemax_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""The loss of `sparsemax`: `fenchel_young_loss` at α = 2, a smooth multi-class hinge.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        targets: classes, or distributions that sum to 1 along `axis`; a row of zeros does not
            count.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`: only these classes take part.
        ignore_index: rows with this label have loss 0 and gradient 0.
        label_smoothing: from 0 to 1, spread evenly over the unmasked classes.
        class_weights: w ≥ 0, one number a class; the loss of a row is multiplied by ⟨w, y⟩.
        axis_name: name of the mesh or `vmap` axis over which the class axis is split.

    Returns:
        One loss a row, in float32 at least.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: as `fenchel_young_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(sparsemax_loss(jnp.array([1.0, 0.5, -1.0]), 0))
        0.0625

    Reference:
        A. F. T. Martins and R. F. Astudillo, "From softmax to sparsemax", ICML 2016.
    """
    return _loss(
        "sparsemax_loss", logits, targets, 2.0, axis, where, ignore_index, label_smoothing,
        class_weights, axis_name,
    )  # fmt: skip


def _loss(
    function, logits, targets, alpha, axis, where, ignore_index, label_smoothing, class_weights,
    axis_name,
):  # fmt: skip
    ask = problem(function, logits, axis, where, alpha=alpha, axis_name=axis_name)
    read = read_targets(function, targets, ask, ignore_index, label_smoothing)
    weights = read_weights(function, class_weights, ask)
    ask, y, classes = read.counted_rows(ask), read.y, ask.classes
    if ask.is_hard:
        loss = perceptron(ask.z, y, ask.hard(), classes.max(ask.z), classes)
    else:
        loss = fenchel_young(ask.z, y, ask.alpha, ask.family, classes)
        if ask.temperature is not None:  # where it is 0, α is ∞
            limit = perceptron(ask.z, y, ask.hard(), classes.max(ask.z), classes)
            loss = jnp.where(ask.temperature == 0, limit, loss)
    return ask.squeezed(read.settle(weighted(loss, weights, y, classes)))


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def perceptron(z: Array, y: Array, p: Array, least: Array, classes: ClassAxis) -> Array:
    """The loss at α = ∞, where Ω = 0: max ⟨p, z⟩ − ⟨y, z⟩, kept as a size-1 axis.

    Measured from `least`, the lowest score that is chosen, no term of Σ (p − y) z is negative.
    """
    move = p - y
    moves = (move != 0) & (z > -jnp.inf)
    ahead = jnp.where(moves, difference(jnp.where(moves, z, 0), least), 0)
    loss = classes.sum(jnp.where(moves, move * ahead, 0))
    lost = ((y > 0) & (z == -jnp.inf)) | beyond_reach(z, y, classes)
    loss = jnp.where(classes.max(lost.astype(z.dtype)) > 0, jnp.inf, loss)
    top = classes.max(z)
    return jnp.where(top == -jnp.inf, 0, jnp.where(top == top, loss, top))


@partial(perceptron.defjvp, symbolic_zeros=True)
def _perceptron_jvp(classes, primals, tangents):
    # p is piecewise constant, and Σ (p − y) = 0 leaves nothing of a move of `least`.
    z, y, p, least = primals
    d_z, d_y, *_ = tangents
    loss = perceptron(z, y, p, least, classes)
    tangent = jnp.zeros_like(loss)
    if not isinstance(d_z, SymbolicZero):
        tangent = tangent + classes.sum(jnp.where(z > -jnp.inf, p - y, 0) * d_z)
    if not isinstance(d_y, SymbolicZero):
        behind = jnp.where(z > -jnp.inf, difference(z, least), 0)
        tangent = tangent - classes.sum(behind * d_y)
    return loss, tangent


def fenchel_young(
    z: Array, y: Array, alpha: Array | None, family: Tsallis, classes: ClassAxis
) -> Array:
    """Ω*(z) + Ω(y) − ⟨y, z⟩, kept as a size-1 axis."""
    return attained(*prediction(z, alpha, family, classes), z, y, alpha, family, classes)


@partial(jax.custom_jvp, nondiff_argnums=(6, 7))
def attained(
    p: Array, log_p: Array, rest: Array, z: Array, y: Array, alpha: Array | None, family: Tsallis,
    classes: ClassAxis,
) -> Array:  # fmt: skip
    a = family.exponent(alpha)
    terms = divergence(y, p, log_p, a)
    a = jnp.asarray(a, z.dtype)
    if not isinstance(family.exponent(alpha), float) or family.exponent(alpha) > 0:
        # ω′(0) = −1/a is finite only for a > 0; elsewhere p = 0 only where z = −∞.
        empty = (log_p == -jnp.inf) & (y > 0) & (a > 0)
        behind = -1 / jnp.where(a > 0, a, 1) - above_threshold(p, z, alpha, family, classes)
        terms = terms + jnp.where(empty, y * jnp.where(empty, jnp.maximum(behind, 0), 0), 0)
    terms = jnp.where(beyond_reach(z, y, classes), jnp.inf, terms)
    return jnp.where(classes.max(z) == -jnp.inf, 0, classes.sum(terms))


@partial(attained.defjvp, symbolic_zeros=True)
def _attained_jvp(family, classes, primals, tangents):
    # Nothing is gained by moving p, because the maximum of ⟨p, z⟩ − Ω(p) is there. The value is
    # returned as what it is, a loss, so that it is differentiated by this rule again.
    p, log_p, rest, z, y, alpha = primals
    *_, d_z, d_y, d_alpha = tangents
    loss = attained(p, log_p, rest, z, y, alpha, family, classes)
    tangent = jnp.zeros_like(loss)
    if not isinstance(d_z, SymbolicZero):
        move = jnp.where(z > -jnp.inf, surplus(p, rest, y, 1.0), 0)
        tangent = tangent + classes.sum(move * d_z)
    if not isinstance(d_y, SymbolicZero):
        slope = family.marginal(y, alpha) - above_threshold(p, z, alpha, family, classes)
        tangent = tangent + classes.sum(jnp.where(jnp.isfinite(slope), slope, 0) * d_y)
    if alpha is not None and not isinstance(d_alpha, SymbolicZero):
        tangent = tangent + along_alpha(p, y, z, alpha, d_alpha, family, classes)
    return loss, tangent


def along_alpha(p, y, z, alpha, d_alpha, family, classes) -> Array:
    """(∂Ω(y)/∂α − ∂Ω(p)/∂α) α̇, 0 in a row without any class."""
    _, along = jax.jvp(
        lambda a: entropy_of(p, a, family, classes) - entropy_of(y, a, family, classes),
        (alpha,),
        (d_alpha,),
    )
    return jnp.where(classes.max(z) == -jnp.inf, 0, along)


def divergence(y: Array, p: Array, log_p: Array, a: float | Array) -> Array:
    """ω(y) − ω(p) − ω′(p)(y − p) ≥ 0, entry by entry.

    For y = 0 it is p^α/α. Otherwise, with w = log(p/y), it is y^α β(w) for

        β(w) = (e^{αw} − 1)/α − (e^{aw} − 1)/a = e^{aw} w [φ(w) − φ(−aw)]/α,   φ(x) = (eˣ − 1)/x,

    and where w is small the bracket is summed as a series, Σ wⁿ (1 − (−a)ⁿ)/(n+1)!. Where p is far
    above y, y^α β(w) overflows, and p^α (r (rᵃ − 1)/a + 1 − r)/α for r = y/p does not.
    """
    alpha = 1 + a
    a_array = jnp.asarray(a, p.dtype)
    positive = y > 0
    log_y = jnp.log(jnp.where(positive, y, 1))
    w = jnp.where(positive, log_p, 0) - log_y
    within = jnp.maximum(w, -1)  # 0 · ∞ is NaN
    small = jnp.maximum(jnp.abs(within), jnp.abs(a_array * within)) < 0.25
    near = jnp.where(small, w, 0)
    series, power, turned = jnp.zeros_like(near), jnp.ones_like(near), jnp.ones_like(near)
    factorial = 1.0
    for n in range(1, 14):  # 0.25¹⁴/15! is 3e-21
        factorial *= n + 1
        power, turned = power * near, turned * (-a_array * near)
        series = series + (power - turned) / factorial
    series = jnp.exp(a_array * near) * near * series / alpha
    far = jnp.where(small | (w > 1), -1, w)
    direct = q_log_from_log(far, alpha) - q_log_from_log(far, a)
    above = jnp.where(w > 1, w, 1)
    ratio = jnp.exp(-above)
    exceeding = (ratio * q_log_from_log(-above, a) + 1 - ratio) / alpha
    p_power = jnp.where(p > 0, jnp.exp(alpha * jnp.log(jnp.where(p > 0, p, 1))), p)
    below = jnp.exp(alpha * log_y) * jnp.where(small, series, direct)
    inside = jnp.where(w > 1, p_power * exceeding, below)
    return jnp.where(positive, inside, jnp.where(y == 0, p_power / alpha, y))


def above_threshold(p, z, alpha, family, classes) -> Array:
    """z − τ, which is ω′(p) on the support: known at the largest score."""
    return difference(z, classes.max(z)) + family.marginal(_largest(p, z, classes), alpha)


def _largest(p, z, classes):
    top = z == classes.max(z)
    return classes.sum(jnp.where(top, p, 0)) / jnp.maximum(classes.sum(top.astype(p.dtype)), 1)


def prediction(z, alpha, family, classes):
    log_p = log_probabilities(z, alpha, family, classes)
    p = jnp.exp(log_p)
    rest = mass_of_the_rest(p, classes)
    return p, refined_log(log_p, p, rest), rest
