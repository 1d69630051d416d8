"""The alias method: a table for draws in constant time, whatever the number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, UInt32

from jsoftmax.core._contents import hash_of_contents, other_contents, same_contents
from jsoftmax.core._keys import one_key
from jsoftmax.sampling._shapes import leading_shape
from jsoftmax.sampling._wide_integers import Words, product_high

_FULL = 2**32  # the capacity of a column of the table


class AliasTable(NamedTuple):
    r"""A table of the alias method for a fixed distribution, with O(1) time per draw.

    Each of K columns of equal size holds one class up to a threshold, and another, its alias, above
    it. A draw is a column and a height in it: one look-up for any K, where `sample_from` bisects.
    Construct it once by `AliasTable.of`. It is a pytree, for `jit`, `vmap` and `scan`.

    Args:
        thresholds: of shape [K], uint32: the share of a column for its own class, in units of 2⁻³².
        aliases: of shape [K], int32: the class of the rest of the column.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> table = AliasTable.of([3.0, 0.0, 1.0])
        >>> y = table.sample(jax.random.key(0), (10_000,))
        >>> print(jnp.bincount(y, length=3) / 10_000)
        [0.75 0.   0.25]

    Reference:
        A. J. Walker, "An efficient method for generating discrete random variables with general
        distributions", ACM TOMS 1977; M. D. Vose, IEEE TSE 1991.
    """

    thresholds: UInt32[Array, "..."]
    aliases: Int[Array, "..."]

    __eq__ = same_contents
    __ne__ = other_contents
    __hash__ = hash_of_contents

    @classmethod
    def of(cls, weights: ArrayLike | Sequence[float]) -> AliasTable:
        r"""Build the table of weights, which need not sum to 1, by numpy, outside `jit`.

        It takes O(K log K). The weights are rounded to multiples of 2⁻³²/K of their sum, which the
        integer entries of the table represent exactly: a probability is off by at most 2⁻³¹/K plus
        the float64 rounding of the weight, and a probability of zero stays zero.

        Args:
            weights: of shape [K], real numbers, not negative, finite, not all zero.

        Returns:
            An `AliasTable` of K columns.

        Raises:
            TypeError: if `weights` are traced, or not real numbers.
            ValueError: if `weights` are empty, not a vector, negative, not finite or all zero.
        """
        return table_of(checked_weights("AliasTable.of", "weights", weights))[0]

    @property
    def classes(self) -> int:
        """The number of classes, K."""
        return self.thresholds.shape[-1]

    def probabilities(self) -> np.ndarray:
        """Return the probabilities of the draws, exactly: float64 of numpy, of shape [K].

        Raises:
            TypeError: if the table is traced.
        """
        if isinstance(self.thresholds, jax.core.Tracer):
            raise TypeError(
                "jsoftmax.AliasTable.probabilities: the table is traced, but its probabilities are "
                "computed in numpy's float64. Call this outside `jit`, and pass the result."
            )
        return _mass(np.asarray(self.thresholds), np.asarray(self.aliases))

    def sample(self, key: ArrayLike, shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Draw independent classes of the given shape, in the default integer dtype.

        Args:
            key: a key of `jax.random`.
            shape: the shape of the result.

        Returns:
            Class numbers from 0 to K − 1. Each draw has 64 bits of noise, which choose the column
            and, by the remaining bits, the height.

        Raises:
            TypeError: if `key` is not a key or `shape` not a tuple of sizes.
            ValueError: if `key` holds several keys.
        """
        key = one_key("AliasTable.sample", key)
        shape = leading_shape("AliasTable.sample", shape)
        high, low = jax.random.bits(key, (2, *shape), jnp.uint32)
        zero = jnp.uint32(0)
        # noise · K = column · 2⁶⁴ + height: the column is uniform up to 2⁻⁶⁴, and so is the height.
        size = Words(zero, jnp.uint32(self.classes))
        column = product_high(Words(high, low), size).low.astype(jnp.int32)
        height = high * size.low + product_high(Words(zero, low), Words(size.low, zero)).low
        own = height < self.thresholds[column]
        index = jnp.where(own, column, self.aliases[column])
        return index.astype(jnp.zeros((), int).dtype)


