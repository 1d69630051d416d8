"""The Gibbs distribution and its thermodynamics, with k_B = 1."""

from __future__ import annotations

from collections.abc import Hashable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._conjugate import conjugate
from jsoftmax.core._cooled import is_zero, quotient
from jsoftmax.core._problem import Problem, problem


def boltzmann(
    energies: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the Gibbs distribution of states, where lower energies are more probable.

    .. math:: p_i = e^{-E_i/T} / Z, \qquad Z = \sum_j e^{-E_j/T}

    It minimises the mean energy minus T times the entropy. It equals `softmin`.

    Args:
        energies: E of shape [..., K, ...], in units of k_B × temperature. +∞ is a forbidden state
            (at T > 0).
        temperature: T, a number or an array with size 1 along `axis`. T = 0 gives the ground states
            equal shares; T < 0 is population inversion: +∞ takes the mass, −∞ gets none.
        axis: the axis or axes of the states; None for all.
        where: boolean mask that broadcasts to `energies`: only these states exist.
        axis_name: name of the mesh or `vmap` axis that splits the states.

    Returns:
        p of the shape and dtype of `energies`.

    Raises:
        TypeError: if `energies` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no states.

    Example:
        >>> import jax.numpy as jnp
        >>> print(boltzmann(jnp.array([0.0, 1.0, 2.0]), temperature=0.5))
        [0.8668133  0.11731042 0.01587624]
    """
    ask = _states("boltzmann", energies, temperature, axis, where, axis_name)
    return ask.probabilities().astype(ask.dtype)


def log_partition(
    energies: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the log of the partition function, :math:`\log Z = \log\sum_i e^{-E_i/T}`.

    Its derivative with respect to −1/T is the mean energy.

    Args:
        energies: E of shape [..., K, ...].
        temperature: T, a number or an array with size 1 along `axis`, of either sign. At T = 0 the
            limit: ±∞ by the sign of the ground energy, log of its degeneracy if that is 0.
        axis: the axis or axes of the states; None for all.
        where: boolean mask that broadcasts to `energies`.
        keepdims: keep the axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the states.

    Returns:
        One number a row, in float32 at least.

    Raises:
        TypeError: if `energies` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no states.

    Example:
        >>> import jax.numpy as jnp
        >>> print(log_partition(jnp.array([0.0, 1.0, 2.0]), temperature=0.5))
        0.1429317
    """
    ask = _states("log_partition", energies, temperature, axis, where, axis_name)
    y = ask.z if ask.temperature is None else _divided(ask.z, ask.temperature)
    return ask.squeezed(conjugate(y, None, ask.regularizer, None, ask.classes), keepdims)


def _divided(z: Array, t: Array) -> Array:
    """Return z/T for T ≥ 0 with its limits: infinities stay, and T = 0 keeps only the sign of z."""
    infinite = jnp.isinf(z)
    y = quotient(jnp.where(infinite, 0, z), t)
    y = jnp.where(is_zero(t) & (z > 0), jnp.inf, jnp.where(is_zero(t) & (z < 0), -jnp.inf, y))
    return jnp.where(infinite, z, y)


def free_energy(
    energies: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute Helmholtz's free energy :math:`F = -T \log Z`, the mean energy minus T × entropy.

    It is the smooth minimum of the energies. Its gradient is `boltzmann`, and its derivative with
    respect to T is minus the entropy.

    Args:
        energies: E of shape [..., K, ...].
        temperature: T, a number or an array with size 1 along `axis`, of either sign.
        axis: the axis or axes of the states; None for all.
        where: boolean mask that broadcasts to `energies`.
        keepdims: keep the axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the states.

    Returns:
        One number a row, in float32 at least; the ground energy at T = 0.

    Raises:
        TypeError: if `energies` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no states.

    Example:
        >>> import jax.numpy as jnp
        >>> print(free_energy(jnp.array([0.0, 1.0, 2.0]), temperature=0.5))
        -0.07146585
    """
    ask = _states("free_energy", energies, temperature, axis, where, axis_name)
    return ask.squeezed(ask.conjugate(), keepdims)


def mean_energy(
    energies: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the expected energy :math:`⟨E⟩ = \sum_i p_i E_i` under `boltzmann`.

    Args:
        energies: E of shape [..., K, ...].
        temperature: T, a number or an array with size 1 along `axis`, of either sign.
        axis: the axis or axes of the states; None for all.
        where: boolean mask that broadcasts to `energies`.
        keepdims: keep the axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the states.

    Returns:
        One number a row, in float32 at least.

    Raises:
        TypeError: if `energies` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no states.

    Example:
        >>> import jax.numpy as jnp
        >>> print(mean_energy(jnp.array([0.0, 1.0, 2.0]), temperature=0.5))
        0.1490629
    """
    ask = _states("mean_energy", energies, temperature, axis, where, axis_name)
    return ask.squeezed(ask.mean(ask.probabilities(), ask.sign * ask.z), keepdims)


def heat_capacity(
    energies: ArrayLike,
    temperature: ArrayLike = 1.0,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute the heat capacity :math:`C = d⟨E⟩/dT = \mathrm{Var}(E)/T²` under `boltzmann`.

    Args:
        energies: E of shape [..., K, ...].
        temperature: T, a number or an array with size 1 along `axis`, of either sign. At T = 0 and
            T = ±∞ the heat capacity of finitely many states is 0.
        axis: the axis or axes of the states; None for all.
        where: boolean mask that broadcasts to `energies`.
        keepdims: keep the axis with size 1.
        axis_name: name of the mesh or `vmap` axis that splits the states.

    Returns:
        One number a row, in float32 at least, in units of k_B.

    Raises:
        TypeError: if `energies` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no states.

    Example:
        >>> import jax.numpy as jnp
        >>> print(heat_capacity(jnp.array([0.0, 1.0, 2.0]), temperature=0.5))
        0.63438255
    """
    ask = _states("heat_capacity", energies, temperature, axis, where, axis_name)
    p = ask.probabilities()
    # A ground state of −∞ takes all the mass, so the variance is 0.
    e = jnp.where((p > 0) & jnp.isfinite(ask.z), ask.sign * ask.z, 0)
    from_mean = jnp.where(p == 0, 0, e - ask.classes.sum(p * e))
    if ask.temperature is not None:
        from_mean = quotient(from_mean, ask.temperature)
    return ask.squeezed(ask.classes.sum(p * from_mean * from_mean), keepdims)


def _states(function, energies, temperature, axis, where, axis_name) -> Problem:
    return problem(
        function, energies, axis, where, temperature=temperature, axis_name=axis_name,
        minimum=True, called="energies",
    )  # fmt: skip
