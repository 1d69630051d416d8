"""Scores: what the threshold solver may ask of a row of logits, wherever the numbers are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._filled import filled


@runtime_checkable
class Scores(Protocol):
    """A row seen through reductions alone, so that it may lie in memory, be split, or be streamed.

    Excluded classes have the score −∞. All results keep a size-1 class axis.
    """

    @property
    def joins_sums(self) -> bool:
        """Whether two sums over the row take hardly longer than one, and no score is +∞ in them."""
        ...

    @property
    def rounding(self) -> float:
        """The relative error that the user of the masses makes, if it is above that of floats."""
        ...

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        """max fn(z) of each row: the largest score, where `fn` is not given."""
        ...

    def sum(self, fn: Callable[[Array], Any]) -> Any:
        """Σ fn(z) over each row, or Σ q fn(z) where scores have a prior; of each in a tuple."""
        ...

    def anywhere(self, flags: Array) -> Array:
        """Whether a per-row flag is raised in any row."""
        ...

    def level_of(self, top: Array) -> Array | None:
        """The log of the link at which the largest score alone has mass one; None for 0."""
        ...

    def peaks(self) -> Scores | None:
        """A much shorter selection of each row that holds its maximum, or None.

        A sum of non-negative terms over it bounds the sum over the row from below, so its
        threshold is where the search for the threshold of the row can start.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Dense:
    """Scores that lie in memory: whole, masked by −∞, or split over a mesh axis.

    A prior weights the sums, and is positive where a score is above −∞.
    """

    values: Array
    classes: ClassAxis
    prior: Array | None = None

    joins_sums = False
    rounding = 0.0

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        return self.classes.max(fn(self.values))

    def sum(self, fn: Callable[[Array], Any]) -> Any:
        def of_one(x):
            return self.classes.sum(x if self.prior is None else self.prior * x)

        return jax.tree.map(of_one, fn(self.values))

    def level_of(self, top: Array) -> Array | None:
        """The log of the link at which the largest score alone has mass one; None for 0."""
        if self.prior is None:
            return None
        q = self.classes.max(jnp.where(self.values == top, self.prior, 0))
        return -jnp.log(jnp.where(q > 0, q, 1))

    def anywhere(self, flags: Array) -> Array:
        return self.classes.anywhere(flags)

    def peaks(self) -> Dense | None:
        found = self.classes.peaks(self.values, self.prior)
        return None if found is None else Dense(found[0], self.classes, found[1])


@dataclasses.dataclass(frozen=True)
class WithMore:
    """Scores with one more class."""

    others: Scores
    more: Array

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        top = self.others.max(fn)
        return jnp.maximum(top, fn(self.more + filled(top, 0)))

    @property
    def joins_sums(self) -> bool:
        return self.others.joins_sums

    @property
    def rounding(self) -> float:
        return self.others.rounding

    def sum(self, fn: Callable[[Array], Any]) -> Any:
        def with_more(total, x):
            return total + x

        total = self.others.sum(fn)
        rows = jax.tree.leaves(total)[0]
        more = jnp.minimum(self.more + filled(rows, 0), float(jnp.finfo(self.more.dtype).max))
        return jax.tree.map(with_more, total, fn(more))

    def anywhere(self, flags: Array) -> Array:
        return self.others.anywhere(flags)

    def peaks(self) -> WithMore | None:
        peaks = self.others.peaks()
        return None if peaks is None else WithMore(peaks, self.more)

    def level_of(self, top: Array) -> None:
        return None


def difference(z: Array, m: Array) -> Array:
    """z − m for m = max z, with the limits in place of ∞ − ∞.

    Clipped at the largest finite number, an anchor of +∞ leaves 0 for its equals and −huge for the
    rest, and an anchor of −∞, an empty row, leaves −∞. No NaN is formed that was not in `z`.
    """
    finite = jnp.finfo(z.dtype).max
    return jnp.minimum(z, finite) - jnp.clip(m, -finite, finite)
