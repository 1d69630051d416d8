"""Split, merge and differentiate NamedTuples of arrays by the names of their fields.

A field may hold a tuple of arrays, the numbers of a regularizer, which are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

Trees = Any  # a tuple of NamedTuples of arrays
Changes = Any  # a NamedTuple of tangents, None for constants


def by_name(trees: Trees, function: Callable[[str, Array], Any]) -> Trees:
    """Replace every array by function(name of the field, array)."""

    def entry(name, x):
        if isinstance(x, tuple):
            return tuple(entry(name, y) for y in x)
        return None if x is None else function(name, x)

    return tuple(
        type(tree)(*(entry(name, x) for name, x in zip(tree._fields, tree, strict=True)))
        for tree in trees
    )


def overlaid(trees: Trees, rest: Trees) -> Trees:
    """Return the arrays of `trees`, with those of `rest` in place of None."""

    def entry(x, y):
        if isinstance(x, tuple):
            return tuple(entry(*pair) for pair in zip(x, y, strict=True))
        return y if x is None else x

    return tuple(
        type(tree)(*(entry(x, y) for x, y in zip(tree, other, strict=True)))
        for tree, other in zip(trees, rest, strict=True)
    )


def changes_of(tangents: Any) -> Changes:
    """Return the tangents of a NamedTuple, with None in place of symbolic zeros."""

    def entry(d):
        if isinstance(d, tuple):
            return tuple(map(entry, d))
        return None if isinstance(d, SymbolicZero) else d

    return type(tangents)(*map(entry, tangents))


def along(
    function: Callable[[Any], Array], tree: Any, changes: Changes, names: tuple[str, ...]
) -> tuple[Array, Array | None]:
    """Return function(tree), and its tangent in the named fields; None where all are constant."""
    names = tuple(n for n in names if jax.tree.leaves(getattr(changes, n)))
    if not names:
        return function(tree), None
    return jax.jvp(
        lambda *xs: function(tree._replace(**dict(zip(names, xs, strict=True)))),
        tuple(getattr(tree, n) for n in names),
        tuple(_instantiated(getattr(tree, n), getattr(changes, n)) for n in names),
    )


def _instantiated(x: Any, change: Any) -> Any:
    """Return the tangents of an array or a tuple of arrays, with zeros in place of None."""
    if isinstance(x, tuple):
        return tuple(map(_instantiated, x, change))
    if change is not None:
        return change
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
