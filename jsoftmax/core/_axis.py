"""The class axis: the one place that knows where the classes lie and how they are split."""

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
    """The axis or axes over which a distribution sums to one.

    `axis` is counted from the end, so that it survives `vmap`, and its order numbers the classes.
    With an `axis_name` the classes are split over that mesh (or `vmap`) axis, and every verb
    reduces over it too.

    A size may be a symbol of `jax.export`. Then only equality is asked of it, and the general plan
    is taken.
    """

    axis: tuple[int, ...]
    axis_name: Hashable | None = None

    def max(self, x: Array) -> Array:
        """The largest entry of each row, kept as a size-1 axis. A constant to differentiation."""
        top = self._reduce(jnp.max, jax.lax.stop_gradient(x))
        if self.axis_name is None:
            return top
        # A NaN on one part reaches the others through a sum; it may not survive pmax.
        spoiled = jax.lax.psum(jnp.where(top == top, 0, top), self.axis_name)
        return jnp.where(spoiled == 0, jax.lax.pmax(top, self.axis_name), spoiled)

    def sum(self, x: Array) -> Array:
        """The sum of each row, kept as a size-1 axis."""
        total = self._reduce(jnp.sum, x, neutral=0)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)

    def size(self, x: Array | jax.ShapeDtypeStruct) -> Any:
        """The number of classes of `x`, over all parts of a split row; symbolic if its shape is."""
        size = math.prod(x.shape[a] for a in self.axis)
        return size if self.axis_name is None else size * jax.lax.axis_size(self.axis_name)

    def index(self, x: Array) -> Array:
        """For every entry of `x` the number of its class, from 0 to size − 1.

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
        """The entry of each row where `hit` is True."""
        return self.sum(jnp.where(hit, x, 0))

    def at(self, x: Array, number: Array) -> Array:
        """The entry of each row at a class, `number` being of size 1 along the classes; else 0.

        Looked up where rows are whole, or split by the compiler; on the parts of split rows, and
        on an Explicit mesh, a masked sum.
        """
        is_split = any(part is not None for part in jax.typeof(x).sharding.spec)
        if (axis := self._whole_axis(x)) is None or self.axis_name is not None or is_split:
            return self.take(x, self.index(x).astype(number.dtype) == number)
        inside = (number >= 0) & (number < x.shape[axis])
        found = jnp.take_along_axis(x, jnp.where(inside, number, 0), axis=axis, mode="clip")
        return jnp.where(inside, found, 0)

    def by_rows(self, function: Callable[..., Any], scores: Array, *arrays: Array | None) -> Any:
        """function(scores, *arrays), where `vmap` adds rows instead of mapping `function`.

        A loop or a choice that all rows take together would under `vmap` be taken by each for
        itself, and all the branches of a choice by everyone. The scores have all the rows, and the
        other arrays broadcast to them.
        """
        if self.axis_name is not None:  # which may be the axis that is mapped over
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
        """How many classes are on this device; 0 where nobody knows, or there are several axes.

        Of an axis that is split over an Explicit one JAX sorts no parts.
        """
        axis, *more = self.axis
        if more or not is_known(x.shape[axis]) or jax.typeof(x).sharding.spec[axis] is not None:
            return 0
        return x.shape[axis]

    def ranked(self, x: Array, rank: int) -> Array:
        """The entry of this rank, the largest being the first."""
        axis = self.axis[0] % x.ndim
        highest = jax.lax.top_k(jnp.moveaxis(x, axis, -1), rank)[0]
        if self.axis_name is not None:
            highest = gathered(highest, self.axis_name, axis=highest.ndim - 1)
            highest = jax.lax.top_k(highest, rank)[0]
        return jnp.moveaxis(highest[..., -1:], -1, axis)

    def anywhere(self, flags: Array) -> Array:
        """Whether a flag is raised in any row: the same answer on every part of a split row."""
        raised = jnp.any(flags)
        if self.axis_name is None:
            return raised
        return jax.lax.pmax(raised.astype(jnp.int32), self.axis_name) > 0

    def peaks(
        self, x: Array, weights: Array | None = None, size: int = 8
    ) -> tuple[Array, Array | None] | None:
        """The maxima of blocks of `size`, a row so much shorter; None for short rows.

        With weights, the largest weight of an entry that is the maximum of its block.
        """
        axis = self._whole_axis(x)
        if axis is None or not is_known(x.shape[axis]) or x.shape[axis] < 32 * size:
            return None
        if (padded := _divisible(x, axis, 8 * size, -jnp.inf)) is None:
            return None
        # In chunks of size × lanes: maxima are taken of whole vectors, and a row that the compiler
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
        """x − Σ w x/Σ w for weights of the given total, also where one of them is almost all of it.

        There x_t minus the mean cancels to what rounding left of it. Taking the mean away a second
        time, from numbers that are now as small as the result, leaves a relative error of one eps:
        it is the rule of Gram and Schmidt's method that twice is enough. The transpose is as good.
        """
        if isinstance(total, float):
            once = x - self.sum(weights * x) / total
            return once - self.sum(weights * once) / total
        share = inverse(total)  # a factor keeps its own derivative when it is transposed
        once = x - self.sum(weights * x) * share
        return once - self.sum(weights * once) * share

    def _reduce(self, reduction: Callable, x: Array, neutral: float | None = None) -> Array:
        # Two levels lose less to rounding, and give one long row to several cores. A maximum loses
        # nothing: no row is padded, which is to be copied, for its sake.
        axis = self._whole_axis(x)
        if axis is None or not is_known(x.shape[axis]) or x.shape[axis] < _LONG:
            return reduction(x, axis=self.axis, keepdims=True)
        if (blocks := _divisible(x, axis, 16, neutral)) is not None:
            n = blocks.shape[axis]
            shape = (*x.shape[:axis], min(n & -n, 256), -1, *x.shape[axis + 1 :])
            x = reduction(blocks.reshape(shape), axis=axis + 1)
        return reduction(x, axis=self.axis, keepdims=True)

    def _whole_axis(self, x: Array) -> int | None:
        """The one class axis of `x`, if it may be viewed in blocks.

        An Explicit mesh forbids it, and a length that is not known while tracing.
        """
        if len(self.axis) != 1 or jax.typeof(x).sharding.spec[self.axis[0]] is not None:
            return None
        axis = x.ndim + self.axis[0]
        return axis if isinstance(x.shape[axis], int) else None


def is_known(size: int) -> bool:
    """Whether a size is a number, and not a symbol of `jax.export.symbolic_shape`."""
    return isinstance(size, int)


def _divisible(x: Array, axis: int, blocks: int, neutral: float | None) -> Array | None:
    """`x` of a length that `blocks` divides: padded if it is odd, None if it is even and not so.

    Without a neutral number nothing is padded.

    An even row may be split evenly over devices, and the parts would run through padded blocks.
    """
    n = x.shape[axis]
    if n % blocks == 0:
        return x
    if n % 2 == 0 or neutral is None:
        return None
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -n % blocks)
    return jnp.pad(x, padding, constant_values=jnp.asarray(neutral, x.dtype))
