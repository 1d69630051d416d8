"""Draw by inverting a cumulative distribution that is summed in integers.

Weights from 0 to 1 are rounded to multiples of 2^−S, S = 49 for up to 2¹⁴ classes and
63 − log₂ K beyond, and added as integers. So the sums do not round: they do not depend on how the
classes are blocked or split, a class of weight zero has an interval of length zero, and the last
interval ends exactly at the total. A draw is a uniform 64-bit fraction of the total, which changes
no probability by more than 2⁻⁶³.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import is_known
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.sampling._noise import whole_chunk
from jsoftmax.sampling._wide_integers import Words, from_limbs, product_high

_LOW = 25  # bits of the lower limb: a uint32 holds the sum of 128 of them
_BLOCK = 128
_CHUNK = 1024  # blocks summed at once on a CPU


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnames=("weigh", "shape", "axis_name"), inline=True)
@on_explicit_axes(like="scores")
def draw_classes(
    key: Array,
    scores: Array,
    per_row: tuple[Array, ...],
    weigh: Callable[..., Array],
    shape: tuple[int, ...],
    axis_name: Hashable | None,
) -> Array:
    """Draw class numbers of the given shape for `scores` [*rows, classes]; −1 in weightless rows.

    `weigh(scores, *per_row)` returns weights from 0 to 1, elementwise; `per_row` are arrays
    [*rows, 1].
    """
    return classes_of_words(random_words(key, shape), scores, per_row, weigh, shape, axis_name)


def classes_of_words(
    words: Words,
    scores: Array,
    per_row: tuple[Array, ...],
    weigh: Callable[..., Array],
    shape: tuple[int, ...],
    axis_name: Hashable | None,
) -> Array:
    """Return the draws of `draw_classes` for given random words of that shape."""
    *rows, n = scores.shape
    rows = tuple(rows)
    block = _block_size(n)
    blocks = -(-n // block)
    padding = [(0, 0)] * len(rows) + [(0, blocks * block - n)]
    if blocks * block > n:
        scores = jnp.pad(scores, padding, constant_values=-jnp.inf)
    scores = scores.reshape(*rows, blocks, block)
    per_row = tuple(jnp.broadcast_to(x, (*rows, 1))[..., None] for x in per_row)
    classes = n if axis_name is None else n * jax.lax.axis_size(axis_name)
    limbs = _Limbs(min(49, 63 - (classes - 1).bit_length()))
    one_each = math.prod(shape) == math.prod(rows)
    if one_each and blocks == 1:
        inner = limbs.cumulative(weigh(scores, *per_row)[..., 0, :])
        ends = inner.map(lambda x: x[..., -1:])

        def find(u):
            return _not_above(inner, u.map(lambda x: x.reshape(rows))).reshape(shape)

    elif one_each:  # the sums of the blocks are enough
        ends = _sums(scores, per_row, weigh, limbs).cumulative(-1)

        def find(u):
            u = u.map(lambda x: x.reshape(rows))
            return _in_one_block(u, ends, scores, per_row, weigh, limbs).reshape(shape)

    else:
        inner = limbs.cumulative(weigh(scores, *per_row))
        sums = inner.map(lambda x: x[..., -1])
        ends = sums.cumulative(-1)

        def find(u):
            table = inner.plus(ends.minus(sums).map(lambda x: x[..., None]))
            return _search(u, table.map(lambda x: x.reshape(math.prod(rows), blocks * block)), rows)

    mine = ends.map(lambda x: x[..., -1])
    total, offset = _over_parts(mine, axis_name)
    u = product_high(words, _led(total, len(shape)))
    u = u.minus(_led(offset, len(shape)))
    hit = u.below(_led(mine, len(shape)))
    index = find(u)
    if axis_name is None:
        return jnp.where(hit, index, -1)
    index = index + jax.lax.axis_index(axis_name) * n + 1
    return jax.lax.psum(jnp.where(hit, index, 0), axis_name) - 1


class _Limbs:
    """Weights as integers of `bits` bits in two limbs; 128 of each limb can be summed at once."""

    def __init__(self, bits: int):
        self.scale = 2.0 ** (bits - _LOW)

    def total(self, weights: Array) -> Words:
        high, low = self._split(weights)
        return self._words(jnp.sum(high, -1, jnp.int32), jnp.sum(low, -1, jnp.int32))

    def cumulative(self, weights: Array) -> Words:
        high, low = self._split(weights)
        return self._words(jnp.cumsum(high, -1, jnp.int32), jnp.cumsum(low, -1, jnp.int32))

    def _split(self, weights: Array) -> tuple[Array, Array]:
        # Scaling by a power of two and subtracting the integer part are exact.
        x = weights * self.scale
        high = jnp.floor(x)
        low = jnp.minimum(jnp.floor((x - high) * 2.0**_LOW + 0.5), 2.0**_LOW - 1)
        return high.astype(jnp.int32), low.astype(jnp.int32)

    def _words(self, high: Array, low: Array) -> Words:
        # Sums may exceed 2³¹, but not 2³²: uint32 holds them.
        return from_limbs(high.astype(jnp.uint32), low.astype(jnp.uint32), _LOW)


def _sums(scores: Array, per_row: tuple[Array, ...], weigh: Callable, limbs: _Limbs) -> Words:
    """Return the sums of all blocks."""

    def whole(scores, *per_row):
        return limbs.total(weigh(scores, *per_row))

    if not is_known(scores.size) or scores.size <= _CHUNK * _BLOCK:
        return whole(scores, *per_row)

    def chunked(scores, *per_row):
        # XLA on CPU writes weights and limbs of all scores to memory; a chunk of them stays in the
        # cache (5 times as fast, and no row-length array is allocated).
        shape, block = scores.shape[:-1], scores.shape[-1]
        flat = scores.reshape(-1, block)
        parameters = tuple(jnp.broadcast_to(x, (*shape, 1)).reshape(-1, 1) for x in per_row)
        sums = jax.lax.map(
            lambda xs: whole(*xs), (flat, *parameters), batch_size=whole_chunk(len(flat), _CHUNK)
        )
        return sums.map(lambda x: x.reshape(shape))

    return jax.lax.platform_dependent(scores, *per_row, cpu=chunked, default=whole)


def _in_one_block(u: Words, ends: Words, scores: Array, per_row, weigh, limbs: _Limbs) -> Array:
    """Return one draw per row: the block by its sums, then the class within that block alone."""
    last = scores.shape[-2] - 1
    block = _not_above(ends, u)
    chosen = jnp.minimum(block, last)[..., None]
    before = ends.map(lambda x: jnp.take_along_axis(x, jnp.maximum(chosen - 1, 0), -1))
    before = before.map(lambda x: jnp.where(chosen > 0, x, 0)[..., 0])
    weights = weigh(jnp.take_along_axis(scores, chosen[..., None], axis=-2), *per_row)[..., 0, :]
    inner = limbs.cumulative(weights)
    # Even if these weights differ by an ulp from those in the sum, the drawn class has weight.
    final = jnp.sum(inner.below(inner.map(lambda x: x[..., -1:])), -1, jnp.int32)
    within = jnp.minimum(_not_above(inner, u.minus(before)), final)
    return chosen[..., 0] * scores.shape[-1] + within


def _not_above(cumulative: Words, u: Words) -> Array:
    """Return the number of partial sums not above u: the index of the interval of u."""
    return jnp.sum(~u.map(lambda x: x[..., None]).below(cumulative), -1, jnp.int32)


def _search(u: Words, table: Words, rows: tuple[int, ...]) -> Array:
    """Return the first class with a partial sum above u, by bisection."""
    row = jnp.arange(math.prod(rows), dtype=jnp.int32).reshape(rows)
    row = jnp.broadcast_to(_leading(row, u.low.ndim), u.low.shape)
    low = jnp.where(u.low == u.low, jnp.int32(0), jnp.int32(0))  # varies over a mesh as u does
    high = low + (table.low.shape[-1] - 1)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) >> 1
        here = u.below(table.map(lambda x: x.at[row, middle].get(mode="promise_in_bounds")))
        return jnp.where(here, low, middle + 1), jnp.where(here, middle, high)

    steps = max(table.low.shape[-1] - 1, 1).bit_length()
    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    return jnp.minimum(low, high)


def _over_parts(mine: Words, axis_name: Hashable | None) -> tuple[Words, Words]:
    """Return the total of the whole row, and the sum of the parts before this one."""
    if axis_name is None:
        return mine, mine.map(jnp.zeros_like)
    me, parts = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
    here = (jnp.arange(parts) == me).reshape(parts, *(1,) * mine.low.ndim)
    every = mine.map(lambda x: jax.lax.psum(jnp.where(here, x[None], 0), axis_name))
    cumulative = every.cumulative(0)
    offset = cumulative.minus(every).map(lambda x: jnp.sum(jnp.where(here, x, 0), 0, jnp.uint32))
    return cumulative.map(lambda x: x[-1]), offset


def random_words(key: Array, shape: tuple[int, ...]) -> Words:
    """Draw uniform 64-bit integers."""
    high, low = jax.random.bits(key, (2, *shape), jnp.uint32)
    return Words(high, low)


def _led(words: Words, ndim: int) -> Words:
    return words.map(lambda x: _leading(x, ndim))


def _leading(x: Array, ndim: int) -> Array:
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def _block_size(n: int) -> int:
    """Return a block size of at most 128, if possible a divisor, to avoid padding rows."""
    if n <= _BLOCK:
        return n
    for step in (8, 1):
        for block in range(_BLOCK, 31, -step):
            if n % block == 0:
                return block
    return _BLOCK
