"""Weighted samplers of classes: by rank or by counts, with or without replacement."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.sampling._alias import AliasTable, checked_weights, table_of
from jsoftmax.vocabulary.sampled._class_sampler import ClassSampler, number_of_classes
from jsoftmax.vocabulary.sampled._points import spaced_points


def log_uniform_sampler(classes: int, *, replacement: bool = True) -> ClassSampler:
    r"""Make a sampler for classes in the order of their frequency, by Zipf's law, without counts.

    .. math:: q_c = \log\frac{c + 2}{c + 1} \Big/ \log(K + 1)

    which is the distribution of TensorFlow's `log_uniform_candidate_sampler`. Expected counts
    without replacement are approximate there and exact here.

    Args:
        classes: K ≥ 1, an integer. Class 0 is the most frequent.
        replacement: whether a class may be drawn more than once. See `unigram_sampler`.

    Returns:
        A `ClassSampler`, made in O(K log K) by numpy.

    Raises:
        TypeError: if `classes` is not an integer.
        ValueError: if `classes` is less than 1 or too many.

    Example:
        >>> import jax.numpy as jnp
        >>> sampler = log_uniform_sampler(3)
        >>> print(jnp.exp(sampler.log_expected_count([0, 1, 2], draws=1)))  # log 2 / log 4, …
        [0.5   0.292 0.208]
    """
    classes = number_of_classes("log_uniform_sampler", classes)
    return _sampler("log_uniform_sampler", np.log1p(1 / np.arange(1.0, classes + 1)), replacement)


def unigram_sampler(
    counts: ArrayLike | Sequence[float], *, power: float = 0.75, replacement: bool = True
) -> ClassSampler:
    r"""Make a sampler from counts raised to a power: 3/4 in word2vec.

    .. math:: q_c = \text{count}_c^{\,\text{power}} \Big/ \sum_i \text{count}_i^{\,\text{power}}

    With replacement it draws from an alias table, in O(1) per draw, and n_c = draws · q_c. Without
    replacement, classes are arcs of a circle in the order of their weight, and draws are points on
    it, each uniform and no two on one class (systematic sampling): O(log K) per draw. There

    .. math:: n_c = \min(1, λ q_c), \qquad \sum_c n_c = \text{draws}

    is exactly the probability that class c is included: a class with λ q_c ≥ 1 always is.

    Args:
        counts: of shape [K], real numbers, not negative, finite, not all zero. A class of count 0
            is never drawn, and adds nothing to the estimates: smooth the counts if it should.
        power: a number: 1 for the distribution of the data, 0 for the uniform one over the classes
            of positive count.
        replacement: whether a class may be drawn more than once.

    Returns:
        A `ClassSampler`, made in O(K log K) by numpy. q is rounded to multiples of 2⁻³²/K with
        replacement, to multiples of 2⁻³² and at least one without, and expected counts are those of
        the rounded q, so that rounding causes no bias.

    Raises:
        TypeError: if `counts` are traced or not real numbers, or `power` is not a number.
        ValueError: if `counts` are empty, not a vector, negative, not finite or all zero, or
            `power` is not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> sampler = unigram_sampler([16.0, 1.0, 0.0, 1.0], power=0.5)
        >>> drawn = sampler.sample(jax.random.key(0), (6000,)).ids
        >>> print(jnp.bincount(drawn, length=4) / 6000)  # 4/6, 1/6, 0, 1/6
        [0.67 0.16 0.   0.17]

    Reference:
        T. Mikolov et al., "Distributed representations of words and phrases and their
        compositionality", 2013; W. G. Madow, "On the theory of systematic sampling, II", Annals of
        Mathematical Statistics 1949.
    """
    w = checked_weights("unigram_sampler", "counts", counts)
    exponent = checks.static_number(power)
    if exponent is None:
        raise TypeError(f"jsoftmax.unigram_sampler: `power` must be a number, got {power!r}.")
    if not np.isfinite(exponent):
        raise ValueError(f"jsoftmax.unigram_sampler: `power` must be finite, got {power!r}.")
    some = w > 0
    logs = exponent * np.log(w[some])  # powers themselves might overflow
    powers = np.zeros_like(w)
    powers[some] = np.exp(logs - logs.max())
    return _sampler("unigram_sampler", powers, replacement)


def _sampler(function: str, weights: np.ndarray, replacement: bool) -> ClassSampler:
    if replacement:
        return WeightedSampler.of(weights)
    return DistinctSampler.of(weights)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WeightedSampler(ClassSampler):
    """With replacement: an alias table, and the logarithms of its probabilities."""

    table: AliasTable
    log_probabilities: Any  # an array; JAX rebuilds the pytree with other leaves, such as ArgInfo
    classes: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, weights: np.ndarray) -> WeightedSampler:
        table, q = table_of(weights)
        return cls(table, _log(q), table.classes)

    @property
    def _most_draws(self) -> None:
        return None

    def _drawn(self, key: Array, shape: tuple[int, ...]) -> Array:
        return self.table.sample(key, shape)

    def _log_count(self, ids: Array, draws: int) -> Array:
        q = self.log_probabilities[ids]
        return q + jnp.asarray(np.log(max(draws, 1)), q.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DistinctSampler(ClassSampler):
    """Without replacement: a circle of arcs, in falling order of length.

    While the longest arc exceeds the remaining length per remaining draw, it is removed and its
    class always drawn: at most `draws` arcs, all at the start.
    """

    order: Any  # classes by falling weight
    places: Any  # the position of each class in that order
    ends: Any  # the end of the arc at each position, a 32-bit integer
    classes: int = dataclasses.field(metadata={"static": True})
    drawable: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, weights: np.ndarray) -> DistinctSampler:
        # At most 2³² − 1 units, even if every weight is rounded up to one.
        scale = (2**32 - 1 - weights.size) / weights.sum()
        lengths = np.maximum(np.rint(weights * scale), weights > 0)
        return cls.of_lengths(lengths.astype(np.int64))

    @classmethod
    def of_lengths(cls, lengths: np.ndarray) -> DistinctSampler:
        order = np.argsort(-lengths, kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(order.size)
        return cls(
            jnp.asarray(order.astype(np.int32)),
            jnp.asarray(places.astype(np.int32)),
            jnp.asarray(np.cumsum(lengths[order]).astype(np.uint32)),
            lengths.size,
            int(np.count_nonzero(lengths)),
        )

    @property
    def _most_draws(self) -> int:
        return self.drawable

    def _drawn(self, key: Array, shape: tuple[int, ...]) -> Array:
        draws = shape[-1]
        if draws == 0:
            return jnp.zeros(shape, jnp.int32)
        always, start, longest = self._cut(draws)
        points = start + spaced_points(
            key, shape, self.ends[-1] - start, jnp.uint32(draws) - always, longest
        )
        # The last points are not used: the classes that are always drawn take their places.
        j = jnp.arange(draws, dtype=jnp.uint32)
        turn = j + always - jnp.uint32(draws)  # wraps around where it is negative
        place = jnp.searchsorted(self.ends, points, side="right").astype(jnp.uint32)
        place = jnp.where(j < jnp.uint32(draws) - always, place, turn)
        return self.order[place.astype(jnp.int32)]

    def _log_count(self, ids: Array, draws: int) -> Array:
        if draws == 0:
            return jnp.full(ids.shape, -jnp.inf, float)
        always, start, _ = self._cut(draws)
        place = self.places[ids]
        length = self._length(place)
        dtype = jnp.zeros((), float).dtype
        drawn = (jnp.uint32(draws) - always).astype(dtype)
        share = length.astype(dtype) / (self.ends[-1] - start).astype(dtype)
        return jnp.where(place.astype(jnp.uint32) < always, 0, jnp.log(drawn * share))

    def _cut(self, draws: int) -> tuple[Array, Array, Array]:
        """Return the number of classes always drawn, the end of their arcs, and the next arc."""
        place = jnp.arange(draws, dtype=jnp.int32)
        length = self._length(place)
        start = self.ends[place] - length
        left = jnp.arange(draws, 0, -1, dtype=jnp.uint32)
        # Once an arc is no longer than its share, the shorter ones after it are not either.
        too_long = length > (self.ends[-1] - start) // left
        always = jnp.sum(too_long.astype(jnp.int32))
        return always.astype(jnp.uint32), start[always], length[always]

    def _length(self, place: Array) -> Array:
        before = jnp.where(place > 0, self.ends[jnp.maximum(place - 1, 0)], jnp.uint32(0))
        return self.ends[place] - before


def _log(p: np.ndarray) -> Array:
    some = p > 0
    return jnp.asarray(np.where(some, np.log(np.where(some, p, 1)), -np.inf), float)
