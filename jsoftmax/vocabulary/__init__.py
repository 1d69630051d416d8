"""Features, class table → losses, classes and draws without the full row."""

from jsoftmax.vocabulary._linear_categorical import linear_categorical
from jsoftmax.vocabulary._linear_cross_entropy import (
    CrossEntropyTerms,
    linear_cross_entropy,
    linear_cross_entropy_terms,
)
from jsoftmax.vocabulary._linear_cross_entropy_sum import linear_cross_entropy_sum
from jsoftmax.vocabulary._linear_entmax_loss import linear_entmax_loss
from jsoftmax.vocabulary._linear_topk import LinearTopK, linear_topk

__all__ = [
    "CrossEntropyTerms",
    "LinearTopK",
    "linear_categorical",
    "linear_cross_entropy",
    "linear_cross_entropy_sum",
    "linear_cross_entropy_terms",
    "linear_entmax_loss",
    "linear_topk",
]
