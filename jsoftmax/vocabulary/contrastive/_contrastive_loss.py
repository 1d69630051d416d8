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
    r"""How well each query finds its own key among those of the whole batch, and the other way.

    .. math:: z_{ij} = ⟨q_i, k_j⟩/T, \qquad
              L_i = \tfrac12 \big(ℓ(z_{i·}, i) + ℓ(z_{·i}, i)\big)

    with ℓ the cross-entropy, which is CLIP's loss, or the Fenchel–Young loss of α: from α > 1 on
    keys that are far behind have no gradient, and a pair that leads by enough no loss. Without
    `symmetric` it is InfoNCE, L_i = ℓ(z_i·, i). `sigmoid_contrastive_loss` judges every pair alone.

    With `labels` a query has a set P of positives, all keys of its label, and ℓ is the loss of the
    distribution that is even over them: at α = 1

    .. math:: ℓ(z, P) = -\frac{1}{|P|} \sum_{p \in P} \log \frac{e^{z_p}}{\sum_j e^{z_j}}

    which is the supervised contrastive loss (its L_out), and with `exclude_self` and two views of
    each label SimCLR's. Or pairs of one label, as copies of one caption, are false negatives: with
    same_label="ignore" they leave the sum over j. Labels are compared in blocks, as scores are
    formed.

    It is `linear_cross_entropy`, or `linear_fenchel_young_loss`, with the keys for a class table:
    scores are formed in blocks, and again in the backward pass. Up to 2²⁴ of a device at α = 1 stay
    in memory where there are no `labels`, and on one device both ways then share them. Derivatives
    are exact, in both modes and of any order: in queries, keys, T and the regularizer.

    Over a mesh the batch is split, and each device gathers the keys (and queries, if `symmetric`)
    of all: [batch, d] numbers. It has the scores of its own rows alone, and the gradient of a key
    is summed over devices. So it is inside of `shard_map` with an `axis_name`; on Explicit axes, by
    the types of the arguments; and on Auto axes with an `axis_name`, under `jax.set_mesh`. Without
    it there the compiler decides.

    Args:
        queries: q of shape [batch, d], any real dtype; on a part of a mesh its own rows.
        keys: k of shape [batch, d], whose row i belongs to query i. Without `symmetric` more keys
            may follow, which are counterexamples for all.
        temperature: T > 0, one number, which may be learned: `jnp.exp(-log_scale)`.
        alpha: α > 0 of the loss, a number or an array of shape [] or [batch, 1]; 1 where it is
            None.
        regularizer: a `Regularizer` in the place of `Tsallis(alpha)`.
        symmetric: whether keys seek their queries too.
        normalize: whether queries and keys are divided by their lengths, so that z is their cosine
            over T. A vector of length 0 stays as it is.
        where: boolean mask of shape [batch]: only these pairs take part. Others have loss 0, and
            are nobody's counterexamples.
        labels: integers of shape [batch], or [keys] where more keys follow: pairs with one label
            are alike. A negative one is like no other.
        same_label: "positive" lets each key with the label of a query be one of its positives;
            "ignore" leaves the others of its label out of its counterexamples.
        exclude_self: whether key i *is* query i, and takes no part in its row: with the same array
            for queries and keys, and `labels` that say which rows are views of one thing.
        axis_name: name of the mesh or `vmap` axis that splits the batch, or a tuple of such names.
        block_queries: how many rows of scores are in memory together, as `block_tokens` of
            `linear_cross_entropy`; None for the rule there.
        block_keys: how many keys are taken together backward, as `block_classes` there.

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
            f"{pairs.keys.shape} are not as many. Give symmetric=False, or leave out the keys that "
            "have no query."
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
    """The losses of queries that seek their keys."""
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
