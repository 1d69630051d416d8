"""The contrastive loss of pairs (InfoNCE, CLIP), for any regularizer and any number of devices."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen
from jsoftmax.vocabulary.contrastive._batch_parts import gathered_batch, on_batch_parts
from jsoftmax.vocabulary.contrastive._labelled_losses import labelled_losses
from jsoftmax.vocabulary.contrastive._pairs import (
    Pairs,
    of_keys,
    read_pairs,
    read_temperature,
    with_labels_of_keys,
)
from jsoftmax.vocabulary.contrastive._shared_scores import both_ways
from jsoftmax.vocabulary.linear._block_sizes import stay_whole
from jsoftmax.vocabulary.linear._linear_cross_entropy import linear_cross_entropy
from jsoftmax.vocabulary.linear._linear_fenchel_young_loss import linear_fenchel_young_loss

_NAME = "contrastive_loss"
_IGNORED = -1


@on_batch_parts
def contrastive_loss(
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    symmetric: bool = True,
    normalize: bool = False,
    where: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    same_label: str = "positive",
    exclude_self: bool = False,
    axis_name: Hashable | None = None,
    block_queries: int | None = None,
    block_keys: int | None = None,
) -> Float[Array, " batch"]:
    r"""Compute the contrastive loss of each query against all keys of the batch, and vice versa.

    .. math:: z_{ij} = ⟨q_i, k_j⟩/T, \qquad
              L_i = \tfrac12 \big(ℓ(z_{i·}, i) + ℓ(z_{·i}, i)\big)

    with ℓ the cross-entropy, which gives CLIP's loss, or the Fenchel–Young loss of α. For α > 1
    keys of low score have no gradient, and a pair has loss 0 if it leads by a large enough margin.
    Without `symmetric` it is InfoNCE, L_i = ℓ(z_i·, i). `sigmoid_contrastive_loss` classifies every
    pair by itself.

    With `labels` a query has a set P of positives, all keys of its label, and ℓ is the loss for the
    uniform distribution over them: at α = 1

    .. math:: ℓ(z, P) = -\frac{1}{|P|} \sum_{p \in P} \log \frac{e^{z_p}}{\sum_j e^{z_j}}

    which is the supervised contrastive loss (its L_out), and with `exclude_self` and two views of
    each label SimCLR's. If instead pairs of one label, such as copies of one caption, are false
    negatives, same_label="ignore" leaves them out of the sum over j. Labels are compared in blocks,
    like scores.

    It is `linear_cross_entropy`, or `linear_fenchel_young_loss`, with the keys as class table:
    scores are computed in blocks, and recomputed in the backward pass. At α = 1 without `labels`,
    up to 2²⁴ scores per device stay in memory, and on one device both directions then share them.
    Derivatives are exact, in both modes and of any order: in queries, keys, T and the regularizer.

    On a mesh the batch is split, and each device gathers the keys (and queries, if `symmetric`) of
    all devices: [batch, d] numbers. It computes the scores of its own rows alone, and the gradient
    of a key is summed over devices. This happens inside of `shard_map` with an `axis_name`; on
    Explicit axes, by the types of the arguments; and on Auto axes with an `axis_name`, under
    `jax.set_mesh`. On Auto axes without a name the compiler decides.

    Args:
        queries: q of shape [batch, d], any real dtype; inside of `shard_map` the rows of the
            device.
        keys: k of shape [batch, d]; row i belongs to query i. Without `symmetric` more keys may
            follow, negatives of all queries.
        temperature: T > 0, one number, which may be learned: `jnp.exp(-log_scale)`.
        alpha: α > 0 of the loss, a number or an array of shape [] or [batch, 1]; None for 1.
        regularizer: a `Regularizer` instead of `Tsallis(alpha)`.
        symmetric: whether to average with the loss of keys against queries.
        normalize: whether to divide queries and keys by their lengths, so that z is their cosine
            over T. A vector of length 0 stays as it is.
        where: boolean mask of shape [batch]: only these pairs take part. Others have loss 0, and
            are no negatives.
        labels: integers of shape [batch], or [keys] where more keys follow: equal labels mark
            equivalent pairs. A negative label equals no other.
        same_label: "positive" makes each key with the label of a query one of its positives;
            "ignore" leaves the other keys of its label out of its negatives.
        exclude_self: whether key i *is* query i, and is left out of its row: with the same array
            for queries and keys, and `labels` that say which rows are views of one example.
        axis_name: name of the mesh or `vmap` axis that splits the batch, or a tuple of such names.
        block_queries: rows of scores in memory at once, as `block_tokens` of
            `linear_cross_entropy`; None for the rule there.
        block_keys: keys per block of the backward pass, as `block_classes` there.

    Returns:
        One loss per pair, of shape [batch], in float32 at least; 0 for a query without positives.
        Their mean over all devices is CLIP's loss.

    Raises:
        TypeError: if `queries` or `keys` are not real numbers, or `where` is not boolean, or
            `labels` are not integers.
        ValueError: if shapes do not fit, a number known while tracing is out of range, or queries
            that exclude themselves have no labels.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> k = jnp.array([[2.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
        >>> print(contrastive_loss(q, k, temperature=0.5))
        [0.42259753 0.7022634  0.1912382 ]
        >>> print(jax.grad(lambda t: contrastive_loss(q, k, temperature=t).mean())(0.5))
        0.377
        >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
        >>> simclr = dict(labels=jnp.array([0, 1, 0, 1]), exclude_self=True, symmetric=False)
        >>> print(contrastive_loss(views, views, **simclr))
        [0.8189247 0.8189247 1.0960228 1.0960228]

    Reference:
        A. van den Oord, Y. Li and O. Vinyals, "Representation learning with contrastive predictive
        coding", 2018; A. Radford et al., "Learning transferable visual models from natural language
        supervision", ICML 2021; P. Khosla et al., "Supervised contrastive learning", NeurIPS 2020;
        T. Chen et al., "A simple framework for contrastive learning of visual representations",
        ICML 2020.
    """
    function = _NAME
    family = chosen(function, alpha, regularizer, order=1.0, beside_axis=False)
    pairs = read_pairs(function, queries, keys, where, normalize, axis_name)
    pairs = with_labels_of_keys(function, pairs, labels, same_label, exclude_self)
    if not isinstance(symmetric, bool):
        raise TypeError(f"jsoftmax.{function}: `symmetric` must be a bool, got {symmetric!r}.")
    if symmetric and pairs.keys.shape != pairs.queries.shape:
        raise ValueError(
            f"jsoftmax.{function}: `queries` of shape {pairs.queries.shape} and `keys` of shape "
            f"{pairs.keys.shape} differ in number. Give symmetric=False, or leave out the keys "
            "that have no query."
        )
    for name, size in (("block_queries", block_queries), ("block_keys", block_keys)):
        if size is not None:
            checks.whole_number(function, name, size)
    options = {
        "temperature": read_temperature(function, temperature),
        "block_tokens": block_queries,
        "block_classes": block_keys,
    }
    n, width = pairs.queries.shape
    if is_known(pairs.keys.shape[0]) and pairs.keys.shape[0] == 0:
        return jnp.sum(pairs.queries.astype(checks.compute_dtype(pairs.queries)), -1)  # empty
    are_shared = symmetric and family.is_exponential and pairs.labels is None and axis_name is None
    if are_shared and (block_queries, block_keys) == (None, None) and stay_whole(n, n, width):
        return both_ways(pairs, options["temperature"])
    loss = _one_way(pairs, family, axis_name, options)
    if not symmetric:
        return loss
    other = pairs._replace(queries=pairs.keys, keys=pairs.queries)
    return (loss + _one_way(other, family, axis_name, options)) / 2


def _one_way(
    pairs: Pairs, regularizer: Regularizer, axis_name: Hashable | None, options: dict[str, Any]
) -> Array:
    """Compute the losses of queries against keys."""
    own, where, ignored = pairs.own, None, None
    if pairs.counted is not None:
        own, ignored = jnp.where(pairs.counted, own, _IGNORED), _IGNORED
        where = gathered_batch(of_keys(pairs.counted, pairs.keys), axis_name)
    if pairs.labels is not None:
        return labelled_losses(_NAME, pairs, where, regularizer, axis_name, options)
    given = (pairs.queries, gathered_batch(pairs.keys, axis_name), own)
    options = options | {"where": where, "ignore_index": ignored, "class_axis": 0}
    if regularizer.is_exponential:
        return linear_cross_entropy(*given, **options)
    return linear_fenchel_young_loss(*given, regularizer, **options)
