"""Measure calibration on held-out labels, recalibrate, and predict conformal sets."""

from jsoftmax.calibration._adaptive_sets import aps_scores, lac_scores
from jsoftmax.calibration._bins import Reliability
from jsoftmax.calibration._brier import brier_score
from jsoftmax.calibration._classwise import classwise_calibration_error
from jsoftmax.calibration._conformal import conformal_sets, conformal_threshold
from jsoftmax.calibration._dirichlet import DirichletCalibration, dirichlet_calibration
from jsoftmax.calibration._matrix import MatrixScaling, matrix_scaling
from jsoftmax.calibration._reliability import (
    expected_calibration_error,
    maximum_calibration_error,
    reliability_diagram,
)
from jsoftmax.calibration._support import entmax_scores
from jsoftmax.calibration._temperature import temperature_scaling
from jsoftmax.calibration._vector import VectorScaling, vector_scaling

__all__ = [
    "DirichletCalibration",
    "MatrixScaling",
    "Reliability",
    "VectorScaling",
    "aps_scores",
    "brier_score",
    "classwise_calibration_error",
    "conformal_sets",
    "conformal_threshold",
    "dirichlet_calibration",
    "entmax_scores",
    "expected_calibration_error",
    "lac_scores",
    "matrix_scaling",
    "maximum_calibration_error",
    "reliability_diagram",
    "temperature_scaling",
    "vector_scaling",
]
