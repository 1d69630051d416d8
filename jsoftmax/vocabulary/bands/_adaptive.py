"""Adaptive softmax: frequent classes in a shortlist, the others in clusters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._mesh_axes import alike
from jsoftmax.mappings import log_softmax
from jsoftmax.vocabulary._topk import TopK
from jsoftmax.vocabulary.bands._adaptive_table import AdaptiveTables, read_adaptive
from jsoftmax.vocabulary.bands._band_topk import by_blocks, merged, read_k, top_of
from jsoftmax.vocabulary.bands._bands import (
    Band,
    Banded,
    Labels,
    band_scores,
    projected,
    read_labels,
)
from jsoftmax.vocabulary.bands._grouped import Blocks, dense_losses, tail_losses
from jsoftmax.vocabulary.linear._linear_cross_entropy import linear_cross_entropy

_KEPT = 2**24  # scores of the head: up to so many are kept for the backward pass


@on_explicit_axes(like="features")
def adaptive_cross_entropy(
    features: ArrayLike,
    table: AdaptiveTables,
    labels: ArrayLike | Sequence[int],
    *,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
) -> Float[Array, "..."]:
    r"""Compute −log p of the labels under an adaptive softmax, for every token.

    .. math:: p(y) = p_\text{head}(y) \text{ in the shortlist}, \qquad
              p(y) = p_\text{head}(c)\, p_c(y) \text{ in the cluster } c

    The head is a softmax over the shortlist and the clusters, each cluster another over its own
    classes. A token needs only the head and the cluster of its target: the tokens are sorted by
    cluster, and every cluster processes its own tokens in blocks. So a token with a frequent target
    costs no more than the shortlist, for any K.

    Differentiable in features and table by the reverse mode, and by the forward mode over the
    reverse (`jax.hessian`), but not by the forward mode alone: the number of iterations of a loop
    depends on the number of tokens in a cluster, and JAX has no transpose of such a loop.
    `differentiated_cross_entropy` and `linear_cross_entropy` have both modes.

    The defaults for a cluster: a block has as many tokens as hold 2²⁰ scores, at least 64 and at
    most 128, and as many classes as hold 2²⁰ scores with those tokens, at least 512. Up to 2²⁴
    scores of the head are kept for the backward pass; beyond, `linear_cross_entropy` computes the
    head.

    Args:
        features: h of shape [..., d], any real dtype.
        table: `AdaptiveTables`.
        labels: classes, integers of shape [...], numbered over all bands.
        where: boolean mask that broadcasts to [..., 1]: only these tokens count; the others have
            loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        block_tokens: tokens of a cluster per block; None for the rule above.
        block_classes: classes of a cluster per block; None for the rule above.

    Returns:
        One loss per token, of shape [...], in float32 at least. NaN for a label out of range in a
        `jax.Array`: its values are not checked.

    Raises:
        TypeError: if `features` or the arrays of `table` are not real numbers, `table` is not an
            `AdaptiveTables`, or `where` or `labels` have a wrong dtype.
        ValueError: if shapes do not fit, or labels known while tracing are out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsoftmax.vocabulary import adaptive_tables
        >>> table = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> h = jax.random.normal(jax.random.key(1), (4, 64))
        >>> loss = adaptive_cross_entropy(h, table, jnp.array([5, 150, 999, 7]))
        >>> print(loss.shape)
        (4,)

    Edouard Grave, Armand Joulin, Moustapha Cissé, David Grangier and Hervé Jégou, "Efficient
    softmax approximation for GPUs", 2017. Equal to torch's `AdaptiveLogSoftmaxWithLoss`, except
    that torch returns the mean.
    """
    function = "adaptive_cross_entropy"
    banded, head = read_adaptive(function, features, table)
    blocks = Blocks(*(
        None if size is None else checks.whole_number(function, name, size)
        for name, size in (("block_tokens", block_tokens), ("block_classes", block_classes))
    ))  # fmt: skip
    starts = banded.starts
    banded, read = read_labels(banded, labels, starts[-1], where, ignore_index)
    if banded.features.shape[0] == 0:
        return banded.shaped(banded.features.sum(-1))
    return banded.shaped(_losses(blocks, *alike((banded, head, read))))


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its tangent is
# one program too, transposed and compiled once.
@partial(jax.jit, static_argnums=0)
def _losses(blocks: Blocks, banded: Banded, head: Band, labels: Labels) -> Array:
    starts = banded.starts
    first = jnp.asarray(starts[:-1], jnp.int32)
    cluster = jnp.searchsorted(first, labels.ids, side="right").astype(jnp.int32) - 1
    in_head = jnp.where(cluster == 0, labels.ids, starts[1] - 1 + cluster)
    h, x = banded.features, projected(banded.features, banded.bands[0])
    scores = h.shape[0] * head.table.shape[0]
    if not is_known(scores) or scores <= _KEPT:
        loss: Any = dense_losses(x, head, in_head)
    else:
        loss = linear_cross_entropy(x, head.table, in_head, bias=head.bias, class_axis=0)
    if len(banded.bands) > 1:
        loss = loss + tail_losses(blocks, h, banded.bands[1:], cluster, labels.ids - first[cluster])
    return labels.settle(loss)


@on_explicit_axes(like="features")
def adaptive_log_softmax(features: ArrayLike, table: AdaptiveTables) -> Float[Array, "... classes"]:
    r"""Compute the log-probabilities of all classes under an adaptive softmax.

    .. math:: \log p(y) = \log p_\text{head}(c) + \log p_c(y)

    For evaluation and prediction: it computes every cluster for every token, where
    `adaptive_cross_entropy` computes one and `adaptive_topk` those that can matter. Differentiable
    in both modes.

    Args:
        features: h of shape [..., d], any real dtype.
        table: `AdaptiveTables`.

    Returns:
        Log-probabilities of shape [..., K], in float32 at least; they sum to 1 as probabilities.

    Raises:
        TypeError: as `adaptive_cross_entropy`.
        ValueError: as `adaptive_cross_entropy`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsoftmax.vocabulary import adaptive_tables
        >>> table = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> log_p = adaptive_log_softmax(jnp.ones(64), table)
        >>> print(log_p.shape, jnp.exp(log_p).sum())
        (1000,) 1.0
    """
    banded, head = read_adaptive("adaptive_log_softmax", features, table)
    h, (shortlist, *tails) = banded.features, banded.bands
    log_p = log_softmax(band_scores(projected(h, shortlist), head))
    size = shortlist.table.shape[0]
    parts = [log_p[:, :size]]
    for i, band in enumerate(tails):
        within = log_softmax(band_scores(projected(h, band), band))
        parts.append(log_p[:, size + i, None] + within)
    return banded.shaped(jnp.concatenate(parts, axis=1))


@on_explicit_axes(like="features")
def adaptive_topk(features: ArrayLike, table: AdaptiveTables, k: int) -> TopK:
    r"""Find the k most probable classes under an adaptive softmax, exactly.

    .. math:: p(y) = p_\text{head}(c)\, p_c(y) ≤ p_\text{head}(c)

    So a cluster has none of the k classes if it is no more probable than the k-th class found so
    far. It is skipped for a block of tokens if that holds for all of them. Otherwise equal to
    `jax.lax.top_k` of `adaptive_log_softmax`, with the rows of one block of tokens in memory at a
    time. Differentiable in both modes.

    Args:
        features: h of shape [..., d], any real dtype.
        table: `AdaptiveTables`.
        k: number of classes, from 1 to K.

    Returns:
        `values` and `classes`, of shape [..., k]: log-probabilities in float32 at least, the
        highest first, and int32. Ties are in the order of their classes.

    Raises:
        TypeError: as `adaptive_cross_entropy`, and if `k` is not an integer.
        ValueError: as `adaptive_cross_entropy`, and if `k` is not from 1 to K.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsoftmax.vocabulary import adaptive_tables
        >>> table = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> print(adaptive_topk(jnp.ones((2, 64)), table, 3).classes.shape)
        (2, 3)
    """
    function = "adaptive_topk"
    banded, head = read_adaptive(function, features, table)
    return _likeliest(banded, head, read_k(function, k, banded.starts[-1]))


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its tangent is
# one program too, transposed and compiled once.
@partial(jax.jit, static_argnums=2)
def _likeliest(banded: Banded, head: Band, k: int) -> TopK:
    shortlist, *tails = banded.bands
    size = shortlist.table.shape[0]

    def of_block(h):
        log_p = log_softmax(band_scores(projected(h, shortlist), head))
        found = top_of(log_p[:, :size], 0, k)
        for i, (band, start) in enumerate(zip(tails, banded.starts[1:], strict=False)):
            gate = log_p[:, size + i]

            def look(found, band=band, start=start, gate=gate):
                within = log_softmax(band_scores(projected(h, band), band))
                return merged(found, top_of(gate[:, None] + within, start, k), k)

            needed = jnp.any(~(gate <= found.values[:, -1]))
            found = jax.lax.cond(needed, look, lambda found: found, found)
        return found

    return by_blocks(of_block, banded)
