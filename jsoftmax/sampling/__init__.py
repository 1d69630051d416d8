"""Keys, scores → samples: exact, relaxed, one-hot with a gradient; distributions."""

from jsoftmax.sampling._alias import AliasTable
from jsoftmax.sampling._categorical import categorical, sample_from
from jsoftmax.sampling._categorical_distribution import Categorical
from jsoftmax.sampling._concrete import concrete_log_prob, exp_concrete_log_prob
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

__all__ = [
    "AliasTable",
    "Categorical",
    "GumbelTopK",
    "RelaxedCategorical",
    "categorical",
    "concrete_log_prob",
    "decoupled_straight_through",
    "exp_concrete_log_prob",
    "gumbel_argmax",
    "gumbel_entmax",
    "gumbel_log_softmax",
    "gumbel_rao",
    "gumbel_softmax",
    "gumbel_topk",
    "reinforce_leave_one_out",
    "reinmax",
    "reinmax_rao",
    "relaxed_topk",
    "sample_from",
    "straight_through",
    "straight_through_categorical",
    "straight_through_gumbel",
]
