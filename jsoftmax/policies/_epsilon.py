"""ε-mixtures: policies with a share ε of their mass spread evenly over the allowed actions."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import Problem, problem


def epsilon_mixture(
    probabilities: ArrayLike,
    epsilon: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Mix a policy with the uniform policy over the allowed actions, in shares 1 − ε and ε.

    .. math:: (1 - ε)\, p + ε\, u, \qquad u_i = 1/n \text{ for the } n \text{ allowed actions}

    From `hardmax` it gives the ε-greedy policy, from `softmax` the ε-softmax one. An action of
    probability 0 counts as allowed unless `where` excludes it, so pass the mask here too.

    Args:
        probabilities: p of shape [..., K, ...], non-negative, summing to 1 along `axis`.
        epsilon: ε from 0 to 1, a number or an array with size 1 along `axis`; differentiable.
        axis: the action axis or axes.
        where: boolean mask that broadcasts to `probabilities`: actions where it is False get
            probability exactly 0 and gradient exactly 0.
        axis_name: name of the mesh or `vmap` axis that splits the actions.

    Returns:
        Probabilities of the shape and dtype of `probabilities`. A row without any allowed action is
        a row of zeros.

    Raises:
        TypeError: if `probabilities` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no actions, or
            `epsilon` is a number out of range. Traced values out of range give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsoftmax import hardmax
        >>> q = jnp.array([1.0, 5.0, 2.0, 9.0])
        >>> legal = jnp.array([True, True, True, False])
        >>> print(epsilon_mixture(hardmax(q, where=legal), 0.3, where=legal))
        [0.1 0.8 0.1 0. ]

    Reference:
        R. S. Sutton and A. G. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018,
        chapter 2.
    """
    ask = problem(
        "epsilon_mixture", probabilities, axis, where, axis_name=axis_name, called="probabilities"
    )
    share = read_epsilon("epsilon_mixture", epsilon, ask)
    p = ask.unmasked(ask.z, 0)
    if share is not None:
        allowed = ask.unmasked(jnp.ones_like(p), 0)
        p = mixed(p, share, allowed, ask.classes)
    return p.astype(ask.dtype)


def mixed(p: Array, epsilon: Array, allowed: Array, classes: ClassAxis) -> Array:
    """Return (1 − ε) p + ε u; `allowed` is 1 for allowed actions, and 0 elsewhere."""
    # Separate products, so that an ε of NaN leaves excluded actions and fully masked rows at 0.
    shift = allowed / jnp.maximum(classes.sum(allowed), 1) - p
    return jnp.where(allowed > 0, p + epsilon * shift, 0)


def read_epsilon(function: str, epsilon: Any, ask: Problem) -> Array | None:
    """Return ε as one number a row, NaN where it is out of range; None for the number 0."""
    checks.as_array(function, "epsilon", epsilon)
    number, known = checks.static_number(epsilon), checks.known_values(epsilon)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"jsoftmax.{function}: `epsilon` must be from 0 to 1, got {epsilon!r}.")
    if number == 0:
        return None
    e = checks.per_row(function, "epsilon", epsilon, ask.z, ask.classes, ask.z.dtype)
    return jnp.where((e >= 0) & (e <= 1), e, jnp.nan)
