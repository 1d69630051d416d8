"""The base class of distributions: pytree registration and batch shape."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks


class Distribution:
    """A pytree of its `_fields`: arrays are leaves, Python numbers are static."""

    _fields: ClassVar[tuple[str, ...]]
    logits: Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of one draw from each distribution."""
        return self.logits.shape[:-1]

    @property
    def classes(self) -> int:
        """The number of classes, K."""
        return self.logits.shape[-1]

    def tree_flatten_with_keys(self):
        """Return the leaves with their names, and the static fields."""
        values = [getattr(self, field) for field in self._fields]
        fixed = tuple(value if isinstance(value, float) else None for value in values)
        leaves = [
            (jax.tree_util.GetAttrKey(field), None if isinstance(value, float) else value)
            for field, value in zip(self._fields, values, strict=True)
        ]
        return leaves, fixed

    @classmethod
    def tree_unflatten(cls, fixed, leaves):
        """Rebuild without checks, since JAX may put other objects in place of arrays."""
        self = object.__new__(cls)
        for field, number, leaf in zip(cls._fields, fixed, leaves, strict=True):
            setattr(self, field, leaf if number is None else number)
        return self


def number_or_array(x: Any, shape: tuple[int, ...]) -> Any:
    """Return a float if `x` is known while tracing, else an array, one number per distribution."""
    number = checks.static_number(x)
    return spread(x, (*shape[:-1], 1)) if number is None else number


def spread(x: Any, shape: tuple[int, ...]) -> Array:
    """Return `x` with all batch axes, so that `vmap`, `scan` and indexing include it."""
    x = jnp.asarray(x)
    return jnp.broadcast_to(x.reshape((1,) * (len(shape) - x.ndim) + x.shape), shape)
