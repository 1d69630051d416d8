"""Dot-product attention with any mapping of the family."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jsoftmax.attention._attend import computed, sizes_for
from jsoftmax.attention._attention_arguments import read_arguments
from jsoftmax.attention._kernel_attention import by_pallas, by_record
from jsoftmax.attention._kernels import by_kernel
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
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
    dropout_rng: Array | None = None,
    dropout_rate: float = 0.0,
    broadcast_dropout: bool = False,
    return_residual: bool = False,
    implementation: str | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
    axis_name: Hashable | None = None,
) -> (
    Float[Array, "*batch queries heads value_width"]
    | tuple[Float[Array, "*batch queries heads value_width"], Float[Array, "*batch queries heads"]]
):
    """Dot-product attention with weights from softmax, any α-entmax, or any regularizer.

    For each head, with z = scale · q kᵀ + bias,

        out = Σ_s p_s v_s,   p = argmax_{p in the simplex} ⟨p, z⟩ − Ω(p).

    It takes the arguments of `jax.nn.dot_product_attention`, under the same names, and can replace
    it. It differs in four points. Any Ω may be given; the default is `Tsallis(alpha)`. A fully
    masked query gives zeros and no gradient, where `jax.nn` gives the mean of all values. NaN in a
    key does not reach the queries that do not see it. The matrix of weights is never formed: memory
    grows with length, not with its square, in every derivative (`jvp`, `grad`, second derivatives
    of either kind), since weights are recomputed block by block from the threshold of their row.
    Blocks that `is_causal` or `local_window_size` hide wholly are not computed. Computations are in
    float32 at least.

    Args:
        query: shape (*batch, queries, heads, width); any number of batch axes.
        key: shape (*batch, keys, key heads, width), where the key heads divide the heads: one for
            each (multi-head attention), fewer (grouped) or one (multi-query).
        value: shape (*batch, keys, key heads, value width).
        bias: added to the scores; broadcastable to (*batch, heads, queries, keys).
        mask: boolean, True where a key takes part; broadcastable to (*batch, heads, queries, keys).
        alpha: α > 0, 1 for softmax, 2 for sparsemax, ∞ for equal shares of the largest scores; a
            number, or traced, then also of shape (heads,). Differentiable. 1 where it is None.
        regularizer: a `Regularizer` instead of `Tsallis(alpha)`; its arrays are numbers or of shape
            (heads,). Differentiable.
        scale: the factor of q kᵀ, 1/√width where it is None; a number, of shape (heads,), or one
            for each query, broadcastable to (*batch, queries, heads): an inverse temperature, which
            may grow with `visible_keys`. Differentiable.
        is_causal: whether a query sees no key after its own position.
        query_offset: the position of the first query among the keys, which `is_causal` and
            `local_window_size` count from: the length of the cache before a decoding step or a
            chunk of a prompt. An integer; if traced, also one for each batch entry, of shape
            (*batch,). With "segments" each segment of the queries begins where the same segment of
            the keys does, so that order restarts with every pair of packed documents. 0 where it is
            None, as in `jax.nn`: a single causal query then warns, for it sees one key.
        query_seq_lengths: integers ≥ 0 of shape (*batch,): queries beyond give zeros.
        key_value_seq_lengths: integers ≥ 0 of shape (*batch,): keys beyond are not seen.
        local_window_size: how many keys before and after its own position a query sees, an integer
            or a pair, with None for all. An integer may be traced, then also one for each batch
            entry, of shape (*batch,); keys outside a traced window are computed all the same.
        query_segment_ids: integers of shape (*batch, queries): a query sees the keys of its
            segment.
        key_value_segment_ids: the same for keys, of shape (*batch, keys); those of the queries
            where it is None.
        logits_soft_cap: c > 0 replaces z by c tanh(z/c), before masks; a bias of −∞ stays −∞. A
            number or of shape (heads,). Differentiable.
        sinks: the score of one more class, which has no value, a number or of shape (heads,): its
            share of the mass is lost to the mixture. At 0 this is the off-by-one softmax.
            Differentiable.
        score_fn: a function of (score, batch, head, query, key) that returns the modified score,
            after scale and bias and before a soft cap: `ALiBi`, `T5Buckets`, `ForgettingGate`, or
            one of yours. It is called with a score and four integers, and mapped over all; `query`
            and `key` are positions, from `query_offset` on; with several batch axes `batch` counts
            their entries in order. It is computed with each block, and so are its derivatives, also
            in arrays: the leaves of a pytree that is called, such as
            `jax.tree_util.Partial(function, array)`, or those that a plain function closes over
            (which may not be indexed by a head or entry that is split over an Explicit mesh). A
            plain function that is created for each eager call is compiled each time.
        dropout_rng: a random key for dropout, from `jax.random.key`.
        dropout_rate: the share of weights that are dropped, in [0, 1); the others are multiplied by
            1/(1 − rate). The choice depends on the key and on positions, not on blocks.
        broadcast_dropout: whether all batch entries and heads drop the same weights.
        return_residual: also return τ.
        implementation: "xla", which supports every argument; "pallas", kernels for TPU and GPU that
            compute on the chip (interpreted on a CPU, which is slow); or a kernel for softmax,
            "cudnn" (by way of `jax.nn`) or "tokamax" (where it is installed). None is "pallas" on
            hardware where `python -m jsoftmax.kernels` found it right and faster, else "xla". A
            named implementation never falls back to another.
        block_q: how many queries are computed together; None for a number that suits the hardware.
        block_k: with how many of their keys; None as before: softmax takes 1024 at once, other α
            all of them up to 2¹⁷, since otherwise q kᵀ is recomputed at every iteration for τ.
        axis_name: the mesh (or `vmap`) axis that splits *keys* and values, in `shard_map`. Each
            device holds one of equal parts, in order. Lengths count all keys; `bias`, `mask` and
            segments are those of this device's keys.

    Returns:
        The mixtures, of shape (*batch, queries, heads, value width), in the dtype that query, key
        and value promote to. With `return_residual` a pair of them and the thresholds τ, of shape
        (*batch, queries, heads), where z − τ = ω′(p). Where α = 1 these are the logsumexp of the
        scores. Unlike those of `jax.nn` they are differentiable.

    Raises:
        TypeError: for arrays that are not real numbers, masks that are not boolean, a boolean bias,
            lengths and segments that are not integers, and an invalid `dropout_rng`.
        ValueError: for shapes that do not match, numbers out of range, and unknown names.
        NotImplementedError: for an argument that the named kernel does not support.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 100, 4, 8))
        >>> jsoftmax.dot_product_attention(query, key, value, alpha=1.5, is_causal=True).shape
        (2, 100, 4, 8)
        >>> alpha = jnp.array([1.0, 1.2, 1.5, 2.0])  # one for each head, to be learned
        >>> loss = lambda a: jsoftmax.dot_product_attention(query, key, value, alpha=a).sum()
        >>> jax.grad(loss)(alpha).shape
        (4,)
        >>> nobody = jnp.zeros((100, 100), bool)
        >>> float(jnp.abs(jsoftmax.dot_product_attention(query, key, value, mask=nobody)).max())
        0.0

    References:
        Vaswani et al., "Attention is all you need", 2017. Milakov & Gimelshein, "Online normalizer
        calculation for softmax", 2018. Dao et al., "FlashAttention", 2022. Peters, Niculae &
        Martins, "Sparse sequence-to-sequence models", 2019 (α-entmax attention). Correia, Niculae &
        Martins, "Adaptively sparse transformers", 2019 (α learned for each head).
    """
    given, rule = read_arguments(
        "dot_product_attention", query, key, value, bias, mask,
        regularizer=chosen("dot_product_attention", alpha, regularizer, 1.0, False), scale=scale,
        is_causal=is_causal, query_offset=query_offset, query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths, local_window_size=local_window_size,
        query_segment_ids=query_segment_ids, key_value_segment_ids=key_value_segment_ids,
        logits_soft_cap=logits_soft_cap, sinks=sinks, score_fn=score_fn,
        dropout_rng=dropout_rng, dropout_rate=dropout_rate, broadcast_dropout=broadcast_dropout,
        axis_name=axis_name, in_one_block=block_q is None and block_k is None,
    )  # fmt: skip
    if implementation == "pallas":
        for name, size in (("block_q", block_q), ("block_k", block_k)):
            if size is not None:
                raise NotImplementedError(
                    f"jsoftmax.dot_product_attention: implementation='pallas' does not take "
                    f"`{name}`: its blocks fit the chip. Leave it out."
                )
        sizes = sizes_for("dot_product_attention", given, rule, None, None)
        return by_pallas(given, rule, sizes, return_residual)
    if implementation not in (None, "xla"):
        arrays = dict(query=query, key=key, value=value, bias=bias, mask=mask)
        taken = dict(
            scale=scale, is_causal=is_causal, query_seq_lengths=query_seq_lengths,
            key_value_seq_lengths=key_value_seq_lengths, local_window_size=local_window_size,
            logits_soft_cap=logits_soft_cap,
        )  # fmt: skip
        refused = dict(
            alpha=not rule.is_softmax and regularizer is None,
            regularizer=not rule.is_softmax and regularizer is not None,
            query_offset=query_offset is not None, sinks=sinks is not None,
            score_fn=score_fn is not None,
            query_segment_ids=query_segment_ids is not None, dropout_rate=dropout_rate > 0,
            return_residual=return_residual, block_q=block_q is not None,
            block_k=block_k is not None, axis_name=axis_name is not None,
        )  # fmt: skip
        return by_kernel(implementation, given, rule, arrays, taken, refused)
    sizes = sizes_for("dot_product_attention", given, rule, block_q, block_k)
    if implementation is None and block_q is None and block_k is None:
        return by_record(given, rule, sizes, return_residual)
    return computed(given, rule, sizes, return_residual)
