"""What attention is computed of: what moves, what does not, and what is known while tracing."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jax import Array

from jsoftmax.core._row_rule import RowRule


class Moving(NamedTuple):
    """What a derivative may be taken in.

    Every array here and in `Fixed` has the axes (*batch, head, group, query, key), of size 1 where
    it is shared. In `q` the width stands in the place of the keys; in `k` and `v` in that of the
    queries, since a product whose left side is transposed, of which their gradients are made, takes
    XLA on CPU three times as long as the others. Where queries are few, `k` and `v` are as they
    were given, NaN included, and have the axes (*batch, key, head, width): there moving them would
    cost more than all else.
    """

    q: Array
    k: Array
    v: Array
    bias: Array | None
    scale: Array
    numbers: tuple[Array, ...]  # of the regularizer
    soft_cap: Array | None
    sinks: Array | None
    of_heads: tuple[Array, ...] = ()  # of a score function: by head,
    of_queries: tuple[Array, ...] = ()  # by query,
    of_keys: tuple[Array, ...] = ()  # by key,
    whole: tuple[Array, ...] = ()  # and of any shape, for any block


class Fixed(NamedTuple):
    """What no derivative is taken in: which keys a query sees, and where NaN stood."""

    mask: Array | None
    rows: Array | None  # whether a query takes part
    columns: Array | None  # whether a key takes part
    row_segments: Array | None
    column_segments: Array | None
    row_places: Array  # places in the sequence
    column_places: Array
    before: Array | None  # keys seen before the number of a query, where tracing does not tell
    after: Array | None
    row_spoiled: Array  # NaN where a query holds one, else 0
    column_spoiled: Array  # NaN where a key or a value holds one, else 0
    streams: Array | None  # random keys for dropout, one for each batch entry and head
    hard: Array | None  # whether the regularizer vanishes, as at α = ∞
    offset: Array | None = None  # of the place of a query, for a score function,
    entries: Array | None = None  # and the numbers of batch entries and heads
    heads: Array | None = None


class Stripe(NamedTuple):
    """Some queries, all the keys that they may see, and how many of these come in a block."""

    queries: tuple[int, int]  # from one place to before another
    keys: tuple[int, int]
    block_k: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(RowRule):
    """The static description of an attention; the classes of its rows are the keys."""

    window: tuple[int | None, int | None]  # keys before, keys after; None: all, or `Fixed` tells
    offset: int  # of the place of a query from its number, which the window reckons with
    dropout_rate: float
    is_dropout_shared: bool  # whether all batch entries and heads drop the same weights
    is_part: bool  # whether queries or keys are parts of longer sequences
    are_few: bool  # whether so few queries share their keys that these are read but not moved
    are_joined: bool  # whether a CPU then reads all heads of keys in one product
    is_clean: bool  # whether keys and values are finite
    block_q: Any  # how many queries are computed together: a number, or a symbol of `jax.export`,
    block_k: Any  # with how many keys,
    scores: int | None  # and on a CPU at most so many scores, if the batch has them
    stripes: tuple[Stripe, ...]  # queries that need other keys than others do; none: all need all
    score_fn: Any  # but for its arrays; None where there is none
    precision: str | None  # of products: the default where attention is called, not where derived
