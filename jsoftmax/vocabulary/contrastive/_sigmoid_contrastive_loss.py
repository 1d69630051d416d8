"""The pairwise contrastive loss (SigLIP): a sigmoid classifies each pair by itself."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.core._filled import filled
from jsoftmax.core._mesh_axes import alike
from jsoftmax.vocabulary.contrastive._batch_parts import gathered_batch, on_batch_parts
from jsoftmax.vocabulary.contrastive._pairs import (
    of_keys,
    read_pairs,
    read_temperature,
    with_labels_of_keys,
)
from jsoftmax.vocabulary.linear._block_sizes import even_size
from jsoftmax.vocabulary.linear._labelled_classes import left_out, same_label
from jsoftmax.vocabulary.linear._token_products import product

_SCORES = 2**22  # of a block
_LANES = 128


@on_batch_parts
def sigmoid_contrastive_loss(
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    bias: ArrayLike = 0.0,
    normalize: bool = False,
    where: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    same_label: str = "positive",
    exclude_self: bool = False,
    axis_name: Hashable | None = None,
    block_keys: int | None = None,
) -> Float[Array, " batch"]:
    r"""Compute the log loss of "is this a pair?" for each query with every key of the batch.

    .. math:: L_i = -\sum_j \log σ\big(y_{ij} (⟨q_i, k_j⟩/T + b)\big), \qquad
              y_{ii} = 1, \quad y_{ij} = -1

    No row is normalised, so no sum over the batch is needed, while in `contrastive_loss` the keys
    of a query compete. Only n of the n² pairs of a batch match: start b at about −10 to offset this
    imbalance.

    Scores are computed in blocks of keys, and recomputed in the backward pass. On a mesh the batch
    is split and gathered as in `contrastive_loss`.

    Args:
        queries: q of shape [batch, d], any real dtype; inside of `shard_map` the rows of the
            device.
        keys: k of shape [batch, d]; row i belongs to query i. More keys may follow, which match no
            query.
        temperature: T > 0, one number, which may be learned: `jnp.exp(-log_scale)`.
        bias: b, one number, which may be learned.
        normalize: whether to divide queries and keys by their lengths.
        where: boolean mask of shape [batch]: only these pairs take part. Others have loss 0, and
            are left out of the sums.
        labels: integers of shape [batch], or [keys] where more keys follow: equal labels mark
            equivalent pairs. A negative label equals no other.
        same_label: "positive" gives y = 1 to each key with the label of a query; "ignore" leaves
            the other keys of its label out of the sum.
        exclude_self: whether key i *is* query i, and is left out of its sum: with the same array
            for queries and keys, and `labels` that say which rows are views of one example.
        axis_name: name of the mesh or `vmap` axis that splits the batch, or a tuple of such names.
        block_keys: keys per block; None for as many as have 2²² scores, at least 128.

    Returns:
        One loss per query, of shape [batch], in float32 at least. Their mean over all devices is
        SigLIP's loss.

    Raises:
        TypeError: if `queries` or `keys` are not real numbers, or `where` is not boolean, or
            `labels` are not integers.
        ValueError: if shapes do not fit, a number known while tracing is out of range, or queries
            that exclude themselves have no labels.

    Example:
        >>> import jax.numpy as jnp
        >>> q = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> print(sigmoid_contrastive_loss(q, 2 * q, temperature=0.5, bias=-2.0))
        [0.2539 0.2539]

    Reference:
        X. Zhai, B. Mustafa, A. Kolesnikov and L. Beyer, "Sigmoid loss for language image
        pre-training", ICCV 2023.
    """
    function = "sigmoid_contrastive_loss"
    pairs = read_pairs(function, queries, keys, where, normalize, axis_name)
    pairs = with_labels_of_keys(function, pairs, labels, same_label, exclude_self)
    t, b = read_temperature(function, temperature), _number(function, "bias", bias)
    if block_keys is not None:
        checks.whole_number(function, "block_keys", block_keys)
    q, k = pairs.queries, pairs.keys
    dtype = jnp.result_type(checks.compute_dtype(q), checks.compute_dtype(k))
    part = None
    if pairs.counted is not None:
        part = gathered_batch(of_keys(pairs.counted, k), axis_name)
    # Keys in fewer bits enter products as they are if the queries have the same dtype.
    k = gathered_batch(k if k.dtype == q.dtype else k.astype(dtype), axis_name)
    k = k if jnp.issubdtype(k.dtype, jnp.floating) else k.astype(dtype)
    t, b = (jnp.asarray(x, dtype) for x in (t, b))
    of_queries = of_keys_ = None
    if pairs.labels is not None:
        of_queries = pairs.labels[: q.shape[0], None]
        of_keys_ = gathered_batch(pairs.labels, axis_name)
    rule = _block(q.shape[0], k.shape[0], block_keys), pairs.ignores, pairs.without_own
    loss = _summed(rule, q.astype(dtype), k, pairs.own, part, of_queries, of_keys_, t, b)
    return loss if pairs.counted is None else jnp.where(pairs.counted, loss, 0)


# Compiled once per shape, even when called outside of `jit`.
@partial(jax.jit, static_argnums=0)
def _summed(
    rule: tuple[Any, bool, bool], q: Array, keys: Array, own: Array, part: Array | None,
    query_labels: Array | None, key_labels: Array | None, t: Array, b: Array,
) -> Array:  # fmt: skip
    """Sum over all keys, block by block."""
    block, ignores, without_own = rule
    q, keys, own, part, query_labels, key_labels, t, b = alike(
        (q, keys, own, part, query_labels, key_labels, t, b)
    )
    numbers = jnp.arange(keys.shape[0], dtype=jnp.int32)

    def of_block(keys, numbers, part, key_labels):
        z = product(q, keys, 0, False) / t + b
        part = None if part is None else part[None]
        is_own = is_positive = numbers[None] == own[:, None]
        if key_labels is not None and query_labels is not None:
            is_alike = same_label(query_labels, key_labels[None])
            if (out := left_out(is_own, is_alike, ignores, without_own)) is not None:
                part = ~out if part is None else part & ~out
            is_positive = is_own if ignores else is_alike | is_own
        # softplus, since a logarithm of 1 − σ would cancel.
        terms = jax.nn.softplus(jnp.where(is_positive, -z, z))
        return jnp.sum(terms if part is None else jnp.where(part, terms, 0), -1)

    if block is None:
        return of_block(keys, numbers, part, key_labels)
    again = jax.checkpoint(of_block, prevent_cse=False)
    count = keys.shape[0] // block
    whole = (keys, numbers, part, key_labels)
    blocks = jax.tree.map(lambda x: x[: count * block].reshape(count, block, *x.shape[1:]), whole)
    total, _ = jax.lax.scan(lambda s, x: (s + again(*x), None), filled(q[:, 0], 0), blocks)
    if keys.shape[0] % block:
        total = total + again(*jax.tree.map(lambda x: x[count * block :], whole))
    return total


def _block(queries: Any, keys: Any, given: int | None) -> Any:
    """Return the number of keys per block; None for all."""
    if not (is_known(queries) and is_known(keys)):
        return None
    size = max(_SCORES // max(queries, 1), _LANES) if given is None else given
    if keys <= size:
        return None
    return even_size(keys, size) if given is None else given


def _number(function: str, name: str, x: Any) -> Array:
    x = checks.as_array(function, name, x)
    if x.ndim:
        raise ValueError(f"jsoftmax.{function}: `{name}` has shape {x.shape}; give it one number.")
    return x
