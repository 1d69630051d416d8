"""Truncation masks that keep a given number or mass of classes: top-k, top-p, typical."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
from jaxtyping import Array, ArrayLike, Bool

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import problem
from jsoftmax.sampling.truncation import _kept as kept
from jsoftmax.sampling.truncation._settings import setting


def top_k_mask(
    logits: ArrayLike,
    k: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Bool[Array, "..."]:
    r"""Return the mask of the k largest scores of each row, without sorting.

    .. math:: m_i = [z_i ≥ t], \qquad t = \max\{t : |\{j : z_j ≥ t\}| ≥ k\}

    Pass it as `where` to `softmax`, `categorical`, another mask, or a loss. The cut t is found by
    maxima and sums, so a vocabulary that is split over a mesh is not gathered.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        k: how many stay, at least 1; a number or an array with size 1 along `axis`, traced or not.
            K or more keeps every class. A traced k below 1 counts as 1, a NaN as K.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`. Other classes are left out, and not
            counted.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A boolean mask of the shape of `logits`. Scores equal to the last that stays stay too, so
        more than k may. Never empty, except where no class takes part. Scores of −∞ never stay; a
        NaN always does, so that it is seen.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `k` is a
            number below 1 or not an integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 2.0]])
        >>> print(top_k_mask(z, jnp.array([[1], [2]])))
        [[ True False False False]
         [ True  True False  True]]

    Reference:
        A. Fan, M. Lewis and Y. Dauphin, "Hierarchical neural story generation", ACL 2018.
    """
    ask = problem("top_k_mask", logits, axis, where, axis_name=axis_name)
    k = setting("top_k_mask", "k", k, ask.z, ask.classes, 1, is_whole=True)
    return ask.unmasked(_by_rank(ask.z, k, ask.classes), False)


def top_p_mask(
    logits: ArrayLike,
    p: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Bool[Array, "..."]:
    r"""Return the mask of the fewest classes with total probability p (nucleus), without sorting.

    .. math:: m_i = [z_i ≥ t], \qquad t = \max\{t : \sum_{z_j ≥ t} \mathrm{softmax}(z/T)_j ≥ p\}

    Pass it as `where` to `softmax`, `categorical` or another mask. The cut t is found by maxima and
    sums, so a vocabulary that is split over a mesh is not gathered.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        p: from 0 to 1; a number or an array with size 1 along `axis`, traced or not. 0 keeps the
            largest, 1 every class. A traced p out of range is clipped, and NaN keeps every class.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`. Other classes are left out, and the
            probabilities are those of the remaining ones.
        temperature: T, a number or an array with size 1 along `axis`. T = 0 keeps the largest
            scores; T < 0 reverses the order.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A boolean mask of the shape of `logits`. Scores equal to the last that stays stay too. A
        mass that misses p by the rounding of its sum, 4 eps of it, counts as p. Never empty, except
        where no class takes part. Scores of −∞ never stay; a NaN always does.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `p` is a
            number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25]))
        >>> print(top_p_mask(z, 0.7))
        [False  True False  True]

    Reference:
        A. Holtzman, J. Buys, L. Du, M. Forbes and Y. Choi, "The curious case of neural text
        degeneration", ICLR 2020.
    """
    ask = problem("top_p_mask", logits, axis, where, temperature=temperature, axis_name=axis_name)
    p = setting("top_p_mask", "p", p, ask.z, ask.classes, 0, 1)
    return ask.unmasked(_by_mass(ask.z, p, ask.temperature, ask.classes), False)


def typical_mask(
    logits: ArrayLike,
    p: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Bool[Array, "..."]:
    r"""Return the mask of the classes closest to the entropy that together have probability p.

    .. math:: m_i = [|\log q_i + H(q)| ≤ d], \qquad q = \mathrm{softmax}(z/T)

    with the smallest d that gives them probability p. Besides improbable classes it leaves out
    those that are more probable than typical, even the largest. Pass it as `where` to `softmax`,
    `categorical` or another mask.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        p: from 0 to 1; a number or an array with size 1 along `axis`, traced or not. 0 keeps the
            closest class, 1 every class. A traced p out of range is clipped, and NaN keeps every
            class.
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`. Other classes are left out, and the
            probabilities are those of the remaining ones.
        temperature: T, a number or an array with size 1 along `axis`. T = 0 keeps the largest
            scores; T < 0 reverses the order.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        A boolean mask of the shape of `logits`. Classes as close as the last that stays stay too. A
        mass that misses p by the rounding of its sum, 4 eps of it, counts as p. Never empty, except
        where no class takes part. Scores of −∞ never stay; a NaN always does.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `p` is a
            number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.log(jnp.array([0.5, 0.3, 0.1, 0.1]))
        >>> print(typical_mask(z, 0.2))
        [False  True False False]

    Reference:
        C. Meister, T. Pimentel, G. Wiher and R. Cotterell, "Locally typical sampling", TACL 2023.
    """
    ask = problem("typical_mask", logits, axis, where, temperature=temperature, axis_name=axis_name)
    p = setting("typical_mask", "p", p, ask.z, ask.classes, 0, 1)
    found = _by_typicality(ask.z, p, ask.temperature, ask.classes)
    return ask.unmasked(found, False)


# Each is compiled once for each shape, also when called outside `jit`.
@partial(jax.jit, static_argnums=2, inline=True)
def _by_rank(z: Array, k: Array, classes: ClassAxis) -> Array:
    return kept.kept_by_rank(z, k, classes)


@partial(jax.jit, static_argnums=3, inline=True)
def _by_mass(z: Array, p: Array, temperature: Array | None, classes: ClassAxis) -> Array:
    return kept.kept_by_mass(z, p, temperature, classes.max(z), classes)


@partial(jax.jit, static_argnums=3, inline=True)
def _by_typicality(z: Array, p: Array, temperature: Array | None, classes: ClassAxis) -> Array:
    return kept.kept_by_typicality(z, p, temperature, classes.max(z), classes)
