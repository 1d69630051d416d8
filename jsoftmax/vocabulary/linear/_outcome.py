"""The results of a token."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array


class Outcome(NamedTuple):
    """Results per token; statistics are None where the rule leaves them out."""

    loss: Array
    log_partition: Array | None
    entropy: Array | None
    weight: Array | None = None  # Σ w y, a constant
    rank: Array | None = None  # the number of classes with a larger score than the label, as float
