"""Constraints on the α or T of a module: a number learned inside an interval, or a constant."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core._checks import static_number
from jsoftmax.core._contents import Held
from jsoftmax.core.regularizers import chosen


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval with `lower` ≥ 0 and a finite or infinite `upper`, parametrised without bounds.

    A free parameter f maps to lower + (upper − lower) σ(f), or to lower + softplus(f) without an
    upper bound. Rounding can reach the ends, but not pass them.
    """

    lower: float
    upper: float = np.inf

    def number(self, free: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the number of a free parameter, in float32 at least."""
        free = free.astype(jnp.promote_types(free.dtype, jnp.float32))
        if self.upper == np.inf:
            return self.lower + jax.nn.softplus(free)
        inside = self.lower + (self.upper - self.lower) * jax.nn.sigmoid(free)
        return jnp.minimum(inside, self.upper)  # the sum above may round past it

    def free(
        self,
        function: str,
        name: str,
        number: ArrayLike,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        constant: str | None = None,
    ) -> Float[Array, "..."]:
        """Return the free parameter of `number`, in the given shape and dtype.

        `constant` is the remedy in the error message: how to make the number a constant.
        """
        x = np.asarray(number, np.float64)
        if not 0 <= self.lower < self.upper:
            raise ValueError(
                f"jsoftmax.{function}: the range of `{name}` is ({self.lower}, {self.upper}); its "
                "lower end must be at least 0 and below its upper end."
            )
        if not ((self.lower < x) & (x < self.upper)).all():
            raise ValueError(
                f"jsoftmax.{function}: a learned `{name}` starts strictly between {self.lower} and "
                f"{self.upper}, got {number}. At an end it could not be moved: start inside, or "
                f"widen its range, or {constant or f'set learn_{name}=False'}."
            )
        above = x - self.lower
        if self.upper == np.inf:
            free = above + np.log(-np.expm1(-above))  # softplus(free) = above
        else:
            free = np.log(above) - np.log(self.upper - x)
        try:
            return jnp.asarray(np.broadcast_to(free, shape), dtype)
        except ValueError:
            raise ValueError(
                f"jsoftmax.{function}: `{name}` has shape {x.shape}, which does not broadcast to "
                f"`shape` {shape}, the shape of the learned numbers."
            ) from None


def constant_regularizer(function: str, alpha: ArrayLike | None, regularizer: Any) -> Held:
    """Return the fixed α or regularizer of a module as a hashable setting."""
    if alpha is not None:
        alpha = constant_alpha(function, alpha)
    if isinstance(regularizer, Held):
        regularizer = regularizer.value
    return Held(chosen(function, alpha, regularizer))


def constant_alpha(function: str, alpha: ArrayLike) -> float:
    """Return `alpha` if it is a positive number known while tracing."""
    number = static_number(alpha)
    if number is None:
        raise TypeError(
            f"jsoftmax.{function}: `alpha` must be a Python number, got {alpha!r}. It is not "
            "learned here, because the loss falls with its own α whatever the logits are."
        )
    if not number > 0:
        raise ValueError(f"jsoftmax.{function}: `alpha` must be positive, got {alpha!r}.")
    return number
