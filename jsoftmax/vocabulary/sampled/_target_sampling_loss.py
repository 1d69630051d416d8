"""Target sampling: split the corpus into partitions, each with a small vocabulary."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.vocabulary.sampled._candidates import Candidates
from jsoftmax.vocabulary.sampled._sampled_softmax_loss import sampled_softmax_loss


class TargetPartitions(NamedTuple):
    """The result of `target_partitions`: numpy arrays for the data pipeline.

    Args:
        ends: the end of each partition of the examples: partition i is [ends[i−1], ends[i]).
        classes: the vocabularies, of shape [partitions, size], each of distinct classes, padded by
            −1.

    Example:
        >>> target_partitions([0, 1, 0, 2, 3, 3], 2).ends
        array([3, 6])
    """

    ends: np.ndarray
    classes: np.ndarray


def target_partitions(labels: ArrayLike, size: int) -> TargetPartitions:
    r"""Split examples, in their order, into partitions with at most `size` distinct labels each.

    A partition ends where the next example would exceed `size`. Its vocabulary is the set of its
    labels. Take each training batch from one partition, and compute `target_sampling_loss` over the
    vocabulary of that partition.

    Args:
        labels: classes, integers of shape [examples], or [examples, m] for examples of several
            labels, such as sentences, which are not split. Negative labels are ignored.
        size: the largest number of classes of a partition; the classes of each example must fit.

    Returns:
        `TargetPartitions`, in numpy, in one pass over the labels.

    Raises:
        TypeError: if `labels` or `size` are not integers.
        ValueError: if `labels` have more than two axes, `size` is less than 1, or an example has
            more classes than that.

    Example:
        >>> found = target_partitions([[0, 1], [1, 0], [2, -1], [3, 1]], 3)
        >>> print(found.ends)
        [3 4]
        >>> print(found.classes)
        [[ 0  1  2]
         [ 1  3 -1]]

    Reference:
        S. Jean et al., "On using very large target vocabulary for neural machine translation",
        ACL 2015.
    """
    name = "target_partitions"
    known = isinstance(labels, np.ndarray)
    y = labels if known else np.asarray(checks.as_array(name, "labels", labels))
    if not np.issubdtype(y.dtype, np.integer) and y.size:
        raise TypeError(
            f"jsoftmax.{name}: `labels` have dtype {y.dtype}; give integers, the numbers of "
            "classes."
        )
    if y.ndim not in (1, 2):
        raise ValueError(
            f"jsoftmax.{name}: `labels` have shape {y.shape}; give shape [examples] or "
            "[examples, m]."
        )
    size = checks.whole_number(name, "size", size)
    ends, vocabularies, here = [], [], set()
    examples = y.tolist() if y.ndim == 2 else y[:, None].tolist()
    for place, example in enumerate(examples):
        new = {c for c in example if c >= 0}
        if len(new) > size:
            raise ValueError(
                f"jsoftmax.{name}: example {place} has {len(new)} classes, more than fit a "
                f"partition of `size` {size}."
            )
        if len(here | new) > size:
            ends.append(place)
            vocabularies.append(here)
            here = set()
        here |= new
    if len(y):
        ends.append(len(y))
        vocabularies.append(here)
    classes = np.full((len(ends), size), -1, np.int32)
    for row, vocabulary in zip(classes, vocabularies, strict=True):
        row[: len(vocabulary)] = sorted(vocabulary)
    return TargetPartitions(np.asarray(ends, np.int64), classes)


@on_explicit_axes(like="features")
def target_sampling_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    partition: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
) -> Float[Array, "..."]:
    r"""Compute the cross-entropy over the vocabulary V of a partition of the corpus alone.

    .. math:: L = -z_y + \log \sum_{c \in V \cup \{y\}} e^{z_c}

    It is importance sampling with a uniform proposal over V and needs no correction: counts cancel
    in the normalised weights. Nothing is drawn, and no class outside of V is read, so the rows of a
    partition may fit in memory where the whole table does not. The gradient is biased, since the
    classes outside of V contribute nothing. It is `sampled_softmax_loss` with every count 1.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0; of it only the rows of labels
            and of the partition are read.
        labels: classes, integers of shape [...]. V should contain all of them; a label outside of V
            is added for its own token.
        partition: V, distinct classes, integers of shape [n] for all tokens, or [..., n]. Negative
            numbers are padding. `target_partitions` finds it.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., 1]: other tokens have loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        temperature: T > 0, a number or an array [..., 1]; scores are divided by it. In an array any
            other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0: scores become c tanh(z/c) before the division by T; None for none.
        class_axis: the axis of the classes in `kernel`.

    Returns:
        One loss per token, of shape [...], in float32 at least, never negative. NaN for a label out
        of range in a `jax.Array`.

    Raises:
        TypeError: as `sampled_softmax_loss`, and if `partition` are not integers.
        ValueError: as `sampled_softmax_loss`, and if a `partition` given as a Python or numpy value
            repeats a class.

    Example:
        >>> import jax.numpy as jnp
        >>> import jsoftmax
        >>> h, W = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> print(target_sampling_loss(h, W, [0], [0, 1, -1]))
        [1.3133]
        >>> print(jsoftmax.linear_cross_entropy(h, W, [0], where=jnp.array([True, True, False])))
        [1.3133]

    Reference:
        S. Jean et al., "On using very large target vocabulary for neural machine translation",
        ACL 2015.
    """
    checks.as_array("target_sampling_loss", "partition", partition)
    known = checks.known_values(partition)
    if known is not None and known.ndim:
        ordered = np.sort(known, axis=-1)
        twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        if twice.any():
            raise ValueError(
                f"jsoftmax.target_sampling_loss: `partition` has class {ordered[..., 1:][twice][0]}"
                " twice. Give each class of a vocabulary once."
            )
    ids = partition if known is None else known
    return sampled_softmax_loss(
        features, kernel, labels, Candidates(ids, 0.0), bias=bias, where=where,
        ignore_index=ignore_index, temperature=temperature, logits_soft_cap=logits_soft_cap,
        class_axis=class_axis,
    )  # fmt: skip
