"""Scale of attention that grows with the number of visible keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core import _checks as checks


def by_length(delta: ArrayLike, beta: Array, gamma: Array) -> Callable[[Array], Array]:
    """Return the function n ↦ δ + β (log n)^γ of visible keys, for `attention_fn`.

    A query that sees one key has weight 1 on it, whatever the scale. It takes the scale of n = 2,
    since the power has no derivative at log 1 = 0.
    """

    def scale(visible):
        log_n = jnp.log(jnp.maximum(visible, 2).astype(jnp.result_type(beta, gamma)))
        return jnp.asarray(delta, log_n.dtype) + beta * log_n**gamma

    return scale


def learned_number(module: str, name: str, start: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return the initial numbers of each head."""
    start = checks.as_array(module, name, start)
    if start.shape not in ((), (1,), shape):
        raise ValueError(
            f"jsoftmax.{module}: `{name}` has shape {start.shape}; give one number, or one for "
            f"each of the {shape[0]} heads."
        )
    return jnp.broadcast_to(start, shape).astype(dtype)


def without_scale(module: str, attention: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise TypeError for arguments that the module sets itself."""
    for name, given in (("attention_fn", options), ("scale", attention), ("alpha", attention)):
        if name in given:
            remedy = "pass it to the module" if name == "alpha" else "leave it out"
            raise TypeError(
                f"jsoftmax.{module}: `{name}` is set by the module, which scales by the number of "
                f"visible keys; {remedy}."
            )
