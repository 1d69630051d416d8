"""Target sampling: the corpus is cut into partitions, each with a small vocabulary of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.vocabulary.sampled._candidates import Candidates
from jsoftmax.vocabulary.sampled._sampled_softmax_loss import sampled_softmax_loss


class TargetPartitions(NamedTuple):
    """What `target_partitions` returns, in numpy, for the data pipeline.

    Args:
        ends: where each partition of the examples ends: partition i is [ends[i−1], ends[i]).
        classes: the vocabularies, of shape [partitions, size], each of different classes, with −1
            in places that stay free.

    Example:
        >>> target_partitions([0, 1, 0, 2, 3, 3], 2).ends
        array([3, 6])
    """

    ends: np.ndarray
    classes: np.ndarray


def target_partitions(labels: ArrayLike, size: int) -> TargetPartitions:
    r"""Cut examples, in their order, into partitions with at most `size` different labels each.

    A partition ends where the next example would bring a class too many. Its vocabulary is the
    classes of its labels; every batch is then taken from within one partition, and trained by
    `target_sampling_loss` on the vocabulary of that.

    Args:
        labels: classes, integers of shape [examples], or [examples, m] for examples of several
            labels, such as sentences, which are not cut. Negative ones are no class.
        size: how many classes a partition has at most; what one example has must fit.

    Returns:
        `TargetPartitions`, in numpy, in one pass over the labels.

    Raises:
        TypeError: if `labels` are not integers or `size` is not an integer.
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
                f"jsoftmax.{name}: example {place} has {len(new)} classes; with `size` {size} it "
                "fits no partition."
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
    r"""Cross-entropy over the vocabulary V of a partition of the corpus, as if there were no other.

    .. math:: L = -z_y + \log \sum_{c \in V \cup \{y\}} e^{z_c}

    As importance sampling with a proposal that is even over V it needs no correction: counts cancel
    in the normalised weights. Nothing is drawn, and no class outside of V is touched, so all the
    rows of a partition fit where the whole table does not. The gradient is biased, by what the
    classes outside of V would have. It is `sampled_softmax_loss` with every count 1.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0; of it only the rows of labels
            and of the partition are read.
        labels: classes, integers of shape [...], of which V should have all. One that it has not
            is added for its own token.
        partition: V, different classes, integers of shape [n] for all tokens, or [..., n]. Negative
            numbers are free places. `target_partitions` finds it.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., 1]: other tokens have loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        temperature: T > 0, a number or an array [..., 1]; scores are divided by it. In an array any
            other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0: scores are c tanh(z/c) before that; None for none.
        class_axis: where the classes of `kernel` are.

    Returns:
        One loss per token, of shape [...], in float32 at least, never negative. NaN for a label out
        of range in a `jax.Array`.

    Raises:
        TypeError: as `sampled_softmax_loss`, and if `partition` are not integers.
        ValueError: as `sampled_softmax_loss`, and if numpy's or Python's `partition` has a class
            twice.

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
                f"jsoftmax.target_sampling_loss: class {ordered[..., 1:][twice][0]} stands in "
                "`partition` twice. Give the classes of a vocabulary once each."
            )
    ids = partition if known is None else known
    return sampled_softmax_loss(
        features, kernel, labels, Candidates(ids, 0.0), bias=bias, where=where,
        ignore_index=ignore_index, temperature=temperature, logits_soft_cap=logits_soft_cap,
        class_axis=class_axis,
    )  # fmt: skip
