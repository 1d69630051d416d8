"""Inputs of attention: differentiable arrays, other arrays, and static parameters."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jax import Array

from jsoftmax.core._row_rule import RowRule


class Moving(NamedTuple):
    """The differentiable inputs of attention.

    Every array here and in `Fixed` has the axes (*batch, head, group, query, key), of size 1 where
    it is shared. In `q` the width takes the axis of the keys; in `k` and `v` it takes that of the
    queries. Otherwise their gradients would be products with a transposed left side, and these take
    XLA on CPU three times as long as the others. Where queries are few, `k` and `v` are as they
    were given, NaN included, and have the axes (*batch, key, head, width): there transposing them
    would cost more than all else.
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
    """The inputs without derivatives: masks, positions, and markers of NaN."""

    mask: Array | None
    rows: Array | None  # whether a query is in use
    columns: Array | None  # whether a key is in use
    row_segments: Array | None
    column_segments: Array | None
    row_places: Array  # positions in the sequence
    column_places: Array
    before: Array | None  # keys seen before the index of a query, where traced
    after: Array | None
    row_spoiled: Array  # NaN where a query holds one, else 0
    column_spoiled: Array  # NaN where a key or a value holds one, else 0
    streams: Array | None  # random keys for dropout, one for each batch entry and head
    hard: Array | None  # whether the regularizer vanishes, as at α = ∞
    offset: Array | None = None  # of the position of a query, for a score function,
    entries: Array | None = None  # and the numbers of batch entries and heads
    heads: Array | None = None


class Stripe(NamedTuple):
    """A range of queries, the range of keys that they may see, and the block size of these."""

    queries: tuple[int, int]  # start and stop
    keys: tuple[int, int]
    block_k: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(RowRule):
    """The static description of an attention; the classes of its rows are the keys."""

    window: tuple[int | None, int | None]  # keys before, keys after; None: all, or `Fixed` tells
    offset: int  # position of a query less its index, which the window counts with
    dropout_rate: float
    is_dropout_shared: bool  # whether all batch entries and heads drop the same weights
    is_part: bool  # whether queries or keys are parts of longer sequences
    are_few: bool  # whether queries are so few that keys are not transposed
    are_joined: bool  # whether a CPU then reads all key heads in one product
    is_clean: bool  # whether keys and values are finite
    block_q: Any  # how many queries are computed together: a number, or a symbol of `jax.export`,
    block_k: Any  # with how many keys,
    scores: int | None  # and on a CPU at most so many scores, if the batch has them
    stripes: tuple[Stripe, ...]  # queries that need other keys than others do; none: all need all
    score_fn: Any  # without its arrays; None where there is none
    precision: str | None  # of products: the default where attention is called, not where derived
