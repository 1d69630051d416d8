"""Relative position bias of T5: buckets of distances, each with a learned bias."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.attention._score_fn import LaidScore, Outline
from jsoftmax.core import _checks as checks


@dataclasses.dataclass(frozen=True)
class T5Buckets(LaidScore):
    r"""The relative position bias of T5: one learned number for each bucket of distances and head.

    .. math:: z_{ts} ← z_{ts} + b_{h,\, \mathrm{bucket}(s - t)}

    Half of the buckets (of each direction, where it is bidirectional) hold one distance each, the
    others ranges that grow geometrically up to `max_distance`; all beyond share the last. Pass it
    to `dot_product_attention` as `score_fn`. Biases of a block are formed from those of its
    distances, which are only as many as its queries and keys together; so is the gradient of the
    table, without a scatter. (T5 itself has no factor 1/√width: give `scale=1`.)

    Args:
        table: b, of shape (buckets, heads), or (buckets, 1) where heads share it. Differentiable.
        bidirectional: whether keys after a query have buckets of their own; if not, they are in the
            bucket of distance 0.
        max_distance: all distances from this one on are in the last bucket.

    Raises:
        ValueError: for a number of buckets that leaves none for ranges, or too short a distance.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 100, 4, 8))
        >>> table = jax.random.normal(jax.random.key(1), (32, 4))
        >>> buckets = jsoftmax.T5Buckets(table)
        >>> jsoftmax.dot_product_attention(q, k, v, scale=1.0, score_fn=buckets).shape
        (100, 4, 8)
        >>> buckets.bucket(jnp.array([-200, -20, -3, 0, 3, 20, 200])).tolist()
        [15, 10, 3, 0, 19, 26, 31]

    Reference:
        Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text
        transformer", JMLR 2020.
    """

    table: ArrayLike
    bidirectional: bool = True
    max_distance: int = 128
    arrays: ClassVar[tuple[str, ...]] = ("table",)

    def __post_init__(self):
        shape = np.shape(self.table)
        if len(shape) != 2:
            raise ValueError(
                f"jsoftmax.T5Buckets: `table` has shape {shape}; give it (buckets, heads)."
            )
        self._edges(shape[0])

    def __call__(
        self, score: ArrayLike, batch: ArrayLike, head: Any, query: Any, key: Any
    ) -> Array:
        """Return the score of one query and key of one head."""
        table: Array = jnp.asarray(self.table)
        column = head if table.shape[1] > 1 else 0
        return jnp.add(score, table[self.bucket(key - query), column])

    def bucket(self, distance: ArrayLike) -> Array:
        """Return the buckets of distances key − query, integers of any shape."""
        buckets = jnp.shape(self.table)[0]
        first = 0
        distance = jnp.asarray(distance)
        if self.bidirectional:
            first, distance = jnp.where(distance > 0, buckets // 2, 0), jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        edges = jnp.asarray(self._edges(buckets), distance.dtype)
        return first + jnp.sum(distance[..., None] >= edges, axis=-1, dtype=jnp.int32)

    def _edges(self, buckets: int) -> np.ndarray:
        """Return the least distance of each bucket of one direction except the first."""
        count = buckets // 2 if self.bidirectional else buckets
        exact = count // 2
        if exact < 1 or self.max_distance <= exact:
            raise ValueError(
                f"jsoftmax.T5Buckets: {buckets} buckets and `max_distance` {self.max_distance!r} "
                f"leave {exact} for single distances; give at least "
                f"{4 if self.bidirectional else 2} buckets, and a longer distance."
            )
        # Bucket exact + i begins where i ≤ log(d/exact)/log(max_distance/exact) · (count − exact).
        ranges = count - exact
        growth = math.log(self.max_distance / exact) / ranges
        starts = [exact * math.exp(growth * i) for i in range(ranges)]
        starts = [round(x) if abs(x - round(x)) < 1e-9 * x else math.ceil(x) for x in starts]
        return np.array([*range(1, exact), *starts], np.int32)

    def check(self, outline: Outline) -> None:
        """Raise an error for a table that does not match the heads."""
        table = checks.as_array(outline.function, "score_fn.table", self.table)
        if table.shape[1] not in (1, outline.heads):
            raise ValueError(
                f"jsoftmax.{outline.function}: `table` of T5Buckets has shape {table.shape}; give "
                f"it a column for each of the {outline.heads} heads of `query`, or one."
            )
        if not isinstance(outline.offset, int) and outline.offset.shape[-1:] not in ((), (1,)):
            raise NotImplementedError(
                f"jsoftmax.{outline.function}: T5Buckets does not take `query_offset`='segments', "
                "since it needs queries at consecutive positions. Give each document its own batch "
                "entry."
            )

    def laid(self, outline: Outline) -> tuple[tuple[Array, ...], ...]:
        """Return the biases by head, with the buckets along the last axis."""
        return (outline.by_head(jnp.asarray(self.table).T[:, None, :]),), (), ()

    def of_block(
        self, score: Array, laid: tuple[tuple[Array, ...], ...], query: Array, key: Array
    ) -> Array:
        """Return the scores of a block."""
        (((table,), _, _), queries, keys) = laid, score.shape[-2], score.shape[-1]
        buckets = table.shape[-1]
        # Only the first query and key are read: padding behind them has no position.
        first = key[..., :, :1] - query[..., :1, :] - (queries - 1)
        distances = first + jnp.arange(queries + keys - 1, dtype=jnp.int32)
        sized = dataclasses.replace(self, table=np.empty((buckets, 1)))
        chosen = sized.bucket(distances)[..., None] == jnp.arange(buckets)
        by_distance = jnp.sum(jnp.where(chosen, table[..., None, :], 0), axis=-1)
        return score + along_diagonals(by_distance, queries, keys)


def along_diagonals(x: Array, queries: int, keys: int) -> Array:
    """Expand (..., 1, queries + keys − 1) to (..., queries, keys): x[key − query + queries − 1].

    Rows of a matrix that is one column shorter than a period of x are x shifted by one each: no
    gather is needed, and its transpose, which sums diagonals, is no scatter. The period has two
    unused entries, since a symbolic size of queries × (queries + keys − 1) is not known to be ≥ 0.
    """
    length = queries + keys
    # Distances 0, 1, …, two entries that are not used, and those before 0.
    unused = x[..., :1]
    x = jnp.concatenate([x[..., queries - 1 :], unused, unused, x[..., : queries - 1]], axis=-1)
    x = jnp.broadcast_to(x, (*x.shape[:-2], queries, length + 1))
    x = x.reshape(*x.shape[:-2], queries * (length + 1))[..., : queries * length]
    return x.reshape(*x.shape[:-1], queries, length)[..., :keys]
