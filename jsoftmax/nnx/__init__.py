"""Flax NNX modules: parameters and state around the functions; twins of jsoftmax.linen."""

try:
    import flax as _flax
except ModuleNotFoundError as missing:
    if missing.name != "flax":
        raise
    raise ImportError(
        "jsoftmax.nnx needs Flax: pip install flax. The functions of jsoftmax work without it."
    ) from None

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
from jsoftmax.nnx._router import (
    Router,
)
from jsoftmax.nnx._sampled_softmax import (
    SampledSoftmax,
)
from jsoftmax.nnx._scalable_attention import (
    ScalableAttention,
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
    "Router",
    "SampledSoftmax",
    "ScalableAttention",
]

del _flax
