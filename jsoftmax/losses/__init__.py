"""Losses of scores against targets."""

from jsoftmax.losses._cross_entropy import cross_entropy
from jsoftmax.losses._fenchel_young import entmax_loss, fenchel_young_loss, sparsemax_loss
from jsoftmax.losses._normmax_loss import normmax_loss
from jsoftmax.losses._topk_entmax_loss import topk_entmax_loss

__all__ = [
    "cross_entropy",
    "entmax_loss",
    "fenchel_young_loss",
    "normmax_loss",
    "sparsemax_loss",
    "topk_entmax_loss",
]
