"""What is asked of a token, and what is kept of its row."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array


class Outcome(NamedTuple):
    """What is asked of a token; the statistics are None where the rule leaves them out."""

    loss: Array
    log_partition: Array | None
    entropy: Array | None


class Found(NamedTuple):
    """What is known of a row once it is solved: from this its p are computed again."""

    tau: Array  # the threshold, at α = 1 the log-partition
    floor: Array  # the largest score; where α is ∞, one that only the largest reach
    anchor: Array  # the score from which the others are measured,
    level: Array  # and its log-mass
    rest: Array  # the mass of all classes but the label, or but the one that has almost all
    weight: Array  # Σ w y
