"""Kernels of attention: scores, threshold and mixture of a block of queries on the chip."""

from jsoftmax.kernels.attention._backward import SHIFT
from jsoftmax.kernels.attention._cotangents import key_cotangents, query_cotangents
from jsoftmax.kernels.attention._forward import ROWS
from jsoftmax.kernels.attention._mixtures import mixtures
from jsoftmax.kernels.attention._row import FORMED, MASS, UNFORMED
from jsoftmax.kernels.attention._sizes import KEPT, Sizes, may_be_sparse, sizes
from jsoftmax.kernels.attention._spec import ALL, Arrays, Spec

__all__ = [
    "ALL",
    "FORMED",
    "KEPT",
    "MASS",
    "ROWS",
    "SHIFT",
    "UNFORMED",
    "Arrays",
    "Sizes",
    "Spec",
    "key_cotangents",
    "may_be_sparse",
    "mixtures",
    "query_cotangents",
    "sizes",
]
