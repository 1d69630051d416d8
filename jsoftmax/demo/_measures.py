"""How good predicted probabilities are: p of shape [examples, classes] against true labels."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Measures:
    """What the table says about a classifier."""

    accuracy: float
    brier: float
    surprise: float
    infinite: int
    calibration: float
    support: float

    @classmethod
    def of(cls, p: np.ndarray, labels: np.ndarray) -> Measures:
        """All of them at once."""
        p = np.asarray(p, np.float64)
        of_label = p[np.arange(len(labels)), labels]
        possible = of_label > 0
        return cls(
            accuracy=float((p.argmax(-1) == labels).mean()),
            brier=float(((p - np.eye(p.shape[-1])[labels]) ** 2).sum(-1).mean()),
            surprise=float(-np.log(of_label[possible]).mean()) if possible.any() else np.inf,
            infinite=int((~possible).sum()),
            calibration=calibration_error(p, labels),
            support=float((p > 0).sum(-1).mean()),
        )


def calibration_error(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """How far confidence is from accuracy: Σ share of a bin × |mean confidence − accuracy|.

    A bin holds the examples whose largest probability lies between k/bins and (k+1)/bins.
    """
    confidence = p.max(-1)
    surplus = confidence - (p.argmax(-1) == labels)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(which, surplus, bins)).sum() / len(labels))
