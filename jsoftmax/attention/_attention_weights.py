"""Weights of attention as an array, for inspection at small sizes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jsoftmax.attention._attention_arguments import Given, prepared, read_arguments
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.attention._mixture import weights
from jsoftmax.core import _checks as checks
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen


def attention_weights(
    query: ArrayLike,
    key: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    alpha: float | ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    scale: float | ArrayLike | None = None,
    is_causal: bool = False,
    query_offset: ArrayLike | str | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: ArrayLike | tuple[ArrayLike | None, ArrayLike | None] | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
    logits_soft_cap: float | ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    score_fn: Callable[..., Any] | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "*batch heads queries keys"]:
    """Return the attention weights p = entmax_α(scale · q kᵀ + bias).

    `dot_product_attention` mixes values with these weights. They are an array of all queries and
    keys, for inspection: for long sequences it does not fit into memory, and attention itself never
    forms it.

    Args:
        query: as for `dot_product_attention`, like all arguments below: shape (*batch, queries,
            heads, width).
        key: shape (*batch, keys, key heads, width).
        bias: added to the scores; broadcastable to (*batch, heads, queries, keys).
        mask: boolean, True where a key takes part; broadcastable to (*batch, heads, queries, keys).
        alpha: α > 0, a number, or traced, then also of shape (heads,). 1 where it is None.
        regularizer: a `Regularizer` instead of `Tsallis(alpha)`.
        scale: the factor of q kᵀ, 1/√width where it is None.
        is_causal: whether a query sees no key after its own position.
        query_offset: the position of the first query among the keys.
        query_seq_lengths: integers of shape (*batch,).
        key_value_seq_lengths: integers of shape (*batch,).
        local_window_size: how many keys before and after its own position a query sees.
        query_segment_ids: integers of shape (*batch, queries).
        key_value_segment_ids: integers of shape (*batch, keys).
        logits_soft_cap: c > 0 replaces z by c tanh(z/c).
        sinks: the score of one more class; its weight is not returned.
        score_fn: a function of (score, batch, head, query, key) that returns the modified score.
        axis_name: the mesh (or `vmap`) axis that splits *keys*, in `shard_map`.

    Returns:
        Shape (*batch, heads, queries, keys), in the dtype that query and key promote to. Rows sum
        to 1; with sinks to less than 1, and to 0 if fully masked.

    Raises:
        TypeError: for arrays of the wrong kind.
        ValueError: for shapes that do not match, and numbers out of range.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> query = jnp.array([[[2.0]], [[0.0]]])  # two queries, one head, width 1
        >>> key = jnp.array([[[1.0]], [[0.0]], [[-1.0]]])
        >>> jsoftmax.attention_weights(query, key, alpha=2.0)[0].round(2).tolist()
        [[1.0, 0.0, 0.0], [0.33, 0.33, 0.33]]
    """
    key = checks.as_array("attention_weights", "key", key)
    given, rule = read_arguments(
        "attention_weights", query, key, key[..., :1], bias, mask,
        regularizer=chosen("attention_weights", alpha, regularizer, 1.0, False), scale=scale,
        is_causal=is_causal, query_offset=query_offset, query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths, local_window_size=local_window_size,
        query_segment_ids=query_segment_ids, key_value_segment_ids=key_value_segment_ids,
        logits_soft_cap=logits_soft_cap, sinks=sinks, score_fn=score_fn, dropout_rng=None,
        dropout_rate=0.0, broadcast_dropout=False, axis_name=axis_name,
    )  # fmt: skip
    return _computed(given, rule)


# Compiled once for a shape also outside of `jit`; so is its derivative, which inlining would undo.
@partial(jax.jit, static_argnums=1)
def _computed(given: Given, rule: Rule) -> Array:
    arguments = prepared(given, rule)
    p = weights(rule, arguments.moving, arguments.fixed)
    *batch, heads, groups, queries, keys = p.shape
    return p.reshape(*batch, heads * groups, queries, keys).astype(arguments.dtype)
