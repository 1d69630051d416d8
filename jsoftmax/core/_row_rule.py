"""The static description of rows that are computed in blocks, for attention and linear losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

from jax import Array

from jsoftmax.core._arg_max import Hard
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._regularizer import Regularizer, joined


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowRule:
    """The static settings of a row: the classes, and the regularizer without its arrays.

    The arrays are differentiated like the scores, so they are passed with the scores.
    """

    classes: ClassAxis
    structure: Any  # of the regularizer
    is_hard: bool = False  # whether the regularizer vanishes, as at α = ∞

    def regularizer(self, numbers: tuple) -> Regularizer:
        """Return the regularizer of these arrays, or its tangent."""
        return joined(self.structure, numbers)

    def hard_rows(self, hard: Array | None) -> Hard:
        """Return where the map is arg max: `hard` if it is known by row, else `is_hard`."""
        return self.is_hard if hard is None else hard

    @property
    def is_softmax(self) -> bool:
        """Whether the threshold is a logsumexp, so that a prior only adds log q to the scores."""
        return self.regularizer((None,) * self.structure.num_leaves).is_exponential

    @property
    def axis_name(self) -> Hashable | None:
        """The mesh axis that splits the classes."""
        return self.classes.axis_name
