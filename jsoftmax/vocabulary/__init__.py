"""Features, class table → losses, classes and draws without the full row."""

from jsoftmax.vocabulary._adaptive import (
    adaptive_cross_entropy,
    adaptive_log_softmax,
    adaptive_topk,
)
from jsoftmax.vocabulary._adaptive_tables import AdaptiveTables, adaptive_tables
from jsoftmax.vocabulary._band_embedding import band_embedding
from jsoftmax.vocabulary._band_topk import BandTopK
from jsoftmax.vocabulary._bands import Band
from jsoftmax.vocabulary._cutoffs import adaptive_cutoffs
from jsoftmax.vocabulary._differentiated import (
    differentiated_cross_entropy,
    differentiated_log_softmax,
    differentiated_tables,
    differentiated_topk,
)
from jsoftmax.vocabulary._linear_categorical import linear_categorical
from jsoftmax.vocabulary._linear_cross_entropy import (
    CrossEntropyTerms,
    linear_cross_entropy,
    linear_cross_entropy_terms,
)
from jsoftmax.vocabulary._linear_cross_entropy_sum import linear_cross_entropy_sum
from jsoftmax.vocabulary._linear_entmax_loss import linear_entmax_loss
from jsoftmax.vocabulary._linear_topk import LinearTopK, linear_topk
from jsoftmax.vocabulary._row_optimizer import RowOptimizer, RowState
from jsoftmax.vocabulary._row_updates import row_adagrad, row_adam, row_sgd

__all__ = [
    "AdaptiveTables",
    "Band",
    "BandTopK",
    "CrossEntropyTerms",
    "LinearTopK",
    "RowOptimizer",
    "RowState",
    "adaptive_cross_entropy",
    "adaptive_cutoffs",
    "adaptive_log_softmax",
    "adaptive_tables",
    "adaptive_topk",
    "band_embedding",
    "differentiated_cross_entropy",
    "differentiated_log_softmax",
    "differentiated_tables",
    "differentiated_topk",
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
