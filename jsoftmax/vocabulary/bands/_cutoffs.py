"""The cut-offs between shortlist and clusters that minimise the time of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.bands._widths import ratio

_PLACES = 512  # candidate cut-offs, at most


def adaptive_cutoffs(
    counts: ArrayLike | Sequence[float],
    width: int,
    tails: int = 2,
    *,
    div_value: float = 4.0,
    tokens: int = 2048,
    least_work: float = 1e6,
) -> tuple[int, ...]:
    r"""Find the cut-offs of an adaptive softmax that minimise the time of its matrix products.

    .. math:: \min\; g(B (K_0 + m) d) + \sum_{i=1}^m g(B q_i (K_i + d) d_i), \qquad
              g(w) = \max(w, w_0)

    The cost counts multiply-adds. All B tokens are multiplied with the shortlist of K_0 classes and
    the m cluster vectors. A share q_i of them, the share of its classes in the counts, is projected
    to the width d_i = ⌊d / div_value^i⌋ and multiplied with the K_i classes of cluster i. A product
    of less than w_0 takes no less time than one of w_0. The minimum, by dynamic programming, is
    over all cut-offs up to 513 classes; beyond, over 512 candidates spaced evenly in their
    logarithm. It minimises time alone: narrow clusters are fast and fit worse, so a larger
    shortlist, or a smaller `div_value`, gives a better model. Runs in numpy, outside of `jit`.

    Args:
        counts: frequencies of the classes, of shape [K]: real numbers ≥ 0 that do not rise, not all
            0. So classes must be numbered by falling frequency.
        width: d, of the features.
        tails: m, the number of clusters, from 1 to K − 1.
        div_value: at least 1.
        tokens: B, the number of tokens of a step.
        least_work: w_0 ≥ 0: about 1e6 on a CPU, 1e8 on a GPU.

    Returns:
        m rising integers above 0 and below K: the first class of each cluster.

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
    softmax approximation for GPUs", 2017; the cost model there has no widths.
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
            f"jsoftmax.{function}: `tails` must be from 1 to {classes - 1}, one less than the "
            f"number of classes, got {tails}."
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
    """Return candidate cut-offs: all, or an even spread of logarithms and the first few."""
    if classes - 1 <= _PLACES:
        return np.arange(1, classes)
    spread = np.unique(np.rint(np.geomspace(1, classes - 1, _PLACES)).astype(int))
    return np.union1d(spread, np.arange(1, min(tails, classes - 1) + 1))


def _shares(function: str, counts: Any) -> np.ndarray:
    """Compute the share of the first k classes in all tokens, for k from 0 to K."""
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
