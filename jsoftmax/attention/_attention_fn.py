"""Attention functions that replace Flax's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jsoftmax.attention._attention_weights import attention_weights
from jsoftmax.attention._dot_product_attention import dot_product_attention
from jsoftmax.attention._visible_keys import visible_keys
from jsoftmax.core._regularizer import Regularizer

_SIGHT = (
    "is_causal", "query_offset", "query_seq_lengths", "key_value_seq_lengths", "local_window_size",
    "query_segment_ids", "key_value_segment_ids", "axis_name",
)  # fmt: skip


def attention_fn(
    alpha: float | ArrayLike | None = None,
    *,
    regularizer: Regularizer | None = None,
    scale: float | ArrayLike | Callable[[Array], Any] | None = None,
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
    implementation: str | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
    axis_name: Hashable | None = None,
) -> Callable[..., Array]:
    """Return an `attention_fn` for Flax's modules, with the options that Flax lacks.

    Pass the function returned to `flax.nnx.MultiHeadAttention` or to
    `flax.linen.MultiHeadDotProductAttention` as `attention_fn`. It supports the arguments of Flax's
    own: decoding with a cache, dropout, `dtype`, `precision`, masks of zeros and ones, and
    `sow_weights`. Unsupported options raise an error. With α = 1 it agrees with Flax's except in
    three points. A query that sees no key gets zeros, where Flax gives the mean of all values.
    Dropout draws other numbers from the same key. The weights are always computed in float32 at
    least, as with `force_fp32_for_softmax`.

    Fewer queries than keys are one decoding step or several: the last query is aligned with the
    last key that the mask shows, or with the last of all. `is_causal` counts from there, and for
    one query `local_window_size` too, so that both are right beside Flax's cache. A `query_offset`
    overrides this: 0 for the positions of `jax.nn`.

    A learned α belongs to a module: see `jsoftmax.nnx.AdaptivelySparseAttention` and its twin in
    `jsoftmax.linen`. A bias is a keyword of the function returned:
    `functools.partial(attention_fn(1.5), bias=bias)`.

    Args:
        alpha: α > 0: 1 is softmax, as is None, 2 is sparsemax; a number, or of shape [heads].
        regularizer: a `Regularizer` instead of `Tsallis(alpha)`.
        scale: of the scores q·k, a number, of shape [heads], or for each query; 1/√width where it
            is None. Or a function that maps `visible_keys`, integers [..., T, 1 or heads], to a
            factor of 1/√width: `lambda n: s * jnp.log(n)` is scalable softmax.
        is_causal: whether every call is causal. (Flax's modules set it call by call. Those of Linen
            do so only by a mask, which costs memory, and time for the hidden keys.)
        query_offset: the position of the first query among the keys, if it is known; as in
            `dot_product_attention`.
        query_seq_lengths: how many queries of each batch entry are in use; this and the arguments
            below are as in `dot_product_attention`.
        key_value_seq_lengths: how many keys of each batch entry are in use.
        local_window_size: how many keys a query sees on either side.
        query_segment_ids: the segment of each query, which sees only keys of its own segment.
        key_value_segment_ids: the segment of each key.
        logits_soft_cap: c of c·tanh(z/c), applied to scores z.
        sinks: scores of one more class for each head, which has no value.
        score_fn: a function of a score and its positions, such as `ALiBi`.
        implementation: "xla", "pallas", "cudnn" or "tokamax".
        block_q: how many queries are computed at once.
        block_k: how many keys are computed at once.
        axis_name: the mesh axis that splits keys and values.

    Returns:
        A function of query [..., T, heads, width], key and value [..., S, heads, width], and of the
        keywords of `flax.nnx.dot_product_attention` and `flax.linen.dot_product_attention`, to
        mixtures [..., T, heads, width] in `dtype`, by default that of the three arrays promoted. It
        raises NotImplementedError for keywords that replace the products (those of Linen with
        "einsum" in their names) and for a `precision` beside a kernel, and ValueError for a
        precision that differs from product to product.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> layer = nnx.MultiHeadAttention(
        ...     2, 8, attention_fn=attention_fn(alpha=1.5), decode=False, rngs=nnx.Rngs(0)
        ... )
        >>> x = jax.random.normal(jax.random.key(0), (4, 6, 8))
        >>> print(layer(x, mask=nnx.make_causal_mask(x[..., 0])).shape)
        (4, 6, 8)
    """
    options: dict[str, Any] = {
        "alpha": alpha,
        "regularizer": regularizer,
        "scale": scale,
        "query_seq_lengths": query_seq_lengths,
        "key_value_seq_lengths": key_value_seq_lengths,
        "local_window_size": local_window_size,
        "query_segment_ids": query_segment_ids,
        "key_value_segment_ids": key_value_segment_ids,
        "logits_soft_cap": logits_soft_cap,
        "sinks": sinks,
        "score_fn": score_fn,
        "axis_name": axis_name,
    }
    computation: dict[str, Any] = {
        "implementation": implementation,
        "block_q": block_q,
        "block_k": block_k,
    }
    always_causal = is_causal

    # Every keyword is spelled out: Linen drops those that the signature does not name.
    def attend(
        query: Any,
        key: Any,
        value: Any,
        bias: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        broadcast_dropout: bool = True,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
        *,
        is_causal: bool = False,
        promote_dtype: Callable[..., Any] | None = None,
        force_fp32_for_softmax: bool = False,
        einsum_dot_general: Callable[..., Any] | None = None,
        qk_attn_weights_einsum: Callable[..., Any] | None = None,
        attn_weights_value_einsum: Callable[..., Any] | None = None,
    ) -> Any:
        del force_fp32_for_softmax  # it always is
        _refuse(
            einsum_dot_general=einsum_dot_general,
            qk_attn_weights_einsum=qk_attn_weights_einsum,
            attn_weights_value_einsum=attn_weights_value_einsum,
        )
        if promote_dtype is None:
            query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
        else:
            query, key, value = promote_dtype((query, key, value), dtype=dtype)
        if mask is not None:
            mask = jnp.asarray(mask).astype(bool)  # Flax's helpers make masks of float32
        causal = is_causal or always_causal
        offset = query_offset
        if offset is None and (causal or (query.shape[-3] == 1 and local_window_size is not None)):
            offset = _at_the_end(query, key, mask)
        arrays = {"bias": bias, "mask": mask, "is_causal": causal, **options}
        arrays["query_offset"] = offset
        if callable(scale):
            sight = {name: arrays[name] for name in _SIGHT}
            factor = jnp.asarray(scale(visible_keys(query, key, mask, **sight)))
            arrays["scale"] = factor / np.sqrt(query.shape[-1])
        drops = dropout_rate > 0 and not deterministic
        if precision is not None and implementation not in (None, "xla"):
            raise NotImplementedError(
                f"jsoftmax.attention_fn: the kernel {implementation!r} has a precision of its own "
                f"and does not take `precision` {precision!r}; leave one of them out."
            )
        with _matmul_precision(precision):
            if module is not None:
                # Flax's name of the collection: NNX finds its type by it.
                weights = attention_weights(query, key, **arrays)
                module.sow("intermediates", "attention_weights", weights)
            return dot_product_attention(
                query,
                key,
                value,
                dropout_rng=dropout_rng if drops else None,
                dropout_rate=dropout_rate if drops else 0.0,
                broadcast_dropout=broadcast_dropout,
                **arrays,
                **computation,
            )

    return attend


def _at_the_end(query: Array, key: Array, mask: Array | None) -> Array | int | None:
    """Return the position of the first query, where the last one is aligned with the last key."""
    queries, keys = query.shape[-3], key.shape[-3]
    if not (isinstance(queries, int) and isinstance(keys, int) and queries < keys):
        return None
    if mask is None:
        return keys - queries
    shape = *query.shape[:-3], 1, 1, keys
    if mask.ndim > len(shape) or mask.shape[-1:] not in ((keys,), (1,)):
        return None  # a mistake: attention raises the error
    last = jnp.max(jnp.where(mask, jnp.arange(keys, dtype=jnp.int32), -1), axis=-1, initial=-1)
    last = jnp.max(last.reshape((1,) * (len(shape) - mask.ndim) + last.shape), axis=(-1, -2))
    return jnp.broadcast_to(last, query.shape[:-3]) + (1 - queries)


def _refuse(**replacements: Callable[..., Any] | None) -> None:
    for name, replacement in replacements.items():
        if replacement is not None:
            raise NotImplementedError(
                f"jsoftmax.attention_fn: `{name}` would replace the products of attention, which "
                "here are computed block by block. Leave it out, and choose how they are computed "
                "by `precision`; or use Flax's own attention."
            )


def _matmul_precision(precision: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context that sets the precision of products, given as for `jax.lax.dot_general`."""
    if precision is None:
        return contextlib.nullcontext()
    both = set(precision) if isinstance(precision, tuple | list) else {precision}
    with contextlib.suppress(ValueError):
        if len(both) == 1:
            return jax.default_matmul_precision(_name(both.pop()))
    raise ValueError(
        f"jsoftmax.attention_fn: `precision` {precision!r} is not a precision for all products; "
        'give it a jax.lax.Precision, or its name such as "highest", or a DotAlgorithmPreset.'
    )


def _name(precision: Any) -> str:
    """Return the name of a precision for `jax.default_matmul_precision`."""
    if isinstance(precision, lax.DotAlgorithmPreset):
        return precision.name
    if isinstance(precision, str) and precision in lax.DotAlgorithmPreset.__members__:
        return precision
    return lax.Precision(precision).name.lower()
