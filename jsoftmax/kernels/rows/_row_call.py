"""A function of rows, described for kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array


@dataclasses.dataclass(frozen=True)
class RowCall:
    """A function of arrays of the shapes [n, k], [1, k] (both long) and [n, 1].

    Its last argument is a mask of the shape [1, k] that says which classes there are, or None
    where no block reaches beyond the last of them.
    """

    function: Callable[..., tuple[Array, ...]]
    classes: int
    longs: tuple[bool, ...]  # of the arguments
    results: tuple[tuple[bool, Any], ...]  # whether each is long, and its dtype

    def shapes(self, rows: int) -> list[jax.ShapeDtypeStruct]:
        """The outlines of the results for so many rows."""
        sizes = ((self.classes if long else 1, dtype) for long, dtype in self.results)
        return [jax.ShapeDtypeStruct((rows, size), dtype) for size, dtype in sizes]

    @property
    def all_longs(self) -> tuple[bool, ...]:
        """Of the arguments, then of the results."""
        return (*self.longs, *(long for long, _ in self.results))