def table_of(weights: np.ndarray) -> tuple[AliasTable, np.ndarray]:
    """Return the table of checked weights, and the probabilities of its draws.

    Everything is numpy until the last line, so that a table can be built while JAX traces.
    """
    thresholds, aliases = _columns(_whole_numbers(weights))
    return AliasTable(jnp.asarray(thresholds), jnp.asarray(aliases)), _mass(thresholds, aliases)


def checked_weights(function: str, name: str, weights: Any) -> np.ndarray:
    """Return one weight per class as numpy float64: not negative, finite, not all zero."""
    if isinstance(weights, jax.core.Tracer):
        raise TypeError(
            f"jsoftmax.{function}: `{name}` are traced, but numpy builds the table. Build it "
            "outside `jit`; inside, `sample_from` draws from probabilities."
        )
    try:
        given = np.asarray(weights)
    except ValueError as error:
        raise ValueError(
            f"jsoftmax.{function}: `{name}` have parts of different lengths; give one number a "
            "class."
        ) from error
    if not (jnp.issubdtype(given.dtype, jnp.number) or given.dtype == bool) or np.iscomplexobj(
        given
    ):
        raise TypeError(
            f"jsoftmax.{function}: `{name}` have dtype {given.dtype}; give real numbers."
        )
    if given.ndim != 1 or given.size == 0:
        raise ValueError(
            f"jsoftmax.{function}: `{name}` have shape {given.shape}; give a vector with one "
            "weight a class, and at least one."
        )
    w = given.astype(np.float64)
    for bad, words in ((~(w >= 0), "negative or NaN"), (np.isinf(w), "infinite")):
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(
                f"jsoftmax.{function}: weight {at} is {w[at]}, which is {words}. Weights must "
                "be finite and at least 0."
            )
    if not w.any():
        raise ValueError(
            f"jsoftmax.{function}: all {w.size} weights are zero; at least one must be positive."
        )
    return w


def _whole_numbers(w: np.ndarray) -> np.ndarray:
    """Return the weights in units of 2⁻³²/K, as integers that sum to K 2³² exactly."""
    total = w.size * _FULL
    w = w / w.max()
    exact = w * (total / w.sum())
    whole = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    # The remainder goes, a unit each, to the weights that rounding reduced most. Rounding of the
    # sum itself may leave more, or less: then the largest weights absorb the difference.
    left = np.where(w > 0, exact - whole, -1)
    few = min(max(missing, 0), np.count_nonzero(w))
    whole[np.argsort(left, kind="stable")[::-1][:few]] += 1
    largest = np.argsort(whole, kind="stable")[::-1][: np.count_nonzero(whole)]
    each, some = divmod(abs(missing - few), largest.size)
    whole[largest] += int(np.sign(missing - few)) * each
    whole[largest[:some]] += int(np.sign(missing - few))
    return whole


def _mass(thresholds: np.ndarray, aliases: np.ndarray) -> np.ndarray:
    own = thresholds.astype(np.int64)
    mass = own.copy()
    np.add.at(mass, aliases, _FULL - own)
    return mass / (_FULL * own.size)


def _columns(whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return thresholds and aliases, from two running sums instead of two stacks.

    The heavy classes, in order, fill the columns of the light ones, in order. The k-th light class
    is filled by the first heavy one with Σ surplus up to it ≥ Σ deficits before k. A heavy class is
    used up at the first light one with Σ deficits > Σ surplus up to it; the next heavy class then
    fills the gap in its own column.
    """
    own = whole.copy()
    aliases = np.arange(whole.size)
    light, heavy = np.flatnonzero(whole < _FULL), np.flatnonzero(whole >= _FULL)
    if light.size:
        deficits = np.cumsum(_FULL - whole[light])
        surplus = np.cumsum(whole[heavy] - _FULL)
        before = deficits - (_FULL - whole[light])
        aliases[light] = heavy[np.searchsorted(surplus, before)]
        end = np.searchsorted(deficits, surplus, side="right")
        used = np.flatnonzero(end < light.size)
        own[heavy[used]] = _FULL + surplus[used] - deficits[end[used]]
        aliases[heavy[used]] = heavy[used + 1]
        own[heavy[end >= light.size]] = _FULL
    else:
        own[heavy] = _FULL
    # A full column is its own alias with any threshold, since 2³² does not fit.
    full = own == _FULL
    return np.where(full, 0, own).astype(np.uint32), aliases.astype(np.int32)
