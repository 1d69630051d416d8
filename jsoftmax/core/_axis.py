"""The class axis: reductions over the classes, whichever axes hold them and however they split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._floats import inverse
from jsoftmax.core._mesh_axes import gathered

_LONG = 2048  # a row at least this long is reduced in two levels


@dataclasses.dataclass(frozen=True)
class ClassAxis:
    """The axis or axes along which the entries of a distribution sum to one.

    `axis` is counted from the end, so that it survives `vmap`, and its order numbers the classes.
    With an `axis_name` the classes are split over that mesh (or `vmap`) axis, and every method
    reduces over it too.

    A size may be a symbol of `jax.export`. Then it is only compared for equality, and the general
    plan is used.
    """

    axis: tuple[int, ...]
    axis_name: Hashable | None = None

    def max(self, x: Array) -> Array:
        """Return the largest entry of each row, kept as a size-1 axis, with derivative 0."""
        top = self._reduce(jnp.max, jax.lax.stop_gradient(x))
        if self.axis_name is None:
            return top
        # A NaN on one part reaches the others through a sum; pmax may drop it.
        spoiled = jax.lax.psum(jnp.where(top == top, 0, top), self.axis_name)
        return jnp.where(spoiled == 0, jax.lax.pmax(top, self.axis_name), spoiled)

    def sum(self, x: Array) -> Array:
        """Return the sum of each row, kept as a size-1 axis."""
        total = self._reduce(jnp.sum, x, neutral=0)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)

    def size(self, x: Array | jax.ShapeDtypeStruct) -> Any:
        """Return the number of classes, over all parts of a split row; symbolic if the shape is."""
        size = math.prod(x.shape[a] for a in self.axis)
        return size if self.axis_name is None else size * jax.lax.axis_size(self.axis_name)

    def index(self, x: Array) -> Array:
        """Return the class number of every entry of `x`, from 0 to size − 1.

        Row-major in the order of `axis`: the last axis of the tuple varies fastest.
        """
        # Made from `x`, so that on an Explicit mesh it is split as `x` is.
        index = jnp.where(x == x, jnp.int32(0), jnp.int32(0))
        for a in self.axis:
            iota = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim + a)
            index = index * x.shape[a] + iota
        if self.axis_name is not None:
            index = index + jax.lax.axis_index(self.axis_name) * math.prod(
                x.shape[a] for a in self.axis
            )
        return index

    def take(self, x: Array, hit: Array) -> Array:
        """Return the entry of each row where `hit` is True."""
        return self.sum(jnp.where(hit, x, 0))

    def at(self, x: Array, number: Array) -> Array:
        """Return the entry of each row at the class `number`, or 0 if that is out of range.

        `number` has size 1 along the classes. Rows that are whole, or split by the compiler, are
        indexed. The parts of split rows, and arrays on an Explicit mesh, take a masked sum.
        """
        is_split = any(part is not None for part in jax.typeof(x).sharding.spec)
        if (axis := self._whole_axis(x)) is None or self.axis_name is not None or is_split:
            return self.take(x, self.index(x).astype(number.dtype) == number)
        inside = (number >= 0) & (number < x.shape[axis])
        found = jnp.take_along_axis(x, jnp.where(inside, number, 0), axis=axis, mode="clip")
        return jnp.where(inside, found, 0)

    def by_rows(self, function: Callable[..., Any], scores: Array, *arrays: Array | None) -> Any:
        """Return function(scores, *arrays), where `vmap` adds rows instead of mapping `function`.

        Under a plain `vmap` each row would run its own loop, and a `cond` would become a `select`
        that evaluates every branch. The scores have all the rows, and the other arrays broadcast
        to them.
        """
        if self.axis_name is not None:  # it may be the mapped axis
            return function(scores, *arrays)
        rows = jax.custom_batching.custom_vmap(function)

        @rows.def_vmap
        def _(size, mapped, scores, *arrays):
            if not mapped[0]:
                scores = jnp.broadcast_to(scores, (size, *scores.shape))
            pairs = zip(arrays, mapped[1:], strict=True)
            found = rows(scores, *(x if m or x is None else x[None] for x, m in pairs))
            return found, jax.tree.map(lambda _: True, found)

        return rows(scores, *arrays)

    def size_here(self, x: Array) -> int:
        """Return the number of classes on this device, or 0 if unknown or on several axes.

        Also 0 for an axis split over an Explicit mesh axis, since JAX does not sort its parts.
        """
        axis, *more = self.axis
        if more or not is_known(x.shape[axis]) or jax.typeof(x).sharding.spec[axis] is not None:
            return 0
        return x.shape[axis]

    def ranked(self, x: Array, rank: int) -> Array:
        """Return the entry of this rank; rank 1 is the largest."""
        axis = self.axis[0] % x.ndim
        highest = jax.lax.top_k(jnp.moveaxis(x, axis, -1), rank)[0]
        if self.axis_name is not None:
            highest = gathered(highest, self.axis_name, axis=highest.ndim - 1)
            highest = jax.lax.top_k(highest, rank)[0]
        return jnp.moveaxis(highest[..., -1:], -1, axis)

    def anywhere(self, flags: Array) -> Array:
        """Return whether a flag is set in any row, the same on every part of a split row."""
        raised = jnp.any(flags)
        if self.axis_name is None:
            return raised
        return jax.lax.pmax(raised.astype(jnp.int32), self.axis_name) > 0

    def peaks(
        self, x: Array, weights: Array | None = None, size: int = 8
    ) -> tuple[Array, Array | None] | None:
        """Return the maxima of blocks of `size` classes, or None for short rows.

        With weights, also return the largest weight among the maxima of each block.
        """
        axis = self._whole_axis(x)
        if axis is None or not is_known(x.shape[axis]) or x.shape[axis] < 32 * size:
            return None
        if (padded := _divisible(x, axis, 8 * size, -jnp.inf)) is None:
            return None
        # In chunks of size × lanes: the maxima are of whole vectors, and a row that the compiler
        # has split evenly over devices is cut between chunks.
        n, before, after = padded.shape[axis], x.shape[:axis], x.shape[axis + 1 :]
        chunks = min((n & -n) // size, 1 << (n.bit_length() - 7), 256)

        def blocks(x):
            return x.reshape(*before, chunks, size, -1, *after)

        def row(x):
            return x.reshape(*before, -1, *after)

        peaks = jnp.max(blocks(padded), axis=axis + 1)
        if weights is None:
            return row(peaks), None
        q = _divisible(jnp.broadcast_to(weights, x.shape), axis, 8 * size, 0)
        highest = blocks(padded) == jnp.expand_dims(peaks, axis + 1)
        q = jnp.max(jnp.where(highest, blocks(q), 0), axis=axis + 1)
        return row(peaks), row(q)

    def deviation(self, weights: Array, x: Array, total: Array | float = 1.0) -> Array:
        """Return x − Σ w x/Σ w, accurate also where one weight is almost all of the `total`.

        There x_t minus the mean cancels, and only rounding errors are left. Subtracting the mean a
        second time, from numbers as small as the result, leaves a relative error of one eps: the
        rule of the Gram–Schmidt process that twice is enough. The transpose is as accurate.
        """
        if isinstance(total, float):
            once = x - self.sum(weights * x) / total
            return once - self.sum(weights * once) / total
        share = inverse(total)  # a factor keeps its own derivative when it is transposed
        once = x - self.sum(weights * x) * share
        return once - self.sum(weights * once) * share

    def _reduce(self, reduction: Callable, x: Array, neutral: float | None = None) -> Array:
        # Two levels lose less to rounding, and give one long row to several cores. A maximum loses
        # nothing, so no row is padded for it: padding copies the row.
        axis = self._whole_axis(x)
        if axis is None or not is_known(x.shape[axis]) or x.shape[axis] < _LONG:
            return reduction(x, axis=self.axis, keepdims=True)
        if (blocks := _divisible(x, axis, 16, neutral)) is not None:
            n = blocks.shape[axis]
            shape = (*x.shape[:axis], min(n & -n, 256), -1, *x.shape[axis + 1 :])
            x = reduction(blocks.reshape(shape), axis=axis + 1)
        return reduction(x, axis=self.axis, keepdims=True)

    def _whole_axis(self, x: Array) -> int | None:
        """Return the class axis of `x` if it may be reshaped into blocks, otherwise None.

        None on an Explicit mesh, and for a length that is not known while tracing.
        """
        if len(self.axis) != 1 or jax.typeof(x).sharding.spec[self.axis[0]] is not None:
            return None
        axis = x.ndim + self.axis[0]
        return axis if isinstance(x.shape[axis], int) else None


def is_known(size: int) -> bool:
    """Return whether a size is a number, not a symbol of `jax.export.symbolic_shape`."""
    return isinstance(size, int)


def _divisible(x: Array, axis: int, blocks: int, neutral: float | None) -> Array | None:
    """Return `x` with a length divisible by `blocks`, padded with `neutral` if necessary.

    None if an even length is not divisible, or an odd one without a neutral number. An even row may
    be split evenly over devices, and padded blocks would then straddle the parts.
    """
    n = x.shape[axis]
    if n % blocks == 0:
        return x
    if n % 2 == 0 or neutral is None:
        return None
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -n % blocks)
    return jnp.pad(x, padding, constant_values=jnp.asarray(neutral, x.dtype))
