"""Keys, scores → samples; distributions."""

from jsoftmax.sampling._alias import AliasTable
from jsoftmax.sampling._categorical import Categorical
from jsoftmax.sampling._exact import categorical, sample_from
from jsoftmax.sampling._gumbel_argmax import gumbel_argmax
from jsoftmax.sampling._relaxed_categorical import RelaxedCategorical

__all__ = [
    "AliasTable",
    "Categorical",
    "RelaxedCategorical",
    "categorical",
    "gumbel_argmax",
    "sample_from",
]
