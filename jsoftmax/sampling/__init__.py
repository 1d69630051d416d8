"""Keys, scores → samples."""

from jsoftmax.sampling._alias import AliasTable
from jsoftmax.sampling._exact import categorical, sample_from
from jsoftmax.sampling._gumbel_argmax import gumbel_argmax

__all__ = [
    "AliasTable",
    "categorical",
    "gumbel_argmax",
    "sample_from",
]
