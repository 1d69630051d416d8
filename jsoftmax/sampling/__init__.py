"""Sampling from scores: exact, truncated, relaxed, and one-hot with a gradient."""

from jsoftmax.sampling._alias import AliasTable
from jsoftmax.sampling._categorical import categorical, sample_from
from jsoftmax.sampling._categorical_distribution import Categorical
from jsoftmax.sampling._concrete import concrete_log_prob, exp_concrete_log_prob
from jsoftmax.sampling._controlled import reinmax_cv
from jsoftmax.sampling._corrected import gumbel_rao, reinmax, reinmax_rao
from jsoftmax.sampling._gumbel_argmax import gumbel_argmax
from jsoftmax.sampling._reinforce import reinforce_leave_one_out
from jsoftmax.sampling._relaxed import gumbel_entmax, gumbel_log_softmax, gumbel_softmax
from jsoftmax.sampling._relaxed_categorical import RelaxedCategorical
from jsoftmax.sampling._straight_through import (
    decoupled_straight_through,
    straight_through,
    straight_through_categorical,
    straight_through_gumbel,
)
from jsoftmax.sampling._subsets import GumbelTopK, gumbel_topk, relaxed_topk
from jsoftmax.sampling.truncation import (
    SampledToken,
    Speculation,
    eta_mask,
    min_p_mask,
    penalized_logits,
    residual_probabilities,
    sample_token,
    speculative_sample,
    token_counts,
    top_k_mask,
    top_n_sigma_mask,
    top_p_mask,
    typical_mask,
)

__all__ = [
    "AliasTable",
    "Categorical",
    "GumbelTopK",
    "RelaxedCategorical",
    "SampledToken",
    "Speculation",
    "categorical",
    "concrete_log_prob",
    "decoupled_straight_through",
    "eta_mask",
    "exp_concrete_log_prob",
    "gumbel_argmax",
    "gumbel_entmax",
    "gumbel_log_softmax",
    "gumbel_rao",
    "gumbel_softmax",
    "gumbel_topk",
    "min_p_mask",
    "penalized_logits",
    "reinforce_leave_one_out",
    "reinmax",
    "reinmax_cv",
    "reinmax_rao",
    "relaxed_topk",
    "residual_probabilities",
    "sample_from",
    "sample_token",
    "speculative_sample",
    "straight_through",
    "straight_through_categorical",
    "straight_through_gumbel",
    "token_counts",
    "top_k_mask",
    "top_n_sigma_mask",
    "top_p_mask",
    "typical_mask",
]
