"""Number of visible keys of each query."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Int

from jsoftmax.attention._attention_arguments import Given, prepared, read_arguments
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.attention._attention_scores import visible
from jsoftmax.attention._folds import over_parts
from jsoftmax.attention._key_blocks import QUERIES, mapped, padded
from jsoftmax.attention._sight import rows_together
from jsoftmax.core import _checks as checks
from jsoftmax.core.regularizers import SHANNON


def visible_keys(
    query: ArrayLike,
    key: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    query_offset: ArrayLike | str | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: ArrayLike | tuple[ArrayLike | None, ArrayLike | None] | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Int[Array, "*batch queries one_or_heads"]:
    """Count the keys that each query sees, n_q = |{s : query q sees key s}|.

    Softmax over more keys is flatter. Scalable softmax and adaptive-scalable entmax counter that by
    a scale that grows with n: s log n and δ + β (log n)^γ, with learned s, β and γ. Passed as the
    `scale` of `dot_product_attention` it restarts with every packed document, since n does. No
    array of all queries and keys is formed.

    Args:
        query: as for `dot_product_attention`, like all arguments below: shape (*batch, queries,
            heads, width). Of `query` and `key` only the shapes matter.
        key: shape (*batch, keys, key heads, width).
        mask: boolean, True where a key takes part; broadcastable to (*batch, heads, queries, keys).
        is_causal: whether a query sees no key after its own position.
        query_offset: the position of the first query among the keys.
        query_seq_lengths: integers of shape (*batch,).
        key_value_seq_lengths: integers of shape (*batch,).
        local_window_size: how many keys before and after its own position a query sees.
        query_segment_ids: integers of shape (*batch, queries).
        key_value_segment_ids: integers of shape (*batch, keys).
        axis_name: the mesh (or `vmap`) axis that splits *keys*, in `shard_map`.

    Returns:
        Integers of shape (*batch, queries, 1), or (*batch, queries, heads) for a mask that differs
        from head to head; 0 for a query that sees no key.

    Raises:
        TypeError: for arrays of the wrong kind.
        ValueError: for shapes that do not match, and numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 5, 2, 8))
        >>> documents = {"is_causal": True, "query_segment_ids": jnp.array([0, 0, 0, 1, 1])}
        >>> n = jsoftmax.visible_keys(q, k, **documents)
        >>> n[:, 0].tolist()
        [1, 2, 3, 1, 2]
        >>> s = jnp.array([0.4, 0.5])  # one for each head, to be learned
        >>> scale = s * jnp.log(n) / 8**0.5
        >>> jsoftmax.dot_product_attention(q, k, v, scale=scale, **documents).shape
        (5, 2, 8)

    References:
        Nakanishi, "Scalable-softmax is superior for attention", 2025. Vasylenko, Pitorro, Martins &
        Treviso, "Long-context generalization with sparse attention", 2025.
    """
    key = checks.as_array("visible_keys", "key", key)
    given, rule = read_arguments(
        "visible_keys", query, key, key[..., :1], None, mask, regularizer=SHANNON, scale=None,
        is_causal=is_causal, query_offset=query_offset, query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths, local_window_size=local_window_size,
        query_segment_ids=query_segment_ids, key_value_segment_ids=key_value_segment_ids,
        logits_soft_cap=None, sinks=None, dropout_rng=None, dropout_rate=0.0,
        broadcast_dropout=False, axis_name=axis_name,
    )  # fmt: skip
    return _counted(jax.lax.stop_gradient(given), rule)


@partial(jax.jit, static_argnums=1)
def _counted(given: Given, rule: Rule) -> Array:
    fixed = prepared(given, rule).fixed
    *batch, queries, heads, _ = given.query.shape

    def of_block(trees):
        (fixed,) = trees
        here = (fixed.row_places == fixed.row_places) & (fixed.column_places >= 0)
        seen = visible(fixed, rule)
        here = here if seen is None else seen & here
        return jnp.sum(here, axis=-1, keepdims=True, dtype=jnp.int32)

    trees, block = (fixed,), queries
    if given.sizes_are_known:  # in blocks, since XLA on CPU would form an array of all pairs
        block = min(queries, rows_together(given.key.shape[-3])) or 1
        trees = padded(trees, QUERIES, 0, -queries % block)
    counts = mapped(of_block, trees, QUERIES, block)[..., :queries, 0]
    counts = over_parts(counts, rule.axis_name)
    *lead, key_heads, groups, rows = counts.shape
    own = heads if key_heads * groups > 1 else 1
    if own > 1:
        counts = jnp.broadcast_to(counts, (*lead, given.key.shape[-2], given.groups, rows))
    counts = jnp.swapaxes(counts.reshape(*lead, own, rows), -1, -2)
    return jnp.broadcast_to(counts, (*batch, queries, own))
