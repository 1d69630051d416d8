"""Assert a bound on the worst of many errors, eagerly or under `chex.chexify` inside `jit`."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import Array
from jax.experimental import checkify


def assert_worst(assertion: str, error: Array, bound: float, message: str, **arrays: Array) -> None:
    """Raise AssertionError unless every error is at most `bound`; NaN is not.

    `message` is a format of `place`, the index of the largest error, and of `arrays`, which
    broadcast to the errors, at that place.
    """
    if error.size == 0:
        return
    holds = jnp.all(error <= bound)
    worst = jnp.argmax(jnp.where(jnp.isnan(error), jnp.inf, error))
    index = jnp.unravel_index(worst, error.shape)
    values: dict[str, Any] = {
        name: jnp.broadcast_to(x, error.shape)[index] for name, x in arrays.items()
    }
    # Each coordinate is passed as a separate number, since checkify cannot format tuples.
    places = ", ".join(f"{{i{axis}}}" for axis in range(error.ndim))
    message = message.replace("{place}", f"({places}{',' if error.ndim == 1 else ''})")
    values |= {f"i{axis}": i for axis, i in enumerate(index)}
    if isinstance(holds, jax.core.Tracer):
        # chexify raises messages with this beginning as AssertionError.
        checkify.check(holds, f"[Chex] chexify assertion '{assertion}' failed: {message}", **values)
    elif not holds:
        raise AssertionError(f"[Chex] Assertion {assertion} failed: {message.format(**values)}")
