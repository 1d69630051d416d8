"""Features, class table → losses, classes and draws without the full row."""

from jsoftmax.vocabulary._topk import TopK
from jsoftmax.vocabulary.bands._adaptive import (
    adaptive_cross_entropy,
    adaptive_log_softmax,
    adaptive_topk,
)
from jsoftmax.vocabulary.bands._adaptive_table import AdaptiveTables, adaptive_tables
from jsoftmax.vocabulary.bands._band_embedding import band_embedding
from jsoftmax.vocabulary.bands._bands import Band
from jsoftmax.vocabulary.bands._cutoffs import adaptive_cutoffs
from jsoftmax.vocabulary.bands._differentiated import (
    differentiated_cross_entropy,
    differentiated_log_softmax,
    differentiated_tables,
    differentiated_topk,
)
from jsoftmax.vocabulary.contrastive._contrastive_loss import contrastive_loss
from jsoftmax.vocabulary.contrastive._sigmoid_contrastive_loss import sigmoid_contrastive_loss
from jsoftmax.vocabulary.linear._linear_categorical import linear_categorical
from jsoftmax.vocabulary.linear._linear_cross_entropy import (
    CrossEntropyTerms,
    linear_cross_entropy,
    linear_cross_entropy_terms,
)
from jsoftmax.vocabulary.linear._linear_cross_entropy_sum import linear_cross_entropy_sum
from jsoftmax.vocabulary.linear._linear_entmax_loss import linear_entmax_loss
from jsoftmax.vocabulary.linear._linear_fenchel_young_loss import linear_fenchel_young_loss
from jsoftmax.vocabulary.linear._linear_kl_divergence import linear_kl_divergence
from jsoftmax.vocabulary.linear._linear_kl_divergence_from_topk import (
    linear_kl_divergence_from_topk,
)
from jsoftmax.vocabulary.linear._linear_log_prob import (
    LogProbTerms,
    linear_log_prob,
    linear_log_prob_terms,
)
from jsoftmax.vocabulary.linear._linear_sample_token import linear_sample_token
from jsoftmax.vocabulary.linear._linear_topk import linear_topk
from jsoftmax.vocabulary.row_updates._row_optimizer import RowOptimizer, RowState
from jsoftmax.vocabulary.row_updates._row_updates import row_adagrad, row_adam, row_sgd
from jsoftmax.vocabulary.sampled._candidates import Candidates, in_batch_candidates
from jsoftmax.vocabulary.sampled._class_sampler import ClassSampler, uniform_sampler
from jsoftmax.vocabulary.sampled._gathered_classes import GatheredClasses, gathered_classes
from jsoftmax.vocabulary.sampled._nce_loss import nce_loss, negative_sampling_loss
from jsoftmax.vocabulary.sampled._sampled_softmax_loss import (
    importance_sampling_loss,
    sampled_softmax_loss,
)
from jsoftmax.vocabulary.sampled._target_sampling_loss import (
    TargetPartitions,
    target_partitions,
    target_sampling_loss,
)
from jsoftmax.vocabulary.sampled._weighted_samplers import log_uniform_sampler, unigram_sampler
from jsoftmax.vocabulary.trees._class_tree import ClassTree
from jsoftmax.vocabulary.trees._hierarchical_categorical import hierarchical_categorical
from jsoftmax.vocabulary.trees._hierarchical_log_prob import (
    hierarchical_cross_entropy,
    hierarchical_log_prob,
    hierarchical_log_prob_of_rows,
)
from jsoftmax.vocabulary.trees._hierarchical_log_softmax import (
    hierarchical_entropy,
    hierarchical_log_softmax,
)
from jsoftmax.vocabulary.trees._hierarchical_topk import hierarchical_topk
from jsoftmax.vocabulary.trees._huffman_tree import huffman_tree
from jsoftmax.vocabulary.trees._trees import (
    balanced_tree,
    class_tree,
    kary_tree,
    two_level_tree,
)

__all__ = [
    "AdaptiveTables",
    "Band",
    "Candidates",
    "ClassSampler",
    "ClassTree",
    "CrossEntropyTerms",
    "GatheredClasses",
    "LogProbTerms",
    "RowOptimizer",
    "RowState",
    "TargetPartitions",
    "TopK",
    "adaptive_cross_entropy",
    "adaptive_cutoffs",
    "adaptive_log_softmax",
    "adaptive_tables",
    "adaptive_topk",
    "balanced_tree",
    "band_embedding",
    "class_tree",
    "contrastive_loss",
    "differentiated_cross_entropy",
    "differentiated_log_softmax",
    "differentiated_tables",
    "differentiated_topk",
    "gathered_classes",
    "hierarchical_categorical",
    "hierarchical_cross_entropy",
    "hierarchical_entropy",
    "hierarchical_log_prob",
    "hierarchical_log_prob_of_rows",
    "hierarchical_log_softmax",
    "hierarchical_topk",
    "huffman_tree",
    "importance_sampling_loss",
    "in_batch_candidates",
    "kary_tree",
    "linear_categorical",
    "linear_cross_entropy",
    "linear_cross_entropy_sum",
    "linear_cross_entropy_terms",
    "linear_entmax_loss",
    "linear_fenchel_young_loss",
    "linear_kl_divergence",
    "linear_kl_divergence_from_topk",
    "linear_log_prob",
    "linear_log_prob_terms",
    "linear_sample_token",
    "linear_topk",
    "log_uniform_sampler",
    "nce_loss",
    "negative_sampling_loss",
    "row_adagrad",
    "row_adam",
    "row_sgd",
    "sampled_softmax_loss",
    "sigmoid_contrastive_loss",
    "target_partitions",
    "target_sampling_loss",
    "two_level_tree",
    "uniform_sampler",
    "unigram_sampler",
]
