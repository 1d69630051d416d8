"""Layout of a block of rows on the chip: its pieces, and the shapes of arrays in them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.kernels._plain import as_flag, as_number, is_flag, said


@dataclasses.dataclass(frozen=True)
class Tile:
    """A block of `rows` rows of `classes` classes, visited in pieces of equal length.

    Rows are traced with the sizes r and k, so that an array of the size k along its last axis is
    *long*: on the chip there is never more of it than a piece. All others hold one number for each
    row, and have the shape [rows, 1]. Where rows are `on_lanes`, it is [1, rows], and [classes,
    rows] for a piece.
    """

    rows: int
    classes: int
    piece: int
    on_lanes: bool = False
    is_interpreted: bool = False

    @property
    def pieces(self) -> int:
        return -(-self.classes // self.piece)

    @property
    def axis(self) -> int:
        """The axis of the classes of a piece."""
        return 0 if self.on_lanes else 1

    def shape(self, aval: Any) -> tuple[int, ...]:
        """Return the shape on the chip of an array, or of a piece of it."""
        if not aval.ndim:
            return ()
        rows = 1 if aval.shape[0] == 1 else self.rows
        classes = self.piece if is_long(aval) else 1
        return (classes, rows) if self.on_lanes else (rows, classes)

    def said(self, equation: Any, inputs: list[Any], start: Any = 0) -> list[Any]:
        """Evaluate an equation on the chip; `start` is the first class of the piece."""
        name = equation.primitive.name
        rule = _CAREFUL.get(name) if self.is_interpreted else None
        rule = _RULES.get(name) if rule is None else rule
        return said(equation, inputs) if rule is None else [rule(self, equation, inputs, start)]

    def reduced(self, name: str, x: Array) -> Array:
        """Reduce every row of a piece, keeping a size-1 axis."""
        return REDUCTIONS[name](x, axis=self.axis, keepdims=True)


REDUCTIONS = {
    "reduce_sum": jnp.sum,
    "reduce_max": jnp.max,
    "reduce_min": jnp.min,
    "reduce_or": jnp.max,
    "reduce_and": jnp.min,
}


def is_long(aval: Any) -> bool:
    """Whether an array of a traced row function has an entry for every class."""
    return aval.ndim == 2 and str(aval.shape[1]) == "k"


def spread(x: Any, shape: tuple[int, ...]) -> Any:
    """Broadcast `x` to a larger shape, flags as flags."""
    if np.shape(x) == shape:
        return x
    wide = jnp.broadcast_to(as_number(x) if np.ndim(x) else x, shape)
    return as_flag(wide, is_flag(x) and np.ndim(x) > 0)


def _shaped(tile, equation, inputs, start):
    x, target = inputs[0], tile.shape(equation.outvars[0].aval)
    if np.ndim(x) and not target:
        return jnp.max(as_number(x)) > 0 if is_flag(x) else jnp.max(x)
    return spread(x, target)


def _iota(tile, equation, inputs, start):
    parameters = equation.params
    shape = tile.shape(equation.outvars[0].aval)
    if parameters["dimension"] != 1 or not is_long(equation.outvars[0].aval):
        raise NotImplementedError(
            "jsoftmax.kernels: a row function has an iota along classes only."
        )
    index = jax.lax.broadcasted_iota(jnp.int32, shape, tile.axis) + start
    return index.astype(parameters["dtype"])


def _number_of_classes(tile, equation, inputs, start):
    return np.asarray(tile.classes, np.int32)


def _reduced(tile, equation, inputs, start):
    (x,), name = inputs, equation.primitive.name
    flagged = as_number(x)
    if not equation.outvars[0].aval.ndim:
        found = REDUCTIONS[name](flagged)
    elif is_long(equation.invars[0].aval):
        if tile.pieces > 1:
            raise NotImplementedError(
                "jsoftmax.kernels: a loop over the entries of a row also reduces the row."
            )
        found = tile.reduced(name, flagged)
    else:  # of one number for each row
        return x
    return found > 0 if is_flag(x) else found


_RULES = {
    "broadcast_in_dim": _shaped,
    "reshape": _shaped,
    "squeeze": _shaped,
    "expand_dims": _shaped,
    "iota": _iota,
    "dim_as_value": _number_of_classes,
    **dict.fromkeys(REDUCTIONS, _reduced),
}


def _max(tile, equation, inputs, start):
    x, y = inputs
    return jnp.where((x > y) | (x != x), x, y)


def _min(tile, equation, inputs, start):
    x, y = inputs
    return jnp.where((x < y) | (x != x), x, y)


# On a CPU XLA loses a NaN where it fuses a maximum with a sum; kernels of chips do not.
_CAREFUL = {"max": _max, "min": _min}
