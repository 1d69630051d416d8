"""Tiles of scores in a kernel, keys by queries: computed, biased, capped and masked.

Queries are along the lanes of a TPU. So a number of each row, its largest score or its threshold,
is [1, queries]: a few vectors, and sums over keys add whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jsoftmax.kernels.attention._drawn_bits import kept
from jsoftmax.kernels.attention._spec import ALL, LENGTHS, Spec, quotient, remainder, wide
from jsoftmax.kernels.attention._visits import Visits
from jsoftmax.kernels.attention._walk import Source


class Formed(NamedTuple):
    """Scores of a tile, and on request their derivatives."""

    z: Array
    raw: Array | None = None  # q·k
    bend: Array | None = None  # ∂z/∂u of the scores u before a cap
    by_cap: Array | None = None  # ∂z/∂cap


class Block:
    """A block of queries of a head, and the tiles of keys that it may see, one by one."""

    def __init__(
        self, spec: Spec, refs: SimpleNamespace, head: Any, number: Any, keys_are_whole: bool = True
    ):
        self.spec, self.refs, self.head = spec, refs, head
        self.number = number  # of the block of queries
        self.start = number * spec.block_q  # the position of the first query
        self.keys_are_whole = keys_are_whole  # else the references hold one tile of keys
        entry = spec.entry_of(head)
        count, self.keys, self.before, self.after = (
            refs.lengths[LENGTHS * entry + i] for i in range(LENGTHS)
        )
        self.queries = count
        if spec.is_joined:  # numbers of each row, of the heads side by side
            self.scale: Any = None
            numbers = [one_row(refs.numbers[0], i) for i in range(spec.count)]
        else:
            first = spec.count * remainder(head, spec.key_heads * spec.groups)
            given = [refs.numbers[first + i] for i in range(spec.count)]
            self.scale = given[0]
            numbers = [jnp.full((1, spec.block_q), x) for x in given]
        named = len(spec.names)
        self.numbers = dict(zip(spec.names, numbers[:named], strict=True))
        self.regularizer = spec.regularizer(tuple(numbers[named:]))
        self.hard = spec.hard(self.numbers.get("hard"))

    def visits(self) -> Visits:
        """Return the tiles of keys that a query of the block may see."""
        size, (_, in_place) = self.spec.block_k, self.spec.in_place
        start, end = self.span()
        end = jnp.minimum(end, self.queries)
        first = quotient(jnp.maximum(start - self.before, 0) * in_place, size)
        stop = jnp.maximum(jnp.minimum(self.keys, end + self.after), 0) * in_place
        last = quotient(stop + (size - 1), size)
        return Visits(first, jnp.where(end > start, jnp.maximum(last, first), first))

    def span(self) -> tuple[Any, Any]:
        """Return the first position of a query of the block, and the one after the last."""
        rows, _ = self.spec.in_place
        end = self.start + self.spec.block_q
        return quotient(self.start, rows), quotient(end + (rows - 1), rows)

    def is_whole(self, tile: Any) -> Array:
        """Whether every query of the block sees all of a tile, and no row of it is padding."""
        return self.is_seen(tile) & (self.span()[1] <= self.queries)

    def is_seen(self, tile: Any) -> Array:
        """Whether every query of the block sees every key of a tile, by position."""
        size, (_, in_place) = self.spec.block_k, self.spec.in_place
        start, end = self.span()
        end = jnp.minimum(end, self.queries)
        first = quotient(tile * size, in_place)
        stop = quotient((tile + 1) * size + (in_place - 1), in_place)
        by_window = (first >= end - 1 - self.before) & (stop <= start + self.after + 1)
        return by_window & (stop <= self.keys)

    def seen(self, tile: Any) -> Array:
        """Return the mask of visible keys."""
        spec, refs = self.spec, self.refs
        shape = spec.block_k, spec.block_q
        rows, head = self.rows_and_heads()
        columns = tile * spec.block_k + jax.lax.broadcasted_iota(jnp.int32, (shape[0], 1), 0)
        by_head = None
        if spec.is_joined:
            of_columns = spec.joined[1]
            by_head = head == remainder(columns, of_columns)
            columns = quotient(columns, of_columns)
        columns = jnp.where(columns < self.keys, columns, ALL)  # seen by no query
        low, high = rows - self.before, jnp.where(rows < self.queries, rows + self.after, -1)
        seen = (columns >= low) & (columns <= jnp.minimum(high, ALL - 1))
        seen = seen if by_head is None else seen & by_head
        if refs.mask is not None:
            mask = self.of_tile("mask", tile).astype(jnp.int32)
            seen = seen & (jnp.broadcast_to(mask, shape) != 0)
        if refs.row_segments is not None:
            rows, columns = refs.row_segments[0], refs.column_segments[0]
            if self.keys_are_whole:
                columns = refs.column_segments[0, :, self.keys_of(tile)]
            else:
                rows = refs.row_segments[0, :, self.places]
            seen = seen & (rows == _as_column(columns, spec.is_tpu))
        return seen

    def rows_and_heads(self) -> tuple[Array, Array | None]:
        """Return each query's position, (1, queries), and its head among joined key heads."""
        rows = self.start + jax.lax.broadcasted_iota(jnp.int32, (1, self.spec.block_q), 1)
        if not self.spec.is_joined:
            return rows, None
        of_rows, of_columns = self.spec.joined
        head = quotient(remainder(rows, of_rows), of_rows // of_columns)
        return quotient(rows, of_rows), head

    def scores(self, tile: Any, k: Array, q: Array, moves: bool = False) -> Formed:
        """Return the scores of a tile, and if it `moves` the derivatives of a cap."""
        # Triton loads a tile ahead of its product, if this is not in a branch.
        raw = None if self.spec.is_tpu else self._raw(k, q)

        def of(seen):
            formed = self.formed(tile, k, q, moves, raw)
            if seen is None:
                return formed
            z = jnp.where(seen, formed.z, -jnp.inf)
            still = (None if x is None else jnp.where(seen, x, 0) for x in formed[1:])
            return Formed(z, *still)

        return self.where_whole(tile, of)

    def where_whole(self, tile: Any, function: Callable[[Array | None], Any]) -> Any:
        """Call function(seen), compiled separately with None for tiles without hidden keys."""
        if not self.spec.hides:
            return function(None)
        if self.spec.hides_everywhere:
            return function(self.seen(tile))
        return jax.lax.cond(
            self.is_whole(tile), lambda: function(None), lambda: function(self.seen(tile))
        )

    def _raw(self, k, q):
        return product(k, q, ((1,), (1,)), self.spec.precision)

    def formed(
        self, tile: Any, k: Array, q: Array, moves: bool = False, raw: Array | None = None
    ) -> Formed:
        """Return the scores of a tile without hidden keys; `raw` are its products, if known."""
        raw = self._raw(k, q) if raw is None else raw
        u = raw * self.numbers["scale"]
        if self.refs.bias is not None:
            u = u + self.of_tile("bias", tile)
        return self.capped(u, raw, moves)

    def capped(self, u: Array, raw: Array | None = None, moves: bool = False) -> Formed:
        """Apply the cap to scores u."""
        if "soft_cap" not in self.numbers:
            return Formed(u, raw if moves else None)
        cap, excluded = self.numbers["soft_cap"], u == -jnp.inf
        x = jnp.where(excluded, 0, u) / cap
        t = jnp.tanh(x)
        z = jnp.where(excluded, -jnp.inf, jnp.where(cap > 0, cap * t, jnp.nan))
        if not moves:
            return Formed(z)
        bend = jnp.where(excluded, 0, 1 - t * t)
        return Formed(z, raw, bend, t - x * bend)

    def of_tile(self, name: str, tile: Any) -> Array:
        """Return a tile's part of an array (·, keys or 1, queries or 1)."""
        ref = getattr(self.refs, name)
        _, keys, queries = ref.shape
        if not self.spec.is_tpu:  # all of it, in main memory
            rows = self.keys_of(tile) if keys > 1 else pl.ds(0, 1)
            columns = self.places if queries > 1 else pl.ds(0, 1)
            return ref[self.spec.place_of(name, self.head), rows, columns]
        if self.keys_are_whole:
            return ref[0] if keys == 1 else ref[0, self.keys_of(tile), :]
        return ref[0] if queries == 1 else ref[0, :, self.places]

    def source(self, name: str, axis: int = 1) -> Source:
        """Return keys, or an array along them, as a source of tiles."""
        refs = vars(self.refs)
        head = self._page if self.spec.is_paged else self.spec.key_head_of(self.head)
        buffers, semaphores = refs.get(f"{name}_buffers"), refs.get(f"{name}_semaphores")
        return Source(refs[name], axis, self.spec.block_k, head, 0, buffers, semaphores)

    def _page(self, tile):
        """Return the page of a tile of keys in main memory."""
        count = self.refs.pages.shape[0] // self.spec.entries
        return self.refs.pages[self.spec.entry_of(self.head) * count + tile]

    def keys_of(self, tile: Any) -> Any:
        """Return the positions of a tile of keys, as a slice."""
        return pl.ds(tile * self.spec.block_k, self.spec.block_k)

    @property
    def places(self) -> Any:
        """The positions of the queries, as a slice."""
        return pl.ds(self.start, self.spec.block_q)

    def kept(self, tile: Any) -> Array | float:
        """Return 1/(1 − rate) where dropout keeps a weight, 0 elsewhere; 1 without dropout."""
        if self.refs.streams is None:
            return 1.0
        spec = self.spec
        place = 2 * spec.place_of("streams", self.head)
        words = self.refs.streams[place], self.refs.streams[place + 1]
        shape = spec.block_k, spec.block_q
        return kept(words, self.start, tile * spec.block_k, shape, spec.dropout_rate)


def product(x: Array, y: Array, axes: tuple, precision: Any) -> Array:
    """Multiply on the matrix unit; accumulate in float32 at least."""
    return jax.lax.dot_general(
        x, y, (axes, ((), ())), precision=precision, preferred_element_type=wide(x.dtype)
    )


def finite(x: Array) -> tuple[Array, Array]:
    """Replace non-finite entries of `x` by 0; also return where they were, as float32."""
    exact = x.astype(wide(x.dtype))
    is_finite = jnp.abs(exact) < jnp.inf
    return jnp.where(is_finite, exact, 0).astype(x.dtype), jnp.where(is_finite, 0.0, 1.0)


def one_row(rows: Array, number: int) -> Array:
    """Select one of several rows by a sum: Triton does not slice vectors."""
    places = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 0)
    return jnp.sum(jnp.where(places == number, rows, 0), axis=0, keepdims=True)


def _as_column(row: Array, is_tpu: bool) -> Array:
    """Transpose (1, keys) to (keys, 1)."""
    if not is_tpu:
        return row.reshape(-1, 1)
    return jnp.swapaxes(jnp.broadcast_to(row, (8, row.shape[1])), 0, 1)[:, :1]
