"""Features, class table → losses, classes and draws without the full row."""

from jsoftmax.vocabulary._class_tree import ClassTree
from jsoftmax.vocabulary._hierarchical_categorical import hierarchical_categorical
from jsoftmax.vocabulary._hierarchical_log_prob import (
    hierarchical_cross_entropy,
    hierarchical_log_prob,
    hierarchical_log_prob_of_rows,
)
from jsoftmax.vocabulary._hierarchical_log_softmax import (
    hierarchical_entropy,
    hierarchical_log_softmax,
)
from jsoftmax.vocabulary._hierarchical_topk import HierarchicalTopK, hierarchical_topk
from jsoftmax.vocabulary._huffman_tree import huffman_tree
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
from jsoftmax.vocabulary._trees import balanced_tree, class_tree, kary_tree, two_level_tree

__all__ = [
    "ClassTree",
    "CrossEntropyTerms",
    "HierarchicalTopK",
    "LinearTopK",
    "RowOptimizer",
    "RowState",
    "balanced_tree",
    "class_tree",
    "hierarchical_categorical",
    "hierarchical_cross_entropy",
    "hierarchical_entropy",
    "hierarchical_log_prob",
    "hierarchical_log_prob_of_rows",
    "hierarchical_log_softmax",
    "hierarchical_topk",
    "huffman_tree",
    "kary_tree",
    "linear_categorical",
    "linear_cross_entropy",
    "linear_cross_entropy_sum",
    "linear_cross_entropy_terms",
    "linear_entmax_loss",
    "linear_topk",
    "row_adagrad",
    "row_adam",
    "row_sgd",
    "two_level_tree",
]
