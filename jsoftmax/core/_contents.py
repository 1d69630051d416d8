"""Equality and hash of immutable pytrees of arrays, so that a module may hold one as a setting."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np


def same_contents(a: Any, b: Any) -> Any:
    """Return whether two pytrees of one class hold the same arrays: a method, `__eq__`."""
    if a is b:
        return True
    if type(a) is not type(b):
        return NotImplemented
    leaves, structure = jax.tree.flatten(a)
    others, other_structure = jax.tree.flatten(b)
    return structure == other_structure and all(map(_same, leaves, others))


def other_contents(a: Any, b: Any) -> Any:
    """Return the opposite of `same_contents`: a method, `__ne__`, which tuples have of their own."""
    same = same_contents(a, b)
    return same if same is NotImplemented else not same


def hash_of_contents(a: Any) -> int:
    """Return a hash of structure and values: a method, `__hash__`.

    Values belong to it, because Flax's `nn.jit` compares modules by their hashes alone.
    """
    leaves, structure = jax.tree.flatten(a)
    return hash((type(a), structure, *map(_hash, leaves)))


class Held:
    """An immutable pytree of arrays as one thing, hashed once.

    A Linen module holds its tree or its sampler in one: to fingerprint a module, `nn.jit` would
    walk through the arrays entry by entry.
    """

    def __init__(self, value: Any):
        self.value = value.value if isinstance(value, Held) else value

    def __eq__(self, other: Any) -> Any:
        return self.value == other.value if isinstance(other, Held) else NotImplemented

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
    """Return lists and numpy arrays as nested tuples, any other setting of a module as it is."""
    if isinstance(setting, np.ndarray):
        setting = setting.tolist()
    return tuple(map(hashable, setting)) if isinstance(setting, list | tuple) else setting


def of_hashable(number: Any) -> Any:
    """Return nested tuples of numbers as an array again."""
    return np.asarray(number) if isinstance(number, tuple) else number
