"""Initialisation of bands of classes: their cut-offs, their widths, and their arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.bands._bands import Band


def read_cutoffs(function: str, classes: Any, cutoffs: Any) -> tuple[int, ...]:
    """Validate cut-offs: they rise, from above 0 to below the number of classes."""
    classes = checks.whole_number(function, "classes", classes)
    if not isinstance(cutoffs, Sequence | np.ndarray) or isinstance(cutoffs, str):
        raise TypeError(
            f"jsoftmax.{function}: `cutoffs` must be a sequence of integers, got {cutoffs!r}."
        )
    found = tuple(checks.whole_number(function, "cutoffs", c, least=-(2**62)) for c in cutoffs)
    if any(a >= b for a, b in pairwise((0, *found, classes))):
        raise ValueError(
            f"jsoftmax.{function}: `cutoffs` {list(found)} must rise, from above 0 to below the "
            f"{classes} classes."
        )
    return found


def widths_of(
    function: str, width: Any, classes: Any, cutoffs: Any, div_value: Any
) -> tuple[int, ...]:
    """Compute the widths of bands: ⌊width / div_value^i⌋ for band i, at least 1."""
    width = checks.whole_number(function, "width", width)
    bands = len(read_cutoffs(function, classes, cutoffs)) + 1
    return tuple(max(1, int(width // ratio(function, div_value) ** i)) for i in range(bands))


def ratio(function: str, div_value: Any) -> float:
    """Validate `div_value` and return it."""
    known = checks.static_number(div_value)
    if known is None or not 1 <= known < np.inf:
        raise ValueError(
            f"jsoftmax.{function}: `div_value` must be a number known while tracing, at least 1, "
            f"got {div_value!r}."
        )
    return known


def band_shapes(
    width: int, classes: int, cutoffs: Sequence[int], widths: Sequence[int], *, slices: bool
) -> list[tuple[tuple[int, int], tuple[int, int] | None]]:
    """Return the shapes of table and projection of each band.

    With `slices` no band has a projection; otherwise all have one, except a first band that is as
    wide as the features.
    """
    shapes = []
    for i, (a, b) in enumerate(pairwise((0, *cutoffs, classes))):
        own = slices or (i == 0 and widths[0] == width)
        shapes.append(((b - a, widths[i]), None if own else (width, widths[i])))
    return shapes


def new_bands(
    key: Array,
    width: int,
    classes: int,
    cutoffs: Sequence[int],
    widths: Sequence[int],
    *,
    use_bias: bool,
    dtype: Any,
    slices: bool = False,
) -> tuple[Band, ...]:
    """Draw normal tables and projections of variance 1/fan-in; biases are 0."""
    bands = []
    for table, projection in band_shapes(width, classes, cutoffs, widths, slices=slices):
        key, first, second = jax.random.split(key, 3)
        w = jax.random.normal(first, table, dtype) * table[1] ** -0.5
        p = projection and jax.random.normal(second, projection, dtype) * width**-0.5
        bands.append(Band(w, p, jnp.zeros(table[0], dtype) if use_bias else None))
    return tuple(bands)


def read_widths(function: str, width: Any, widths: Sequence[int], bands: int) -> tuple[int, ...]:
    """Validate the widths of slices of the features, one for each band."""
    width = checks.whole_number(function, "width", width)
    found = tuple(checks.whole_number(function, "widths", w) for w in widths)
    if len(found) != bands or sum(found) != width:
        raise ValueError(
            f"jsoftmax.{function}: `widths` {list(found)} must be {bands} integers that sum to the "
            f"width of the features, {width}."
        )
    return found


def slices_or_widths(
    function: str, width: Any, classes: Any, cutoffs: Any, div_value: Any, widths: Any
) -> tuple[int, ...]:
    """Return the given widths of slices of the features, or those that fall by `div_value`."""
    if widths is None:
        return widths_of(function, width, classes, cutoffs, div_value)
    return read_widths(function, width, widths, len(read_cutoffs(function, classes, cutoffs)) + 1)


def as_dtype(tree: Any, dtype: Any) -> Any:
    """Cast all arrays to `dtype`, where that is not None."""
    return tree if dtype is None else jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), tree)
