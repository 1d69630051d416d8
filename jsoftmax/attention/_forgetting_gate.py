"""Forgetting attention: the gates between a key and a query multiply its weight."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.attention._score_fn import LaidScore, Outline
from jsoftmax.core import _checks as checks


@dataclasses.dataclass(frozen=True)
class ForgettingGate(LaidScore):
    r"""A forget gate: adds log f of all gates after the key, up to the query, to the score.

    .. math:: z_{ts} ← z_{ts} + \sum_{i=s+1}^{t} \log f_i = z_{ts} + c_t - c_s

    for cumulative sums c of log f. Pass it to `dot_product_attention` as `score_fn`, beside
    `is_causal`. Only c is stored, one number for each key; its gradient is summed block by block.

    Args:
        cumulative: c at every key, of shape (*batch, keys, heads), or with size 1 where it is
            shared: `jnp.cumsum(jax.nn.log_sigmoid(x), axis=-2)`. Queries take theirs at their
            positions among the keys, from `query_offset` on. In `ring_attention` each device gives
            its part of the sums over the whole sequence. Differentiable.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 100, 4, 8))
        >>> gates = jax.random.normal(jax.random.key(1), (100, 4))  # projections of the tokens
        >>> gate = jsoftmax.ForgettingGate(jnp.cumsum(jax.nn.log_sigmoid(gates), axis=-2))
        >>> jsoftmax.dot_product_attention(q, k, v, is_causal=True, score_fn=gate).shape
        (100, 4, 8)

    Reference:
        Lin, Nikishin, He & Courville, "Forgetting transformer: softmax attention with a forget
        gate", ICLR 2025.
    """

    cumulative: ArrayLike
    arrays: ClassVar[tuple[str, ...]] = ("cumulative",)
    along: ClassVar[dict[str, int]] = {"cumulative": -2}

    def __call__(self, score: ArrayLike, batch: Any, head: Any, query: Any, key: Any) -> Array:
        """Return the score of one query and key of one head."""
        c = jnp.asarray(self.cumulative)
        c = c.reshape(-1, *c.shape[-2:])
        entry, column = batch if c.shape[0] > 1 else 0, head if c.shape[-1] > 1 else 0
        return jnp.add(score, c[entry, query, column] - c[entry, key, column])

    def check(self, outline: Outline) -> None:
        """Raise an error for sums that do not match the keys."""
        x = checks.as_array(outline.function, "score_fn.cumulative", self.cumulative)
        shape = *outline.batch, outline.keys, outline.heads
        if x.ndim < 2 or not checks.broadcasts(x, shape) or x.shape[-2] != outline.keys:
            raise ValueError(
                f"jsoftmax.{outline.function}: `cumulative` of ForgettingGate has shape {x.shape}; "
                f"give it a sum for each key, of shape {shape} (*batch, keys, heads)."
            )
        if outline.axis_name is not None:
            raise NotImplementedError(
                f"jsoftmax.{outline.function}: ForgettingGate does not take keys that are split "
                "by `axis_name`, since queries need sums at positions on other devices. Split "
                "heads or the batch."
            )
        if isinstance(outline.offset, int) and all(
            isinstance(n, int) for n in (outline.queries, outline.keys)
        ):
            last = outline.offset + outline.queries
            if last > outline.keys or outline.offset < 0:
                raise ValueError(
                    f"jsoftmax.{outline.function}: ForgettingGate needs the queries among the "
                    f"{outline.keys} keys, but their positions are {outline.offset} to {last - 1}. "
                    "Give `query_offset`, and gates of all keys."
                )

    def laid(self, outline: Outline) -> tuple[tuple[Array, ...], ...]:
        """Return the sums of keys, and of queries at their positions among them."""
        c = outline.by_place(jnp.asarray(self.cumulative))
        offset, queries = outline.offset, outline.queries
        if isinstance(offset, int):
            of_queries = jax.lax.slice_in_dim(c, offset, offset + queries, axis=-1)
        else:
            places = jnp.arange(queries, dtype=jnp.int32) + offset  # (*batch, queries)
            places = jnp.clip(places, 0, outline.keys - 1)[..., None, None, :]
            c_of_entries = jnp.broadcast_to(c, (*places.shape[:-3], *c.shape[-3:]))
            places = jnp.broadcast_to(places, (*c_of_entries.shape[:-1], queries))
            of_queries = jnp.take_along_axis(c_of_entries, places, axis=-1)
        return (), (of_queries[..., None],), (c[..., None, :],)

    def of_block(
        self, score: Array, laid: tuple[tuple[Array, ...], ...], query: Array, key: Array
    ) -> Array:
        """Return the scores of a block."""
        _, (of_queries,), (of_keys,) = laid
        return score + (of_queries - of_keys)
