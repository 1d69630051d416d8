"""Arrays and static description of an attention kernel."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._arg_max import Hard
from jsoftmax.core._regularizer import Regularizer, joined
from jsoftmax.core._tangents import effective_tangent

ALL = 2**30  # above every position; the sum with one is still an int32
PEAK = 16  # keys to a peak: its largest score is kept, to start the search from
LENGTHS = 4  # numbers of a batch entry: queries, keys, keys seen before a query and after it


def quotient(x: Any, n: int) -> Any:
    """Return x // n of integers ≥ 0: Mosaic has no rounding to the floor."""
    return jax.lax.div(x, jnp.asarray(n, x.dtype)) if hasattr(x, "dtype") else x // n


def remainder(x: Any, n: int) -> Any:
    """Return x mod n of integers ≥ 0."""
    return jax.lax.rem(x, jnp.asarray(n, x.dtype)) if hasattr(x, "dtype") else x % n


def wide(dtype: Any) -> np.dtype:
    """Return the dtype that numbers of this dtype are computed in."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


class Arrays(NamedTuple):
    """The operands of attention; None for one that was left out.

    Heads are numbered by batch entry, key head and query head of its group, in this order.
    """

    q: Array  # (heads, queries, width); of a GPU (entries, queries, heads of an entry, width)
    k: Array  # (key heads, keys, width); of a GPU (entries, keys, key heads, width)
    v: Array  # the same of the width of values
    numbers: Array  # (heads of one entry × numbers of a head), of the computing dtype
    lengths: Array  # (entries × LENGTHS), int32
    bias: Array | None  # (shared heads, keys or 1, queries or 1), of the computing dtype
    mask: Array | None  # the same, int8
    row_segments: Array | None  # (entries or 1, 1, queries), int32
    column_segments: Array | None  # (entries or 1, 1, keys), int32
    pages: Array | None  # (entries × tiles of keys), int32: which page of `k` and `v` is the tile
    streams: Array | None  # (heads or 1, 2) words of random keys for dropout, as int32
    low: Array | None = None  # (key heads, tiles × some, width): keys of a part of a tile are not
    high: Array | None = None  # below the one and not above the other, in any feature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """The static description of a kernel."""

    structure: Any  # of the regularizer
    has: frozenset[str]  # "soft_cap", "sinks", "hard": numbers of a head; masks of keys
    is_hard: bool  # whether the regularizer vanishes, as at α = ∞
    entries: int
    key_heads: int
    groups: int
    shared: tuple[tuple[str, tuple[int, ...]], ...]  # sizes of entries, key heads and groups
    dropout_rate: float
    precision: Any
    dtype: Any  # of results
    moves: tuple[str, ...]  # the differentiated numbers of a head, and "bias"
    block_q: int
    block_k: int
    on_chip: bool  # whether a row of scores is kept, or its tiles are recomputed
    platform: str  # "tpu" or "gpu"
    interpret: Any = False
    joined: tuple[int, int] = (
        0,
        0,
    )  # heads of queries and of keys side by side at each position
    is_paged: bool = False  # whether tiles of keys are pages, found by a table
    is_streamed: bool = False  # whether the arrays that a step goes over stay in main memory
    warps: int = 8  # of a GPU that compute a block
    stages: int = 2

    @property
    def heads(self) -> int:
        """Number of query heads in all batch entries."""
        return self.entries * self.key_heads * self.groups

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers of a head, in order, before those of the regularizer."""
        optional = ("soft_cap", "sinks", "hard")
        return ("scale", *(name for name in optional if name in self.has))

    @property
    def moving_rows(self) -> tuple[str, ...]:
        """The differentiated numbers of a head; each query gives a term of their sums."""
        return tuple(name for name in self.moves if name != "bias")

    @property
    def count(self) -> int:
        """Number of numbers of a head."""
        return len(self.names) + self.structure.num_leaves

    def regularizer(self, numbers: tuple) -> Regularizer:
        """Return the regularizer of these numbers."""
        return joined(self.structure, numbers)

    def bend(self, regularizer: Regularizer, name: str, p: Array) -> Array | None:
        """Return −∂ω′/∂θ at p, for the number θ of the regularizer with this name."""
        along: list[Any] = [None] * self.structure.num_leaves
        along[int(name)] = jnp.ones_like(jax.tree.leaves(regularizer)[int(name)])
        return effective_tangent(p, None, regularizer, self.regularizer(tuple(along)))

    @property
    def is_softmax(self) -> bool:
        """Whether the mapping is softmax: the threshold has a formula."""
        return self.regularizer((None,) * self.structure.num_leaves).is_exponential

    @property
    def is_sparse(self) -> bool:
        """Whether a score far below the others has no mass at all."""
        return "sparse" in self.has

    @property
    def lists(self) -> bool:
        """Whether tiles without mass are skipped before they are recomputed or copied."""
        costs = not self.on_chip or self.is_streamed or self.is_paged or self.has_bounds
        return self.is_tpu and self.is_sparse and costs

    @property
    def has_bounds(self) -> bool:
        """Whether lower and upper bounds of a tile's keys are given."""
        return "bounds" in self.has

    @property
    def peaks(self) -> int:
        """Number of peaks of a tile, each the largest of a few scores, kept for each query; or 0.

        In a row that is recomputed, a peak is the largest score of each sublane of a vector.
        """
        if self.on_chip:
            return self.block_k // PEAK
        return 8 if self.is_tpu and not self.is_softmax else 0

    @property
    def hides(self) -> bool:
        """Whether a query may not see all keys."""
        return self.hides_everywhere or "hiding" in self.has

    @property
    def hides_everywhere(self) -> bool:
        """Whether any tile may be hidden in part, at any position."""
        return not self.has.isdisjoint({"mask", "segments"}) or self.joined[1] > 1

    @property
    def is_joined(self) -> bool:
        """Whether all heads of few queries are rows of one block; each sees its own keys.

        So a cache is read in its own layout, (keys, heads, width). A product of all heads costs a
        matrix unit, which has room for 128 rows, no more than that of one.
        """
        return self.joined[0] > 0

    @property
    def in_place(self) -> tuple[int, int]:
        """Number of rows of queries and of keys at each position."""
        return self.joined if self.is_joined else (1, 1)

    def hard(self, flag: Array | None) -> Hard:
        """Return where the map is arg max."""
        return self.is_hard if flag is None else flag > 0

    @property
    def is_tpu(self) -> bool:
        """Whether tiles are in the vectors of a TPU."""
        return self.platform == "tpu"

    @property
    def has_rows_of_values(self) -> bool:
        """Whether a tile of values is (keys, width), like one of keys, and not transposed."""
        return self.is_joined or not self.is_tpu

    @property
    def computing(self) -> Any:
        """The dtype of scores and sums: float32, and float64 where a kernel is interpreted."""
        return wide(self.dtype)

    @property
    def rounding(self) -> float:
        """Relative error allowed in a weight before its product with a value.

        The weight is rounded to the dtype of the values: 1/128 of that error is lost in it. 0 where
        they have the dtype of computations.
        """
        eps = float(jnp.finfo(self.dtype).eps)
        return 0.0 if self.dtype == self.computing else eps / 128

    @property
    def rows(self) -> int:
        """Rows of the vectors that sums over keys are added up in."""
        return 8 if self.is_tpu else 1

    def place_of(self, name: str, head: Any) -> Any:
        """Return the index of a head in a shared array."""
        sizes = dict(self.shared)[name]
        key_head, entry = self.key_head_of(head), self.entry_of(head)
        indices = entry, remainder(key_head, self.key_heads), remainder(head, self.groups)
        place = 0
        for size, index in zip(sizes, indices, strict=True):
            place = place * size + (index if size > 1 else 0)
        return place

    def key_head_of(self, head: Any) -> Any:
        """Return the key head of a query head."""
        return quotient(head, self.groups)

    def entry_of(self, head: Any) -> Any:
        """Return the batch entry of a query head."""
        return quotient(head, self.groups * self.key_heads)
