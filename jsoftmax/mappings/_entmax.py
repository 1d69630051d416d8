"""The α-entmax family: softmax at α = 1, sparsemax at α = 2, arg max at α = ∞."""

from __future__ import annotations

from collections.abc import Hashable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._problem import problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import Tsallis, chosen, of_order
from jsoftmax.mappings._implementation import by_rows


@by_rows
def entmax(
    logits: ArrayLike,
    alpha: ArrayLike = 1.5,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Compute the probabilities that trade off score and Tsallis entropy of order α.

    .. math:: p = \arg\max_{p \in Δ} ⟨p, z/T⟩ - Ω_α(p)
              \quad\text{with}\quad Ω_α(p) = \frac{\sum_i p_i^α - 1}{α(α-1)},

    with the solution :math:`p_i = [1 + (α-1)(z_i/T - τ)]_+^{1/(α-1)}`. For α > 1 classes far below
    the best get probability exactly zero; the larger α, the fewer remain. α = 1 is `softmax`,
    α = 2 `sparsemax`, α = ∞ `hardmax`; for 0 < α < 1 the tails are heavier than those of softmax.
    The map is continuous in α, and α may be traced, learned, and differ from row to row.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype. Scores of −∞ get probability 0,
            those of +∞ share all the mass (at T > 0).
        alpha: α > 0, a number or an array with size 1 along `axis`. A number known while tracing
            is faster: 1, 1.5 and 2 have closed forms for the power. But each such number compiles
            its own program: in a schedule, one at every step, which takes seconds. Give a
            schedule's α as an array, `jnp.asarray(alpha)`, to compile once.
        axis: the class axis, a tuple of axes that together hold the classes, or None for all.
        where: boolean mask that broadcasts to `logits`. Classes where it is False get probability
            exactly 0 and gradient exactly 0.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes Ω(p) = Σ q ω(p/q); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T = 0 means
            the limit from above, arg max with ties shared. T < 0 favours the lowest scores: −∞
            takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.
        implementation: "xla", or "pallas" for one kernel, which raises NotImplementedError for an
            argument that it does not take. None is "pallas" on hardware where
            `python -m jsoftmax.kernels` found it right and faster, else "xla".

    Returns:
        p of the shape and dtype of `logits` (the default float dtype for integers).

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `alpha`
            is a number that is not positive. A traced α that is not positive gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([0.1, 1.2, 0.9])
        >>> print(entmax(z, 1.5).tolist(), entmax(z, 2.0).tolist())
        [0.0449, 0.5806, 0.3745] [0.0, 0.65, 0.35]

    Reference:
        B. Peters, V. Niculae and A. F. T. Martins, "Sparse sequence-to-sequence models", ACL 2019.
    """
    ask = problem(
        "entmax", logits, axis, where, regularizer=of_order("entmax", alpha), prior=prior,
        temperature=temperature, axis_name=axis_name,
    )  # fmt: skip
    return ask.probabilities().astype(ask.dtype)


@by_rows
def sparsemax(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Project scores onto the probability simplex, in Euclidean distance: `entmax` at α = 2.

    .. math:: p = \arg\min_{p \in Δ} ‖p - z/T‖², \qquad p_i = [z_i/T - τ]_+

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        axis: the class axis, a tuple of axes that together hold the classes, or None for all.
        where: boolean mask that broadcasts to `logits`.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes Ω(p) = Σ q ω(p/q); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.
        implementation: "xla", or "pallas" for one kernel, which raises NotImplementedError for an
            argument that it does not take. None is "pallas" on hardware where
            `python -m jsoftmax.kernels` found it right and faster, else "xla".

    Returns:
        p of the shape and dtype of `logits` (the default float dtype for integers).

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(sparsemax(jnp.array([1.0, 0.5, -1.0])))
        [0.75       0.25000 0.        ]

    Reference:
        A. F. T. Martins and R. F. Astudillo, "From softmax to sparsemax", ICML 2016.
    """
    ask = problem(
        "sparsemax", logits, axis, where, regularizer=Tsallis(2.0), prior=prior,
        temperature=temperature, axis_name=axis_name,
    )  # fmt: skip
    return ask.probabilities().astype(ask.dtype)


def binary_entmax(
    logits: ArrayLike, alpha: ArrayLike = 1.5, *, temperature: ArrayLike = 1.0
) -> Float[Array, "..."]:
    r"""Compute the counterpart of the logistic function for any α: the first entry of entmax(z, 0).

    At α = 1 it is the sigmoid, at α = 2 the clipped line :math:`\min(1, \max(0, (z/T+1)/2))`; for
    α > 1 it reaches 0 and 1 at finite z.

    Args:
        logits: scores z of any shape, each one a separate problem.
        alpha: α > 0, a number or an array that broadcasts to `logits`.
        temperature: T, a number or an array that broadcasts to `logits`, of either sign.

    Returns:
        The probability of the class with score z against one with score 0, of the shape and dtype
        of `logits`.

    Raises:
        TypeError: if `logits` are not real numbers.
        ValueError: if shapes do not fit, or `alpha` is a number that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> print(binary_entmax(jnp.array([-1.0, 0.0, 0.5, 3.0]), alpha=2.0))
        [0.   0.5  0.75 1.  ]
    """
    logits = checks.as_array("binary_entmax", "logits", logits)
    alpha, temperature = (
        x if checks.static_number(x) is not None else _expanded(name, x)
        for name, x in (("alpha", alpha), ("temperature", temperature))
    )
    pairs = jnp.stack([logits, jnp.zeros_like(logits)], axis=-1)
    ask = problem(
        "binary_entmax", pairs, -1, regularizer=of_order("binary_entmax", alpha),
        temperature=temperature,
    )  # fmt: skip
    return ask.probabilities()[..., 0].astype(ask.dtype)


def _expanded(name: str, x: ArrayLike) -> Array | np.ndarray:
    """Return `x` with a class axis; numpy values stay numpy, so that they can be checked."""
    known = checks.known_values(x)
    array = checks.as_array("binary_entmax", name, x) if known is None else known
    return array[..., None]


@by_rows
def smoothmax(
    logits: ArrayLike,
    alpha: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = -1,
    *,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Compute the smooth maximum of any regularizer of the family; its gradient is `entmax`.

    .. math:: T Ω_α^*(z/T) = \max_{p \in Δ} ⟨p, z⟩ - T Ω_α(p)

    At α = 1 it is `logsumexp`, at α → ∞ or T → 0 the maximum. Its derivative with respect to T is
    `entropy` of the distribution.

    Args:
        logits: scores z of shape [..., K, ...].
        alpha: α > 0, a number or an array with size 1 along `axis`; 1 if None.
        axis: the class axis or axes; None for all.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `logits`: only these classes take part.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes Ω(p) = Σ q ω(p/q); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0 gives
            the smooth minimum: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        keepdims: keep the class axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.
        implementation: "xla", or "pallas" for one kernel, which raises NotImplementedError for an
            argument that it does not take. None is "pallas" on hardware where
            `python -m jsoftmax.kernels` found it right and faster, else "xla".

    Returns:
        One number a row, in float32 at least. −∞ for a fully masked row (+∞ if T < 0).

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `alpha`
            is a number that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> print(smoothmax(jnp.array([1.0, 0.5, -1.0]), alpha=2.0))
        1.0625
        >>> print(jax.grad(smoothmax)(jnp.array([1.0, 0.5, -1.0]), 2.0))
        [0.75       0.25000 0.        ]
    """
    ask = problem(
        "smoothmax", logits, axis, where,
        regularizer=chosen("smoothmax", alpha, regularizer, 1.0), prior=prior,
        temperature=temperature, axis_name=axis_name,
    )  # fmt: skip
    return ask.squeezed(ask.conjugate(), keepdims)


def entropy(
    probabilities: ArrayLike,
    alpha: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = -1,
    *,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the Tsallis entropy of order α, normalised as in the objective of `entmax`.

    .. math:: -Ω_α(p) = \frac{1 - \sum_i p_i^α}{α(α-1)}, \qquad -Ω_1(p) = -\sum_i p_i \log p_i

    At α = 1 it is Shannon's entropy in nats; at α = 2 *half* of the Gini index; at α = ∞ zero. A
    one-hot distribution has entropy 0 for every α.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`.
        alpha: α > 0, a number or an array with size 1 along `axis`; 1 if None.
        axis: the class axis or axes; None for all.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `probabilities`.
        prior: a reference measure q ≥ 0 that broadcasts to `probabilities`, 1 if None,
            which makes Ω(p) = Σ q ω(p/q); 0 masks a class. Differentiable.
        keepdims: keep the class axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        One number a row, in float32 at least.

    Raises:
        TypeError: if `probabilities` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `alpha`
            is a number that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> p = jnp.array([0.5, 0.5])
        >>> print(entropy(p), entropy(p, alpha=2.0))
        0.6931472 0.25
    """
    ask = problem(
        "entropy", probabilities, axis, where,
        regularizer=chosen("entropy", alpha, regularizer, 1.0), prior=prior, axis_name=axis_name,
        called="probabilities",
    )  # fmt: skip
    p = ask.unmasked(ask.z, 0)
    value = ask.entropy(p)
    if ask.temperature is not None:  # for α = ∞ the problem has T = 0
        value = jnp.where(ask.temperature == 0, 0, value)
    return ask.squeezed(value, keepdims)
