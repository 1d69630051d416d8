"""Static description of a function of rows, for kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array


@dataclasses.dataclass(frozen=True)
class RowCall:
    """A function of arrays of the shapes [n, k], [1, k] (both long) and [n, 1].

    Its last argument is the mask of classes, of the shape [1, k], or None where no block reaches
    beyond the last class.
    """

    function: Callable[..., tuple[Array, ...]]
    classes: int
    longs: tuple[bool, ...]  # of the arguments
    results: tuple[tuple[bool, Any], ...]  # whether each is long, and its dtype

    def shapes(self, rows: int) -> list[jax.ShapeDtypeStruct]:
        """Return the outlines of the results for `rows` rows."""
        sizes = ((self.classes if long else 1, dtype) for long, dtype in self.results)
        return [jax.ShapeDtypeStruct((rows, size), dtype) for size, dtype in sizes]

    @property
    def all_longs(self) -> tuple[bool, ...]:
        """Whether each is long: of the arguments, then of the results."""
        return (*self.longs, *(long for long, _ in self.results))
