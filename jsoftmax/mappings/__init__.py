"""Mappings from scores to probabilities."""

from jsoftmax.mappings._boltzmann import (
    boltzmann,
    free_energy,
    heat_capacity,
    log_partition,
    mean_energy,
)
from jsoftmax.mappings._capped import capped_entmax, topk_entmax, topk_sigmoid
from jsoftmax.mappings._entmax import binary_entmax, entmax, entropy, smoothmax, sparsemax
from jsoftmax.mappings._logsumexp import PartialLogSumExp, logsumexp
from jsoftmax.mappings._normmax import normmax
from jsoftmax.mappings._regularized_argmax import regularized_argmax
from jsoftmax.mappings._soft_argmax import soft_argmax
from jsoftmax.mappings._softmax import hardmax, log_softmax, softmax, softmin
from jsoftmax.mappings._sparse import SparseEntmax, entmax_sparse

__all__ = [
    "PartialLogSumExp",
    "SparseEntmax",
    "binary_entmax",
    "boltzmann",
    "capped_entmax",
    "entmax",
    "entmax_sparse",
    "entropy",
    "free_energy",
    "hardmax",
    "heat_capacity",
    "log_partition",
    "log_softmax",
    "logsumexp",
    "mean_energy",
    "normmax",
    "regularized_argmax",
    "smoothmax",
    "soft_argmax",
    "softmax",
    "softmin",
    "sparsemax",
    "topk_entmax",
    "topk_sigmoid",
]
