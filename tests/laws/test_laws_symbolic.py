"""Sizes that are unknown when a function is exported: its program serves every size.

A program exported with `jax.export.symbolic_shape` equals the direct call at three sizes.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.marks import some

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TREE = jax.tree.map(jnp.asarray, js.huffman_tree(np.arange(1, 9)))
WIDE = jax.tree.map(jnp.asarray, js.vocabulary.kary_tree(8, 3))
ADAPTIVE = js.vocabulary.adaptive_tables(KEY, 6, 12, [4, 8], use_bias=True)
BANDS = js.vocabulary.differentiated_tables(KEY, 6, 12, [4, 8])
KERNEL = jnp.asarray(RNG.standard_normal((6, 12)))


@dataclasses.dataclass(frozen=True)
class Operand:
    """An array of a symbolic shape: numbers, or distributions, or labels below a number."""

    shape: str
    kind: str = "numbers"
    classes: int = 8

    def array(self, sizes: dict[str, int]) -> Any:
        rng = np.random.default_rng(sizes["n"])
        shape = [sizes[d] if d in sizes else int(d) for d in self.shape.split(", ")]
        if self.kind == "labels":
            return jnp.asarray(rng.integers(0, self.classes, shape), jnp.int32)
        if self.kind == "shares":
            return jnp.asarray(rng.dirichlet(np.ones(shape[-1]), shape[:-1]))
        return jnp.asarray(rng.standard_normal(shape))


Z, P, Y = Operand("n, 8"), Operand("n, 8", "shares"), Operand("n", "labels")
ZK, PK = Operand("n, k"), Operand("n, k", "shares")
H, T12 = Operand("n, 6"), Operand("n", "labels", 12)

CALLS: dict[str, tuple[Callable[..., Any], tuple[Operand, ...]]] = {
    # Linear losses of two models.
    "linear_log_prob": (lambda h, y: js.linear_log_prob(h, KERNEL, y), (H, T12)),
    "linear_log_prob_terms": (lambda h, y: js.linear_log_prob_terms(h, KERNEL, y), (H, T12)),
    "linear_kl_divergence": (
        lambda h: js.linear_kl_divergence(h, KERNEL, 2 * h, KERNEL), (H,)
    ),
    "linear_kl_divergence_from_topk": (
        lambda h, y: js.linear_kl_divergence_from_topk(
            h, KERNEL, y[:, None], jnp.full((y.shape[0], 1), -1.0)
        ),
        (H, T12),
    ),
    # Trees.
    "hierarchical_log_prob": (
        lambda h, y: js.hierarchical_log_prob(h, jnp.ones((7, 6)), TREE, y), (H, Y)
    ),
    "hierarchical_cross_entropy, wide": (
        lambda h, y: js.hierarchical_cross_entropy(h, jnp.ones((11, 6)), WIDE, y), (H, Y)
    ),
    "hierarchical_log_prob_of_rows": (
        lambda h, rows, y: js.hierarchical_log_prob_of_rows(h, rows, TREE, y),
        (H, Operand(f"n, {TREE.path_rows}, 6"), Y),
    ),
    "hierarchical_log_softmax": (
        lambda h: js.hierarchical_log_softmax(h, jnp.ones((7, 6)), TREE), (H,)
    ),
    "hierarchical_entropy": (lambda h: js.hierarchical_entropy(h, jnp.ones((7, 6)), TREE), (H,)),
    "hierarchical_topk": (lambda h: js.hierarchical_topk(h, _nodes(), TREE, 3), (H,)),
    "hierarchical_categorical": (
        lambda h: js.hierarchical_categorical(KEY, h, _nodes(), TREE), (H,)
    ),
    # Bands.
    "adaptive_cross_entropy": (lambda h, y: js.adaptive_cross_entropy(h, ADAPTIVE, y), (H, T12)),
    "adaptive_log_softmax": (lambda h: js.adaptive_log_softmax(h, ADAPTIVE), (H,)),
    "adaptive_topk": (lambda h: js.vocabulary.adaptive_topk(h, ADAPTIVE, 3), (H,)),
    "differentiated_cross_entropy": (
        lambda h, y: js.vocabulary.differentiated_cross_entropy(h, BANDS, y), (H, T12)
    ),
    "differentiated_log_softmax": (
        lambda h: js.vocabulary.differentiated_log_softmax(h, BANDS), (H,)
    ),
    "differentiated_topk": (lambda h: js.vocabulary.differentiated_topk(h, BANDS, 3), (H,)),
    "band_embedding": (lambda y: js.vocabulary.band_embedding(y, BANDS), (T12,)),
    # Sampled losses.
    "sampled_softmax_loss": (
        lambda h, y: js.sampled_softmax_loss(h, KERNEL, y, _candidates(y)), (H, T12)
    ),
    "importance_sampling_loss": (
        lambda h, y: js.vocabulary.importance_sampling_loss(h, KERNEL, y, _candidates(y)), (H, T12)
    ),
    "nce_loss": (lambda h, y: js.nce_loss(h, KERNEL, y, _candidates(y)), (H, T12)),
    "negative_sampling_loss": (
        lambda h, y: js.negative_sampling_loss(h, KERNEL, y, _candidates(y)), (H, T12)
    ),
    "target_sampling_loss": (
        lambda h, y: js.vocabulary.target_sampling_loss(h, KERNEL, y, jnp.arange(12)), (H, T12)
    ),
    "in_batch_candidates": (
        lambda y, q: js.vocabulary.in_batch_candidates(y, q), (T12, Operand("n"))
    ),
    "contrastive_loss": (js.contrastive_loss, (H, H)),
    "contrastive_loss, α": (lambda q, k: js.contrastive_loss(q, k, alpha=1.5), (H, H)),
    "contrastive_loss, labels": (lambda q, k, y: js.contrastive_loss(q, k, labels=y), (H, H, Y)),
    "sigmoid_contrastive_loss, labels": (
        lambda q, y: js.sigmoid_contrastive_loss(q, q, labels=y, exclude_self=True), (H, Y)
    ),
    "linear_cross_entropy_sum, angles": (
        lambda h, y: js.linear_cross_entropy_sum(
            h, KERNEL, y, normalize=True, angular_margin=0.3
        ), (H, T12)
    ),
    "sigmoid_contrastive_loss": (js.sigmoid_contrastive_loss, (H, H)),
    # Mappings.
    "logsumexp, b": (lambda z: js.logsumexp(z, b=jnp.cos(z), return_sign=True), (ZK,)),
    # Calibration.
    "expected_calibration_error": (js.expected_calibration_error, (P, Y)),
    "expected_calibration_error, equal mass": (
        lambda p, y: js.expected_calibration_error(p, y, 4, equal_mass=True), (P, Y)
    ),
    "classwise_calibration_error": (js.classwise_calibration_error, (P, Y)),
    "reliability_diagram": (js.reliability_diagram, (P, Y)),
    "brier_score": (js.brier_score, (PK, Operand("n", "labels", 4))),
    "brier_score, binary": (js.brier_score, (Operand("n"), Operand("n", "labels", 2))),
    "reliability_diagram, binary": (
        lambda z, y: js.reliability_diagram(jax.nn.sigmoid(z), y),
        (Operand("n"), Operand("n", "labels", 2)),
    ),
    "lac_scores": (js.calibration.lac_scores, (PK,)),
    "aps_scores": (js.calibration.aps_scores, (PK,)),
    "aps_scores, key": (lambda p: js.calibration.aps_scores(p, key=KEY), (PK,)),
    "entmax_scores": (js.calibration.entmax_scores, (ZK,)),
    "conformal_threshold": (js.conformal_threshold, (Z, Y)),
    "conformal_threshold, classes": (
        lambda z, y: js.conformal_threshold(z, y, np.array([0.3, 0.6]), classwise=True), (Z, Y)
    ),
    "conformal_sets, nonempty": (lambda z: js.conformal_sets(z, -9, nonempty=True), (ZK,)),
    "conformal_sets": (lambda z: js.conformal_sets(z, 0.3), (ZK,)),
    "temperature_scaling": (js.temperature_scaling, (Z, Y)),
    "temperature_scaling, α": (lambda z, y: js.temperature_scaling(z, y, alpha=1.5), (Z, Y)),
    "vector_scaling": (lambda z, y: js.vector_scaling(z, y), (Z, Y)),
    "matrix_scaling": (lambda z, y: js.calibration.matrix_scaling(z, y), (Z, Y)),
    "dirichlet_calibration": (lambda p, y: js.calibration.dirichlet_calibration(p, y), (P, Y)),
    # Policies.
    "sample_action": (lambda z: js.sample_action(KEY, z), (Z,)),
    "sample_action, α": (lambda z: js.sample_action(KEY, z, alpha=1.5, epsilon=0.1), (Z,)),
    "log_prob": (js.policies.log_prob, (ZK, Operand("n", "labels", 4))),
    "log_prob, α": (lambda z, y: js.policies.log_prob(z, y, alpha=1.5, epsilon=0.1), (Z, Y)),
    "epsilon_mixture": (lambda p: js.policies.epsilon_mixture(p, 0.1), (PK,)),
    "kl_divergence": (lambda p, z: js.policies.kl_divergence(p, jax.nn.softmax(z)), (PK, ZK)),
    "importance_ratio": (js.policies.importance_ratio, (Operand("n"), Operand("n"))),
    "mellowmax": (js.mellowmax, (ZK,)),
    "mellowmax_temperature": (js.mellowmax_temperature, (ZK,)),
    # Routing.
    "route": (lambda z: js.route(z, 2), (Z,)),
    "route, capacity": (lambda z: js.route(z, 2, score="sigmoid", capacity=0.5), (Z,)),
    # Sampling.
    "categorical": (lambda z: js.categorical(KEY, z), (Z,)),
    "categorical, shape": (lambda z: js.categorical(KEY, z, shape=(3, z.shape[0])), (Z,)),
    "gumbel_argmax": (lambda z: js.gumbel_argmax(KEY, z), (Z,)),
    "sample_from": (lambda p: js.sample_from(KEY, p), (P,)),
    "top_k_mask": (lambda z: js.top_k_mask(z, 2), (ZK,)),
    "top_p_mask": (lambda z: js.top_p_mask(z, 0.9), (ZK,)),
    "min_p_mask": (lambda z: js.min_p_mask(z, 0.1), (ZK,)),
    "top_n_sigma_mask": (lambda z: js.top_n_sigma_mask(z, 1.0), (ZK,)),
    "typical_mask": (lambda z: js.typical_mask(z, 0.9), (ZK,)),
    "eta_mask": (lambda z: js.eta_mask(z, 0.1), (ZK,)),
    "sample_token": (lambda z: js.sample_token(KEY, z, k=3, p=0.9), (Z,)),
    "penalized_logits": (lambda z: js.penalized_logits(z, z > 0, presence=0.1), (ZK,)),
    "token_counts": (lambda y: js.token_counts(y[:, None], 4), (Y,)),
    "residual_probabilities": (lambda p: js.residual_probabilities(p, p[::-1]), (PK,)),
    "speculative_sample": (
        lambda y: js.speculative_sample(
            KEY, y[:, None], jax.nn.one_hot(y, 4)[:, None], jnp.full((y.shape[0], 2, 4), 0.25)
        ), (Y,)
    ),
    "gumbel_topk": (lambda z: js.gumbel_topk(KEY, z, 2), (Z,)),
    "relaxed_topk": (lambda z: js.relaxed_topk(KEY, z, 2), (Z,)),
    "gumbel_softmax": (lambda z: js.gumbel_softmax(KEY, z), (Z,)),
    "gumbel_entmax": (lambda z: js.gumbel_entmax(KEY, z), (Z,)),
    "straight_through_gumbel": (lambda z: js.straight_through_gumbel(KEY, z), (Z,)),
    "gumbel_rao": (lambda z: js.gumbel_rao(KEY, z), (Z,)),
    "reinmax_rao": (lambda z: js.reinmax_rao(KEY, z, samples=2), (Z,)),
    "reinmax_cv": (lambda z: js.reinmax_cv(KEY, z), (Z,)),
    "reinmax": (lambda z: js.reinmax(KEY, z), (Z,)),
    "concrete_log_prob": (js.concrete_log_prob, (P, Z)),
    "reinforce_leave_one_out": (
        lambda z: js.reinforce_leave_one_out(KEY, z, lambda drawn: (drawn**2).sum(-1)), (Z,)
    ),
    "Categorical": (lambda z: _of_categorical(js.Categorical(z)), (Z,)),
    "RelaxedCategorical": (lambda z: js.RelaxedCategorical(z, 0.5).sample(KEY), (Z,)),
}  # fmt: skip


def _nodes():
    return jnp.asarray(np.random.default_rng(1).standard_normal((7, 6)))


def _candidates(y):
    return js.vocabulary.uniform_sampler(12).sample(KEY, (5,), labels=y)


def _of_categorical(d):
    return d.sample(KEY), d.entropy(), d.log_prob(d.mode()), d.kl_divergence(d)


# Calls that take many seconds to compile.
SLOW = {
    "temperature_scaling", "temperature_scaling, α", "vector_scaling", "Categorical",
    "matrix_scaling", "dirichlet_calibration",
    "differentiated_cross_entropy", "hierarchical_cross_entropy, wide", "aps_scores",
    "adaptive_cross_entropy", "adaptive_log_softmax", "aps_scores, key",
    "classwise_calibration_error", "expected_calibration_error",
    "expected_calibration_error, equal mass", "gumbel_rao", "hierarchical_log_prob",
    "hierarchical_log_softmax", "hierarchical_topk", "kl_divergence", "log_prob",
    "reinforce_leave_one_out", "relaxed_topk", "sample_action, α", "sampled_softmax_loss",
    "target_sampling_loss", "reliability_diagram", "hierarchical_log_prob_of_rows", "gumbel_topk",
    "importance_sampling_loss", "categorical, shape", "mellowmax", "hierarchical_entropy",
    "gumbel_argmax", "hierarchical_categorical", "log_prob, α", "adaptive_topk",
    "differentiated_log_softmax", "RelaxedCategorical", "sample_from",
}  # fmt: skip


# A fit ends where no slope is above g = eps^(2/3). The curvature of its objective is c at least, so
# two fits with different rounding are within 2 g √parameters/c of each other.
PENALTY = inspect.signature(js.vector_scaling).parameters["penalty"].default
DIAGONAL = inspect.signature(js.calibration.matrix_scaling).parameters["diagonal"].default
SLOPE = float(jnp.finfo(jnp.float64).eps) ** (2 / 3)
CLOSE = {"vector_scaling": 2 * SLOPE * 16**0.5 / PENALTY}
# The curvature of ν/K Σ (W_ii − 1)² is the least of the three, here for 8 classes.
CLOSE |= dict.fromkeys(
    ("matrix_scaling", "dirichlet_calibration"), 2 * SLOPE * 72**0.5 / (2 * DIAGONAL / 8)
)


@pytest.mark.parametrize("name", some(CALLS, CALLS.keys() - SLOW))
def test_an_exported_function_serves_every_size(name):
    function, operands = CALLS[name]
    scope = jax.export.SymbolicScope()
    shapes = [jax.export.symbolic_shape(x.shape, scope=scope) for x in operands]
    arrays = [x.array({"n": 2, "k": 4}) for x in operands]
    stand_ins = [jax.ShapeDtypeStruct(s, x.dtype) for s, x in zip(shapes, arrays, strict=True)]
    exported = jax.export.export(jax.jit(function))(*stand_ins)
    for n, k in ((1, 4), (5, 7), (16, 40)):
        given = [x.array({"n": n, "k": k}) for x in operands]
        found = exported.call(*given)
        close = CLOSE.get(name, 1e-12)
        chex.assert_trees_all_close(
            jax.tree.leaves(found), jax.tree.leaves(function(*given)), rtol=1e-12, atol=close
        )
