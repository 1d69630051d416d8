"""Scores: the interface of the threshold solver to a row of logits, wherever it is stored."""

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
    """A row accessed by reductions alone, so that it can be in memory, split, or streamed.

    Excluded classes have the score −∞. All results keep a size-1 class axis.
    """

    @property
    def joins_sums(self) -> bool:
        """Whether two sums over the row take hardly longer than one, and no score is +∞ in them."""
        ...

    @property
    def rounding(self) -> float:
        """The relative error that users of the masses add, if above that of floats."""
        ...

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        """Return max fn(z) of each row: by default the largest score."""
        ...

    def sum(self, fn: Callable[[Array], Any]) -> Any:
        """Return Σ fn(z) over each row, or Σ q fn(z) with a prior; for a tuple, of each entry."""
        ...

    def anywhere(self, flags: Array) -> Array:
        """Return whether a per-row flag is set in any row."""
        ...

    def level_of(self, top: Array) -> Array | None:
        """Return the log of the link that gives the largest score alone mass one; None for 0."""
        ...

    def peaks(self) -> Scores | None:
        """Return a much shorter selection of each row that holds its maximum, or None.

        A sum of non-negative terms over it bounds the sum over the row from below, so the search
        for the threshold of the row can start from the threshold of the selection.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Dense:
    """Scores in memory: whole, masked by −∞, or split over a mesh axis.

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
        """Return the log of the link that gives the largest score alone mass one; None for 0."""
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
    """Return z − m for m = max z, with limits in place of ∞ − ∞.

    Clipped at the largest finite number, an anchor of +∞ gives 0 for its equals and −huge for the
    rest, and an anchor of −∞, a fully masked row, gives −∞. A NaN appears only where `z` has one.
    """
    finite = jnp.finfo(z.dtype).max
    return jnp.minimum(z, finite) - jnp.clip(m, -finite, finite)
