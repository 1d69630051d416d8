"""Flax Linen modules: parameters around the functions; twins of jsoftmax.nnx."""

try:
    import flax as _flax
except ModuleNotFoundError as missing:
    if missing.name != "flax":
        raise
    raise ImportError(
        "jsoftmax.linen needs Flax: pip install flax. The functions of jsoftmax work without it."
    ) from None

from jsoftmax.linen._attention import (
    AdaptivelySparseAttention,
)
from jsoftmax.linen._bands import (
    AdaptiveSoftmax,
    DifferentiatedSoftmax,
)
from jsoftmax.linen._entmax import (
    Entmax,
)
from jsoftmax.linen._gumbel_softmax import (
    GumbelSoftmax,
)
from jsoftmax.linen._hierarchical import (
    HierarchicalSoftmax,
)
from jsoftmax.linen._linear_softmax import (
    LinearSoftmax,
)
from jsoftmax.linen._readout import (
    EntmaxReadout,
)
from jsoftmax.linen._router import (
    Router,
)
from jsoftmax.linen._sampled_softmax import (
    SampledSoftmax,
)
from jsoftmax.linen._scalable_attention import (
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
