"""Estimators with scikit-learn's conventions; they need the extra `sklearn`."""

try:
    import sklearn as _sklearn
except ModuleNotFoundError as missing:
    if missing.name != "sklearn":
        raise
    raise ImportError(
        'jsoftmax.estimators needs scikit-learn: pip install "jsoftmax[sklearn]"'
    ) from None

from jsoftmax.estimators._regression import SoftmaxRegression

__all__ = ["SoftmaxRegression"]

del _sklearn
