"""The results of a token."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array


class Outcome(NamedTuple):
    """The results of a token; the statistics are None where the rule leaves them out."""

    loss: Array
    log_partition: Array | None
    entropy: Array | None
    weight: Array | None = None  # Σ w y, in which nothing moves
    rank: Array | None = None  # how many classes have a larger score than the label, in floats
