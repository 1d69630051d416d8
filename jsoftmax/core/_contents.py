"""Equality and hash of immutable pytrees of arrays, so that a module can hold one as a setting."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def same_contents(self: Any, other: Any) -> Any:
    """Return whether two pytrees of one class hold the same arrays; serves as `__eq__`."""
    if self is other:
        return True
    if type(self) is not type(other):
        return NotImplemented
    leaves, structure = jax.tree.flatten(self)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(map(_same, leaves, others))


def other_contents(self: Any, other: Any) -> Any:
    """Return the opposite of `same_contents`; serves as `__ne__`, overriding that of tuples."""
    same = same_contents(self, other)
    return same if same is NotImplemented else not same


def hash_of_contents(self: Any) -> int:
    """Return a hash of structure and values; serves as `__hash__`.

    It includes the values because Flax's `nn.jit` compares modules by their hashes alone.
    """
    leaves, structure = jax.tree.flatten(self)
    # As text, since the hash of a structure omits the static fields of its nodes.
    return hash((type(self), str(structure), *map(_hash, leaves)))


class Held:
    """An immutable pytree as one setting of a module, hashed once.

    Linen modules hold their tree or sampler this way: to fingerprint a module, `nn.jit` would
    otherwise walk through the arrays entry by entry. Attention modules hold their options this way
    too: they are a dictionary, which has no hash.
    """

    def __init__(self, value: Any):
        value = value.value if isinstance(value, Held) else value
        self.value: Any = dict(value) if isinstance(value, Mapping) else value

    def __eq__(self, other: Any) -> Any:
        if not isinstance(other, Held):
            return NotImplemented
        return same_contents(self.value, other.value) is True

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash_of_contents(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


def _hash(x: Any) -> int:
    if not isinstance(x, np.ndarray | jax.Array):
        return hash(x)
    return hash((x.shape, x.dtype.name, np.asarray(x).tobytes()))


def _same(x: Any, y: Any) -> bool:
    if x is y:
        return True
    if np.shape(x) != np.shape(y) or getattr(x, "dtype", None) != getattr(y, "dtype", None):
        return False
    return bool(np.array_equal(x, y))


def hashable(setting: Any) -> Any:
    """Return lists and numpy arrays as nested tuples, any other setting of a module unchanged."""
    if isinstance(setting, np.ndarray):
        setting = setting.tolist()
    return tuple(map(hashable, setting)) if isinstance(setting, list | tuple) else setting


def of_hashable(number: Any) -> Any:
    """Return nested tuples of numbers as an array, the inverse of `hashable`."""
    return np.asarray(number) if isinstance(number, tuple) else number
