"""Tuples of NamedTuples of arrays, taken apart and put together by the names of their fields.

A field may hold a tuple of arrays, the numbers of a regularizer, which are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array

Trees = Any  # a tuple of NamedTuples of arrays


def by_name(trees: Trees, function: Callable[[str, Array], Any]) -> Trees:
    """function(name of the field, array) in the place of every array."""

    def entry(name, x):
        if isinstance(x, tuple):
            return tuple(entry(name, y) for y in x)
        return None if x is None else function(name, x)

    return tuple(
        type(tree)(*(entry(name, x) for name, x in zip(tree._fields, tree, strict=True)))
        for tree in trees
    )


def overlaid(trees: Trees, rest: Trees) -> Trees:
    """The arrays of `trees`, and those of `rest` where it has None."""

    def entry(x, y):
        if isinstance(x, tuple):
            return tuple(entry(*pair) for pair in zip(x, y, strict=True))
        return y if x is None else x

    return tuple(
        type(tree)(*(entry(x, y) for x, y in zip(tree, other, strict=True)))
        for tree, other in zip(trees, rest, strict=True)
    )
