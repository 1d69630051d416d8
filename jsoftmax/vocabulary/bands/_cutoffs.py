"""Where to cut a vocabulary into a shortlist and clusters, so that a step takes the least time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.bands._widths import ratio

_PLACES = 512  # where cuts are tried, at most


def adaptive_cutoffs(
    counts: ArrayLike | Sequence[float],
    width: int,
    tails: int = 2,
    *,
    div_value: float = 4.0,
    tokens: int = 2048,
    least_work: float = 1e6,
) -> tuple[int, ...]:
    r"""The cut-offs of an adaptive softmax whose matrix products take the least time.

    .. math:: \min\; g(B (K_0 + m) d) + \sum_{i=1}^m g(B q_i (K_i + d) d_i), \qquad
              g(w) = \max(w, w_0)

    In multiply-adds: B tokens meet the shortlist of K_0 classes and m clusters, and a share q_i of
    them, that of its classes in the counts, cluster i with K_i classes of width
    d_i = ⌊d / div_value^i⌋, to which their features are projected. A product of less than w_0 takes
    no less time. The minimum is over all cut-offs, by dynamic programming, up to 513 classes;
    beyond, over 512 places that are evenly spaced in their logarithm. It is one of time alone:
    narrow clusters are fast and poor, so a larger shortlist, or a smaller `div_value`, gives a
    better model. Runs in numpy, outside of `jit`.

    Args:
        counts: how often each class occurs, of shape [K]: real numbers that do not rise, none
            negative, not all 0. Classes are to be numbered so: the frequent ones first.
        width: d, of the features.
        tails: m, how many clusters, from 1 to K − 1.
        div_value: at least 1.
        tokens: B, how many tokens a step has.
        least_work: w_0 ≥ 0: about 1e6 on a CPU, 1e8 on a GPU.

    Returns:
        m rising whole numbers, above 0 and below K: the first class of each cluster.

    Raises:
        TypeError: if sizes are not integers.
        ValueError: if counts are empty, negative, NaN, infinite, all 0, or rise, or a number is out
            of range.

    Example:
        >>> import numpy as np
        >>> counts = 1e6 / np.arange(1, 32_001)
        >>> adaptive_cutoffs(counts, 512)
        (58, 1904)
        >>> adaptive_cutoffs(counts, 512, div_value=1.0)
        (1146, 10692)

    After Edouard Grave, Armand Joulin, Moustapha Cissé, David Grangier and Hervé Jégou, "Efficient
    softmax approximation for GPUs", 2017, whose model has no widths.
    """
    function = "adaptive_cutoffs"
    share = _shares(function, counts)
    classes = share.size - 1
    width, tokens = (
        checks.whole_number(function, "width", width),
        checks.whole_number(function, "tokens", tokens),
    )
    if not checks.whole_number(function, "tails", tails) < classes:
        raise ValueError(
            f"jsoftmax.{function}: `tails` must be from 1 to {classes - 1}, one less than there "
            f"are classes, got {tails}."
        )
    least = checks.static_number(least_work)
    if least is None or not 0 <= least < np.inf:
        raise ValueError(
            f"jsoftmax.{function}: `least_work` must be a finite number, at least 0, got "
            f"{least_work!r}."
        )
    places = _places(classes, tails)
    ends = np.append(places, classes)
    best = np.maximum(tokens * (places + tails) * float(width), least)
    came_from = []
    for i in range(1, tails + 1):
        narrow = max(1, int(width // ratio(function, div_value) ** i))
        rows = tokens * (share[ends][None] - share[places][:, None])
        work = rows * (ends[None] - places[:, None] + float(width)) * narrow
        total = best[:, None] + np.maximum(work, least)
        total = np.where(places[:, None] < ends[None], total, np.inf)
        came_from.append(total.argmin(0))
        best = total.min(0)[:-1]
    cuts, at = [], places.size
    for origin in reversed(came_from):
        at = origin[at]
        cuts.append(int(places[at]))
    return tuple(reversed(cuts))


def _places(classes: int, tails: int) -> np.ndarray:
    """Cut-offs to try: all, or an even spread of their logarithm, and all of the first few."""
    if classes - 1 <= _PLACES:
        return np.arange(1, classes)
    spread = np.unique(np.rint(np.geomspace(1, classes - 1, _PLACES)).astype(int))
    return np.union1d(spread, np.arange(1, min(tails, classes - 1) + 1))


def _shares(function: str, counts: Any) -> np.ndarray:
    """What part of all tokens the first k classes have, for k from 0 to K."""
    given = np.asarray(counts)
    if given.ndim != 1 or given.size < 2 or not np.issubdtype(given.dtype, np.number):
        raise ValueError(
            f"jsoftmax.{function}: `counts` has shape {given.shape} and dtype {given.dtype}; give "
            "it one number for each of at least two classes."
        )
    w = given.astype(np.float64)
    for bad, words in ((~(w >= 0), "negative or NaN"), (np.isinf(w), "infinite")):
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(
                f"jsoftmax.{function}: count {at} is {w[at]}, which is {words}. Counts must be "
                "finite and at least 0."
            )
    if (np.diff(w) > 0).any():
        raise ValueError(
            f"jsoftmax.{function}: `counts` rise after class {int((np.diff(w) > 0).argmax())}. "
            "Number the classes by falling count: np.argsort(-counts) has their new order."
        )
    if w[0] == 0:
        raise ValueError(f"jsoftmax.{function}: all {w.size} counts are 0.")
    return np.append(0.0, np.cumsum(w) / w.sum())
