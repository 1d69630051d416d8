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
from jsoftmax.vocabulary._row_updates import (
    RowOptimizer,
    RowState,
    row_adagrad,
    row_adam,
    row_sgd,
)

__all__ = [
    "CrossEntropyTerms",
    "LinearTopK",
    "RowOptimizer",
    "RowState",
    "linear_categorical",
    "linear_cross_entropy",
    "linear_cross_entropy_sum",
    "linear_cross_entropy_terms",
    "linear_entmax_loss",
    "linear_topk",
    "row_adagrad",
    "row_adam",
    "row_sgd",
]
