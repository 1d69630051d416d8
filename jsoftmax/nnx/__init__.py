"""Flax NNX modules: parameters and state around the functions; twins of jsoftmax.linen."""

from jsoftmax.nnx._attention import (
    AdaptivelySparseAttention,
)
from jsoftmax.nnx._bands import (
    AdaptiveSoftmax,
    DifferentiatedSoftmax,
)
from jsoftmax.nnx._entmax import (
    Entmax,
)
from jsoftmax.nnx._gumbel_softmax import (
    GumbelSoftmax,
)
from jsoftmax.nnx._hierarchical import (
    HierarchicalSoftmax,
)
from jsoftmax.nnx._linear_softmax import (
    LinearSoftmax,
)
from jsoftmax.nnx._readout import (
    EntmaxReadout,
)
from jsoftmax.nnx._sampled_softmax import (
    SampledSoftmax,
)

__all__ = [
    "AdaptiveSoftmax",
    "AdaptivelySparseAttention",
    "DifferentiatedSoftmax",
    "Entmax",
    "EntmaxReadout",
    "GumbelSoftmax",
    "HierarchicalSoftmax",
    "LinearSoftmax",
    "SampledSoftmax",
]
