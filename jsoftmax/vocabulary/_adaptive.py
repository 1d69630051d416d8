"""Adaptive softmax: the frequent classes at once, the others by way of the cluster they are in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._keys import one_key
from jsoftmax.mappings import log_softmax
from jsoftmax.vocabulary._band_topk import BandTopK, by_blocks, merged, read_k, top_of
from jsoftmax.vocabulary._bands import (
    Band,
    Banded,
    band_scores,
    projected,
    read_banded,
    read_bands,
    read_labels,
    starts_of,
)
from jsoftmax.vocabulary._grouped import Blocks, dense_losses, tail_losses
from jsoftmax.vocabulary._linear_cross_entropy import linear_cross_entropy
from jsoftmax.vocabulary._widths import new_bands, whole, widths_of

_KEPT = 2**24  # scores of the head, at most, that are kept for the backward pass


class AdaptiveTables(NamedTuple):
    """What an adaptive softmax learns; made by `adaptive_tables`, or from any arrays.

    Args:
        bands: a sequence of `Band`: first the shortlist, the classes that stand in the head, then
            one band for each cluster of rarer classes.
        clusters: of shape [m, d_0]: for each of the m clusters the vector that stands for it in the
            head, of the width of the shortlist's table.
        cluster_bias: of shape [m], or None.

    Example:
        >>> import jax.numpy as jnp
        >>> bands = [Band(jnp.zeros((5, 8))), Band(jnp.zeros((9, 2)), projection=jnp.zeros((8, 2)))]
        >>> tables = AdaptiveTables(bands, clusters=jnp.zeros((1, 8)))
    """

    bands: Any
    clusters: Any
    cluster_bias: Any = None


def adaptive_tables(
    key: Array,
    width: int,
    classes: int,
    cutoffs: Sequence[int],
    *,
    div_value: float = 4.0,
    use_bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> AdaptiveTables:
    r"""Tables for an adaptive softmax, drawn from normal distributions.

    The shortlist has the classes below the first cut-off and vectors of the width d of the
    features; cluster i ≥ 1 has the classes from one cut-off to the next and vectors of the width
    ⌊d / div_value^i⌋, at least 1. Variances are 1 / the width of what a table multiplies.

    Args:
        key: a key, such as jax.random.key(0).
        width: d.
        classes: K.
        cutoffs: rising whole numbers above 0 and below K, such as `adaptive_cutoffs` finds; there
            are as many clusters.
        div_value: at least 1.
        use_bias: whether every class and every cluster has a bias, of 0 at first.
        dtype: of all arrays.

    Returns:
        `AdaptiveTables`.

    Raises:
        TypeError: if `key` is not a key, or sizes are not whole numbers.
        ValueError: if `cutoffs` do not rise from above 0 to below K, or `div_value` is below 1.

    Example:
        >>> import jax
        >>> tables = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> for band in tables.bands:
        ...     print(band.table.shape, band.projection is None)
        (100, 64) True
        (200, 16) False
        (700, 4) False
    """
    function = "adaptive_tables"
    key, other = jax.random.split(one_key(function, key))
    widths = widths_of(function, width, classes, cutoffs, div_value)
    bands = new_bands(key, width, classes, cutoffs, widths, use_bias=use_bias, dtype=dtype)
    clusters = jax.random.normal(other, (len(cutoffs), width), dtype) * width**-0.5
    bias = jnp.zeros(len(cutoffs), dtype) if use_bias else None
    return AdaptiveTables(bands, clusters, bias)


def adaptive_cross_entropy(
    features: ArrayLike,
    tables: AdaptiveTables,
    targets: ArrayLike | Sequence[int],
    *,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
) -> Float[Array, "..."]:
    r"""−log p of the targets under an adaptive softmax, for every token.

    .. math:: p(y) = p_\text{head}(y) \text{ in the shortlist}, \qquad
              p(y) = p_\text{head}(c)\, p_c(y) \text{ in the cluster } c

    The head is a softmax over the shortlist and the clusters, each cluster another over its own
    classes. For a token only the head and the cluster of its target are computed: the tokens are
    sorted by cluster, and every cluster goes through its own in blocks. So a token whose target is
    frequent costs what the shortlist costs, whatever K is.

    Differentiable in features and tables by the reverse mode, and by the forward mode over the
    reverse (`jax.hessian`), but not by the forward mode alone: the loops take as many turns as
    there are tokens in a cluster, which has no transpose. `differentiated_cross_entropy` and
    `linear_cross_entropy` have both modes.

    In a cluster `block_tokens` tokens are taken together, as many as hold 2²¹ scores, but at least
    64 and at most 256, and `block_classes` classes, as many as hold 2²¹ scores with those, and at
    least 512. The scores of the head are kept for the backward pass up to 2²⁴ of them; beyond that
    `linear_cross_entropy` computes the head.

    Args:
        features: h of shape [..., d], any real dtype.
        tables: `AdaptiveTables`.
        targets: classes, integers of shape [...], numbered over all bands.
        where: boolean mask that broadcasts to [..., 1]: only these tokens count; the others have
            loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        block_tokens: how many tokens of a cluster are taken together; None for the rule above.
        block_classes: how many of its classes; None for the rule above.

    Returns:
        One loss a token, of shape [...], in float32 at least. NaN for a label out of range in a
        `jax.Array`, whose values are not checked.

    Raises:
        TypeError: if `features` or `tables` are not real numbers, `tables` no `AdaptiveTables`, or
            `where` or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, or labels known while tracing are out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> tables = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> h = jax.random.normal(jax.random.key(1), (4, 64))
        >>> loss = adaptive_cross_entropy(h, tables, jnp.array([5, 150, 999, 7]))
        >>> print(loss.shape)
        (4,)

    Edouard Grave, Armand Joulin, Moustapha Cissé, David Grangier and Hervé Jégou, "Efficient
    softmax approximation for GPUs", 2017. Equal to torch's `AdaptiveLogSoftmaxWithLoss`, whose
    loss is the mean.
    """
    function = "adaptive_cross_entropy"
    banded, head = _read(function, features, tables)
    blocks = Blocks(*(
        None if size is None else whole(function, name, size)
        for name, size in (("block_tokens", block_tokens), ("block_classes", block_classes))
    ))  # fmt: skip
    starts = banded.starts
    banded, labels = read_labels(banded, targets, starts[-1], where, ignore_index)
    if banded.features.shape[0] == 0:
        return banded.shaped(banded.features.sum(-1))
    first = jnp.asarray(starts[:-1], jnp.int32)
    cluster = jnp.searchsorted(first, labels.ids, side="right").astype(jnp.int32) - 1
    in_head = jnp.where(cluster == 0, labels.ids, starts[1] - 1 + cluster)
    h, x = banded.features, projected(banded.features, banded.bands[0])
    if h.shape[0] * head.table.shape[0] <= _KEPT:
        loss = dense_losses(x, head, in_head)
    else:
        loss = linear_cross_entropy(x, head.table, in_head, bias=head.bias, class_axis=0)
    if len(banded.bands) > 1:
        loss = loss + tail_losses(blocks, h, banded.bands[1:], cluster, labels.ids - first[cluster])
    return banded.shaped(labels.settle(loss))


def adaptive_log_softmax(
    features: ArrayLike, tables: AdaptiveTables
) -> Float[Array, "... classes"]:
    r"""The log-probabilities of all classes under an adaptive softmax.

    .. math:: \log p(y) = \log p_\text{head}(c) + \log p_c(y)

    For evaluation and prediction: it computes every cluster for every token, where
    `adaptive_cross_entropy` computes one and `adaptive_topk` those that can matter. Differentiable
    in both modes.

    Args:
        features: h of shape [..., d], any real dtype.
        tables: `AdaptiveTables`.

    Returns:
        Log-probabilities of shape [..., K], in float32 at least; they sum to 1 as probabilities.

    Raises:
        TypeError: as `adaptive_cross_entropy`.
        ValueError: as `adaptive_cross_entropy`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> tables = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> log_p = adaptive_log_softmax(jnp.ones(64), tables)
        >>> print(log_p.shape, jnp.exp(log_p).sum())
        (1000,) 1.0
    """
    banded, head = _read("adaptive_log_softmax", features, tables)
    h, (shortlist, *tails) = banded.features, banded.bands
    log_p = log_softmax(band_scores(projected(h, shortlist), head))
    size = shortlist.table.shape[0]
    parts = [log_p[:, :size]]
    for i, band in enumerate(tails):
        within = log_softmax(band_scores(projected(h, band), band))
        parts.append(log_p[:, size + i, None] + within)
    return banded.shaped(jnp.concatenate(parts, axis=1))


def adaptive_topk(features: ArrayLike, tables: AdaptiveTables, k: int) -> BandTopK:
    r"""The k most probable classes under an adaptive softmax, exactly.

    .. math:: p(y) = p_\text{head}(c)\, p_c(y) ≤ p_\text{head}(c)

    So a cluster whose own probability is no larger than that of the k-th class found so far has
    none of the k, and is not computed for a block of tokens all of which find it so. Otherwise as
    `jax.lax.top_k` of `adaptive_log_softmax`, of which no more than a block of tokens is held.
    Differentiable in both modes.

    Args:
        features: h of shape [..., d], any real dtype.
        tables: `AdaptiveTables`.
        k: how many, from 1 to K.

    Returns:
        `log_probs` and `classes`, of shape [..., k]: log-probabilities in float32 at least, the
        highest first, and int32. Equal ones are in the order of their classes.

    Raises:
        TypeError: as `adaptive_cross_entropy`, and if `k` is not a whole number.
        ValueError: as `adaptive_cross_entropy`, and if `k` is not from 1 to K.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> tables = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> print(adaptive_topk(jnp.ones((2, 64)), tables, 3).classes.shape)
        (2, 3)
    """
    function = "adaptive_topk"
    banded, head = _read(function, features, tables)
    k = read_k(function, k, banded.starts[-1])
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

            needed = jnp.any(~(gate <= found.log_probs[:, -1]))
            found = jax.lax.cond(needed, look, lambda found: found, found)
        return found

    return by_blocks(of_block, banded)


def _read(function: str, features: Any, tables: Any) -> tuple[Banded, Band]:
    """Features and bands, and the head: the shortlist's table with the clusters as its last rows.

    The head takes features that are already projected.
    """
    if not isinstance(tables, AdaptiveTables):
        raise TypeError(
            f"jsoftmax.{function}: `tables` is of type {type(tables).__name__}; give it "
            "jsoftmax.AdaptiveTables, such as jsoftmax.adaptive_tables makes."
        )
    bands = read_bands(function, tables.bands, None, slices=False)
    clusters = checks.as_array(function, "clusters", tables.clusters)
    width, tails = bands[0].table.shape[1], len(bands) - 1
    if clusters.shape != (tails, width):
        raise ValueError(
            f"jsoftmax.{function}: `clusters` have shape {clusters.shape}; for {tails} bands after "
            f"the shortlist, whose table has width {width}, give the shape {(tails, width)}."
        )
    biases = bands[0].bias, tables.cluster_bias
    more = [clusters]
    if biases[1] is not None:
        more.append(checks.as_array(function, "cluster_bias", biases[1]))
        if more[1].shape != (tails,):
            raise ValueError(
                f"jsoftmax.{function}: `cluster_bias` has shape {more[1].shape}; give it one "
                f"number a cluster, shape {(tails,)}."
            )
    banded = read_banded(function, features, bands, slices=False, more=more)
    shortlist, dtype = banded.bands[0], banded.features.dtype
    table = jnp.concatenate([shortlist.table, clusters.astype(dtype)])
    bias = None
    if any(b is not None for b in biases):
        sizes = (starts_of(bands)[1], tails)
        bias = jnp.concatenate([
            jnp.zeros(n, dtype) if b is None else jnp.asarray(b).astype(dtype)
            for b, n in zip(biases, sizes, strict=True)
        ])  # fmt: skip
    return banded, Band(table, None, bias)
