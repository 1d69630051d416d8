"""Measures of predicted probabilities, p of shape [examples, classes], against true labels."""

from __future__ import annotations

import dataclasses

import numpy as np

from jsoftmax import brier_score, expected_calibration_error

BINS = 10  # of confidence


@dataclasses.dataclass(frozen=True)
class Measures:
    """The measures of a classifier in the tables."""

    accuracy: float
    brier: float
    surprise: float
    infinite: int
    calibration: float
    support: float

    @classmethod
    def of(cls, p: np.ndarray, labels: np.ndarray) -> Measures:
        """Compute all measures."""
        p = np.asarray(p, np.float64)
        of_label = p[np.arange(len(labels)), labels]
        possible = of_label > 0
        return cls(
            accuracy=float((p.argmax(-1) == labels).mean()),
            brier=float(brier_score(p, labels).mean()),
            surprise=float(-np.log(of_label[possible]).mean()) if possible.any() else np.inf,
            infinite=int((~possible).sum()),
            calibration=float(expected_calibration_error(p, labels, BINS)),
            support=float((p > 0).sum(-1).mean()),
        )
