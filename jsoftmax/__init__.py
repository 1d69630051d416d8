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
from jsoftmax.policies import (
    epsilon_mixture,
    importance_ratio,
    kl_divergence,
    log_importance_ratio,
    log_prob,
    mellowmax,
    mellowmax_temperature,
    sample_action,
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
    "epsilon_mixture",
    "fenchel_young_loss",
    "free_energy",
    "hardmax",
    "heat_capacity",
    "importance_ratio",
    "kl_divergence",
    "log_importance_ratio",
    "log_partition",
    "log_prob",
    "log_softmax",
    "logsumexp",
    "mean_energy",
    "mellowmax",
    "mellowmax_temperature",
    "normmax",
    "normmax_loss",
    "sample_action",
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
