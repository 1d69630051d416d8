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
    """Known while tracing: the classes, and the regularizer but for its arrays.

    These move with the scores, so they travel with them.
    """

    classes: ClassAxis
    structure: Any  # of the regularizer
    is_hard: bool = False  # whether the regularizer vanishes, as at α = ∞

    def regularizer(self, numbers: tuple) -> Regularizer:
        """The regularizer of these arrays, or its tangent."""
        return joined(self.structure, numbers)

    def hard_rows(self, hard: Array | None) -> Hard:
        """Where the map is arg max, from the rows where tracing does not tell."""
        return self.is_hard if hard is None else hard

    @property
    def is_softmax(self) -> bool:
        """Whether the threshold has a formula, and a prior is an addition to the scores."""
        return self.regularizer((None,) * self.structure.num_leaves).is_exponential

    @property
    def axis_name(self) -> Hashable | None:
        """The mesh axis over which classes are split."""
        return self.classes.axis_name
