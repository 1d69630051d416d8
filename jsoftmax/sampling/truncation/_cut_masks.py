"""Truncation masks with a closed-form cut: min-p, top-nσ, η."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
from jaxtyping import Array, ArrayLike, Bool

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import problem
from jsoftmax.sampling.truncation import _kept as kept
from jsoftmax.sampling.truncation._settings import setting


def min_p_mask(
    logits: ArrayLike,
    min_p: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Bool[Array, "..."]:
    r"""Return the mask of the classes with at least `min_p` times the largest probability.

    .. math:: m_i = [q_i ≥ p_{\min} \max_j q_j], \qquad q = \mathrm{softmax}(z/T)

    It takes one maximum and a comparison. Pass it as `where` to `softmax`, `categorical` or another
    mask.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        min_p: from 0 to 1; a number or an array with size 1 along `axis`, traced or not. 0 keeps
            every class, 1 the largest. A traced value out of range is clipped, and NaN keeps every
            class.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`. Other classes are left out.
        temperature: T, a number or an array with size 1 along `axis`. T = 0 keeps the largest
            scores; T < 0 reverses the order.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A boolean mask of the shape of `logits`. Never empty, except where no class takes part.
        Scores of −∞ never stay; a NaN always does, so that it is seen.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `min_p`
            is a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25]))
        >>> print(min_p_mask(z, 0.25))
        [False  True  True  True]

    Reference:
        M. Nguyen et al., "Turning up the heat: min-p sampling for creative and coherent LLM
        outputs", ICLR 2025.
    """
    ask = problem("min_p_mask", logits, axis, where, temperature=temperature, axis_name=axis_name)
    ratio = setting("min_p_mask", "min_p", min_p, ask.z, ask.classes, 0, 1)
    found = _by_ratio(ask.z, ratio, ask.temperature, ask.classes)
    return ask.unmasked(found, False)


def top_n_sigma_mask(
    logits: ArrayLike,
    n: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Bool[Array, "..."]:
    r"""Return the mask of the scores within n standard deviations of the largest.

    .. math:: m_i = [z_i ≥ \max_j z_j - n σ], \qquad σ² = \frac1K \sum_j (z_j - \bar z)²

    It does not depend on a temperature. Pass it as `where` to `softmax`, `categorical` or another
    mask.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        n: at least 0; a number or an array with size 1 along `axis`, traced or not. 0 keeps the
            largest, ∞ every class. A traced n below 0 counts as 0, and NaN keeps every class.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`. Other classes are left out of σ too, and so
            are scores of −∞.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A boolean mask of the shape of `logits`. Never empty, except where no class takes part.
        Scores of −∞ never stay; a NaN always does, so that it is seen.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `n` is a
            number below 0.

    Example:
        >>> import jax.numpy as jnp
        >>> print(top_n_sigma_mask(jnp.array([5.0, 4.5, 0.0, -1.0]), 1.0))
        [ True  True False False]

    Reference:
        C. Tang et al., "Top-nσ: not all logits are you need", 2024.
    """
    ask = problem("top_n_sigma_mask", logits, axis, where, axis_name=axis_name)
    n = setting("top_n_sigma_mask", "n", n, ask.z, ask.classes, 0)
    return ask.unmasked(_by_deviation(ask.z, n, ask.classes), False)


def eta_mask(
    logits: ArrayLike,
    epsilon: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Bool[Array, "..."]:
    r"""Return the mask of the classes with probability at least η, which falls with the entropy.

    .. math:: m_i = [q_i ≥ η], \qquad η = \min(ε, \sqrt ε e^{-H(q)}), \qquad
              q = \mathrm{softmax}(z/T)

    Pass it as `where` to `softmax`, `categorical` or another mask.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        epsilon: ε from 0 to 1; a number or an array with size 1 along `axis`, traced or not. 0
            keeps every class. A traced ε out of range is clipped, and NaN keeps every class.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`. Other classes are left out, and the
            probabilities are those of the remaining ones.
        temperature: T, a number or an array with size 1 along `axis`. T = 0 keeps the largest
            scores; T < 0 reverses the order.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A boolean mask of the shape of `logits`. Never empty, except where no class takes part: the
        largest stays where all are below η. Scores of −∞ never stay; a NaN always does.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `epsilon`
            is a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
        >>> print(eta_mask(z, 0.1))
        [ True  True  True False]

    Reference:
        J. Hewitt, C. D. Manning and P. Liang, "Truncation sampling as language model desmoothing",
        Findings of EMNLP 2022.
    """
    ask = problem("eta_mask", logits, axis, where, temperature=temperature, axis_name=axis_name)
    epsilon = setting("eta_mask", "epsilon", epsilon, ask.z, ask.classes, 0, 1)
    found = _by_entropy(ask.z, epsilon, ask.temperature, ask.classes)
    return ask.unmasked(found, False)


# Each is compiled once for each shape, also when called outside `jit`.
@partial(jax.jit, static_argnums=3, inline=True)
def _by_ratio(z: Array, ratio: Array, temperature: Array | None, classes: ClassAxis) -> Array:
    return kept.kept_by_ratio(z, ratio, temperature, classes.max(z), classes)


@partial(jax.jit, static_argnums=2, inline=True)
def _by_deviation(z: Array, n: Array, classes: ClassAxis) -> Array:
    return kept.kept_by_deviation(z, n, classes.max(z), classes)


@partial(jax.jit, static_argnums=3, inline=True)
def _by_entropy(z: Array, epsilon: Array, temperature: Array | None, classes: ClassAxis) -> Array:
    return kept.kept_by_entropy(z, epsilon, temperature, classes.max(z), classes)
