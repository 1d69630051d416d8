"""The log-normaliser of softmax: of whole rows, with signed weights, or merged from parts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, NamedTuple, overload

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._problem import problem
from jsoftmax.core._scores import difference
from jsoftmax.mappings._implementation import by_rows
from jsoftmax.mappings._signed_sum import read_signed, signed_sum


@overload
def logsumexp(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]: ...


@overload
def logsumexp(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    keepdims: bool = False,
    return_sign: Literal[True],
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]: ...


@by_rows
def logsumexp(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    keepdims: bool = False,
    return_sign: bool = False,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."] | tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Compute the log-sum-exp of scores, a smooth maximum with `softmax` as its gradient.

    .. math:: T \log\sum_i b_i e^{z_i/T}

    Without b it lies between max z and max z + T log K; at T → 0 it *is* the maximum (the tropical
    limit), and its gradient the limiting p. For any other α there is `smoothmax`; for partial
    results that are merged later, `PartialLogSumExp`.

    With weights b of either sign it is the logarithm of a signed sum, as in `jax.nn.logsumexp`: it
    subtracts numbers that only their logarithms can represent. b ≥ 0 and `prior` have the same
    effect; if both are given they are multiplied.

    Args:
        logits: scores z of shape [..., K, ...].
        axis: the class axis or axes; None for all.
        b: finite weights of either sign that broadcast to `logits`, 1 if None. A weight of 0
            excludes its class, whatever the score. Differentiable, also at 0.
        where: boolean mask that broadcasts to `logits`: only these classes take part.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes p ∝ q exp(z/T); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0 gives
            the smooth minimum: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        keepdims: keep the class axis with size 1.
        return_sign: return a pair: T log |Σ|, and the sign of the sum Σ, −1, 0 or 1.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.
        implementation: "xla", or "pallas" for one kernel, which raises NotImplementedError for an
            argument that it does not take. None is "pallas" on hardware where
            `python -m jsoftmax.kernels` found it right and faster, else "xla".

    Returns:
        One number a row, in float32 at least. −∞ for a fully masked row (+∞ if T < 0), and
        for a sum of 0, with derivative 0. Without `return_sign` NaN for a negative sum. NaN where
        scores of +∞ have weights of both signs.

    Raises:
        TypeError: if `logits` or `b` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `b` given
            by Python or numpy is not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> print(logsumexp(jnp.array([1000.0, 1000.0])))
        1000.6932
        >>> print(jax.grad(logsumexp)(jnp.array([1.0, 2.0, 8.0])))
        [9.0880e-04 2.4704e-03 9.9662e-01]
        >>> z = jnp.array([1000.0, 1001.0])
        >>> print(*logsumexp(z, b=jnp.array([1, -1]), return_sign=True))  # e¹⁰⁰⁰ − e¹⁰⁰¹
        1000.5413 -1.0
    """
    ask = problem(
        "logsumexp", logits, axis, where, prior=prior, temperature=temperature, axis_name=axis_name
    )
    if b is None and not return_sign:
        return ask.squeezed(ask.conjugate(), keepdims)
    value, sign = signed_sum(ask, read_signed("logsumexp", 1 if b is None else b, ask))
    value, sign = (ask.squeezed(x, keepdims) for x in (value, sign))
    return (value, sign) if return_sign else jnp.where(sign < 0, jnp.nan, value)


class PartialLogSumExp(NamedTuple):
    """The contribution of a part of a row to its `logsumexp`: the online, one-pass form.

    Parts merge in any order and grouping, so rows can be streamed in blocks (`lax.scan`), split
    over devices, or reduced as a tree. `PartialLogSumExp.nothing(shape)` is the neutral element.

    Args:
        maximum: the largest score m so far, of shape [...].
        total: Σ exp(z − m) over the scores so far, of the same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> left = PartialLogSumExp.of(jnp.array([1.0, 2.0]))
        >>> right = PartialLogSumExp.of(jnp.array([8.0]))
        >>> print(left.merge(right).value(), logsumexp(jnp.array([1.0, 2.0, 8.0])))
        8.003385 8.003385

    Reference:
        M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", 2018.
    """

    maximum: Array
    total: Array

    @classmethod
    def of(
        cls,
        logits: ArrayLike,
        axis: int | tuple[int, ...] | None = -1,
        *,
        where: ArrayLike | None = None,
    ) -> PartialLogSumExp:
        """Return the contribution of a block of logits [..., K, ...], without its class axis."""
        ask = problem("PartialLogSumExp.of", logits, axis, where)
        maximum = ask.classes.max(ask.z)
        total = ask.classes.sum(jnp.exp(difference(ask.z, maximum)))
        return cls(ask.squeezed(maximum), ask.squeezed(total))

    @classmethod
    def nothing(cls, shape: tuple[int, ...], dtype: Any = jnp.float32) -> PartialLogSumExp:
        """Return the contribution of an empty block, the neutral element of `merge`."""
        return cls(jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, dtype))

    def merge(self, other: PartialLogSumExp) -> PartialLogSumExp:
        """Return the contribution of both parts together."""
        maximum = jnp.maximum(self.maximum, other.maximum)
        return PartialLogSumExp(
            maximum,
            self.total * jnp.exp(difference(self.maximum, maximum))
            + other.total * jnp.exp(difference(other.maximum, maximum)),
        )

    def value(self) -> Array:
        """Return log Σ exp z over all merged blocks; −∞ for the neutral element."""
        some = self.total != 0
        return self.maximum + jnp.where(some, jnp.log(jnp.where(some, self.total, 1)), 0)
