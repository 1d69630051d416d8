"""jsoftmax: everything that descends from softmax, in JAX.

Mappings turn scores into probabilities; losses compare scores with targets; samplers draw classes
and relax them; attention mixes values by any mapping. Their names are flat: `jsoftmax.entmax`.
Losses over large vocabularies are in `jsoftmax.vocabulary`, policies in `jsoftmax.policies`,
measures of trust in probabilities, and their repair, in `jsoftmax.calibration`; the names of these
three that are not too general are flat too. All are pure functions that work under `jit`, `vmap`
and `grad`. Flax modules around them are in `jsoftmax.nnx` and `jsoftmax.linen`, an estimator for
scikit-learn in `jsoftmax.estimators`, assertions for tests in `jsoftmax.testing`; these four are
imported when they are first named.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from jsoftmax.attention import (
    attention_fn,
    attention_skipped_share,
    attention_weights,
    dot_product_attention,
    merge_attention,
    paged_attention,
    ring_attention,
)
from jsoftmax.calibration import (
    brier_score,
    classwise_calibration_error,
    conformal_sets,
    conformal_threshold,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_diagram,
    temperature_scaling,
    vector_scaling,
)
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import Elastic, FermiDirac, JensenShannon, Laplace, Tsallis
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
    regularized_argmax,
    smoothmax,
    soft_argmax,
    softmax,
    softmin,
    sparsemax,
    topk_entmax,
    topk_sigmoid,
)
from jsoftmax.policies import (
    mellowmax,
    mellowmax_temperature,
    sample_action,
)
from jsoftmax.sampling import (
    AliasTable,
    Categorical,
    GumbelTopK,
    RelaxedCategorical,
    categorical,
    concrete_log_prob,
    decoupled_straight_through,
    exp_concrete_log_prob,
    gumbel_argmax,
    gumbel_entmax,
    gumbel_log_softmax,
    gumbel_rao,
    gumbel_softmax,
    gumbel_topk,
    reinforce_leave_one_out,
    reinmax,
    reinmax_rao,
    relaxed_topk,
    sample_from,
    straight_through,
    straight_through_categorical,
    straight_through_gumbel,
)
from jsoftmax.vocabulary import (
    adaptive_cross_entropy,
    adaptive_log_softmax,
    hierarchical_categorical,
    hierarchical_cross_entropy,
    hierarchical_entropy,
    hierarchical_log_prob,
    hierarchical_log_prob_of_rows,
    hierarchical_log_softmax,
    hierarchical_topk,
    huffman_tree,
    linear_categorical,
    linear_cross_entropy,
    linear_cross_entropy_sum,
    linear_cross_entropy_terms,
    linear_entmax_loss,
    linear_fenchel_young_loss,
    linear_topk,
    nce_loss,
    negative_sampling_loss,
    sampled_softmax_loss,
)

if TYPE_CHECKING:
    from jsoftmax import estimators as estimators
    from jsoftmax import linen as linen
    from jsoftmax import nnx as nnx
    from jsoftmax import testing as testing

__version__ = "0.1.0"

# Imported when they are first named, since each needs a package that the functions do not.
_LAZY = {
    "estimators": "sklearn",
    "kernels": "jax",
    "linen": "flax",
    "nnx": "flax",
    "testing": "chex",
}

__all__ = [
    "AliasTable",
    "Categorical",
    "Elastic",
    "FermiDirac",
    "GumbelTopK",
    "JensenShannon",
    "Laplace",
    "PartialLogSumExp",
    "Regularizer",
    "RelaxedCategorical",
    "SparseEntmax",
    "Tsallis",
    "adaptive_cross_entropy",
    "adaptive_log_softmax",
    "attention_fn",
    "attention_skipped_share",
    "attention_weights",
    "binary_entmax",
    "boltzmann",
    "brier_score",
    "capped_entmax",
    "categorical",
    "classwise_calibration_error",
    "concrete_log_prob",
    "conformal_sets",
    "conformal_threshold",
    "cross_entropy",
    "decoupled_straight_through",
    "dot_product_attention",
    "entmax",
    "entmax_loss",
    "entmax_sparse",
    "entropy",
    "exp_concrete_log_prob",
    "expected_calibration_error",
    "fenchel_young_loss",
    "free_energy",
    "gumbel_argmax",
    "gumbel_entmax",
    "gumbel_log_softmax",
    "gumbel_rao",
    "gumbel_softmax",
    "gumbel_topk",
    "hardmax",
    "heat_capacity",
    "hierarchical_categorical",
    "hierarchical_cross_entropy",
    "hierarchical_entropy",
    "hierarchical_log_prob",
    "hierarchical_log_prob_of_rows",
    "hierarchical_log_softmax",
    "hierarchical_topk",
    "huffman_tree",
    "linear_categorical",
    "linear_cross_entropy",
    "linear_cross_entropy_sum",
    "linear_cross_entropy_terms",
    "linear_entmax_loss",
    "linear_fenchel_young_loss",
    "linear_topk",
    "log_partition",
    "log_softmax",
    "logsumexp",
    "maximum_calibration_error",
    "mean_energy",
    "mellowmax",
    "mellowmax_temperature",
    "merge_attention",
    "nce_loss",
    "negative_sampling_loss",
    "normmax",
    "normmax_loss",
    "paged_attention",
    "regularized_argmax",
    "reinforce_leave_one_out",
    "reinmax",
    "reinmax_rao",
    "relaxed_topk",
    "reliability_diagram",
    "ring_attention",
    "sample_action",
    "sample_from",
    "sampled_softmax_loss",
    "smoothmax",
    "soft_argmax",
    "softmax",
    "softmin",
    "sparsemax",
    "sparsemax_loss",
    "straight_through",
    "straight_through_categorical",
    "straight_through_gumbel",
    "temperature_scaling",
    "topk_entmax",
    "topk_entmax_loss",
    "topk_sigmoid",
    "vector_scaling",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    found = {name for name, package in _LAZY.items() if importlib.util.find_spec(package)}
    return sorted({*globals(), *found})
