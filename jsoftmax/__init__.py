"""jsoftmax: everything that descends from softmax, in JAX.

Mappings turn scores into probabilities; losses compare scores with targets. All are pure functions
that work under `jit`, `vmap` and `grad`. Flax modules around them are in `jsoftmax.nnx` and
`jsoftmax.linen`, which are imported only when asked for.
"""

from jsoftmax.losses import (
    cross_entropy,
    entmax_loss,
    fenchel_young_loss,
    normmax_loss,
    sparsemax_loss,
    topk_entmax_loss,
)
from jsoftmax.mappings import (
    PartialLogSumExp,
    SparseEntmax,
    binary_entmax,
    boltzmann,
    capped_entmax,
    entmax,
    entmax_sparse,
    entropy,
    free_energy,
    hardmax,
    heat_capacity,
    log_partition,
    log_softmax,
    logsumexp,
    mean_energy,
    normmax,
    smoothmax,
    soft_argmax,
    softmax,
    softmin,
    sparsemax,
    topk_entmax,
    topk_sigmoid,
)

__version__ = "0.1.0"

__all__ = [
    "PartialLogSumExp",
    "SparseEntmax",
    "binary_entmax",
    "boltzmann",
    "capped_entmax",
    "cross_entropy",
    "entmax",
    "entmax_loss",
    "entmax_sparse",
    "entropy",
    "fenchel_young_loss",
    "free_energy",
    "hardmax",
    "heat_capacity",
    "log_partition",
    "log_softmax",
    "logsumexp",
    "mean_energy",
    "normmax",
    "normmax_loss",
    "smoothmax",
    "soft_argmax",
    "softmax",
    "softmin",
    "sparsemax",
    "sparsemax_loss",
    "topk_entmax",
    "topk_entmax_loss",
    "topk_sigmoid",
]
