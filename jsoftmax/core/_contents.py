"""Equality and hash of immutable pytrees of arrays, so that a module may hold one as a setting."""

from __future__ import annotations

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
    """Return a hash of structure, shapes and dtypes: a method, `__hash__`.

    Values are left to `__eq__`, so that a table of millions of classes hashes at once.
    """
    leaves, structure = jax.tree.flatten(a)
    kinds = tuple((np.shape(x), str(getattr(x, "dtype", type(x).__name__))) for x in leaves)
    return hash((type(a), structure, kinds))


def _same(x: Any, y: Any) -> bool:
    if x is y:
        return True
    if np.shape(x) != np.shape(y) or getattr(x, "dtype", None) != getattr(y, "dtype", None):
        return False
    return bool(np.array_equal(x, y))
