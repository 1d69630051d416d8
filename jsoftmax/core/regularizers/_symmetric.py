"""Regularizers that are symmetric in a probability and its complement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jax import Array

from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.curves import Curve, Shift


@dataclasses.dataclass(frozen=True)
class Symmetric(Regularizer):
    """A regularizer with ω(p) = ω(1 − p): its link is a symmetric distribution function."""

    def complement(self, t: Array) -> Array:
        """Return 1 − p, which is the link of −t."""
        return self.link(-t)

    @property
    def bound(self) -> float:
        return 1.0

    def on_curve(self, anywhere: Callable, solved: Callable[[Curve], Any]) -> Any:
        return solved(Shift(self))
