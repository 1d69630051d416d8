"""Functions of rows that are split over Explicit axes, the default of `jax.make_mesh`.

On a mesh of 2 × 4, (data, model), tokens are split over data, and classes over model or not. Values
and gradients are those of one device, and results are split as the rows they belong to.
"""

from __future__ import annotations

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax as js
from tests.laws.test_laws_eager import COMPILED
from tests.marks import some

KEY = jax.random.key(0)
CLASSES, WIDTH = 16, 8
rng = np.random.default_rng(0)
H = jnp.asarray(rng.standard_normal((4, 2, WIDTH)))
W = jnp.asarray(rng.standard_normal((WIDTH, CLASSES)))
Y = jnp.asarray(rng.integers(0, CLASSES, (4, 2)))
TREE = js.huffman_tree(np.arange(1, CLASSES + 1))
NODES = jnp.asarray(rng.standard_normal((CLASSES - 1, WIDTH)))
TABLES = js.vocabulary.adaptive_tables(KEY, WIDTH, CLASSES, [4, 8])
BANDS = js.vocabulary.differentiated_tables(KEY, WIDTH, CLASSES, [8])
CANDIDATES = js.vocabulary.uniform_sampler(CLASSES).sample(KEY, (8,), labels=Y)

# name → function (features, kernel, labels); a result without rows has none of these.
DIFFERENTIABLE = {
    "linear_cross_entropy": js.linear_cross_entropy,
    "linear_cross_entropy_terms": js.vocabulary.linear_cross_entropy_terms,
    "linear_cross_entropy_sum": js.linear_cross_entropy_sum,
    "linear_fenchel_young_loss": lambda h, w, y: js.linear_fenchel_young_loss(
        h, w, y, js.Elastic(2.0)
    ),
    "linear_log_prob": js.linear_log_prob,
    "linear_log_prob_terms": lambda h, w, y: js.linear_log_prob_terms(h, w, y)[:3],
    "linear_kl_divergence": lambda h, w, y: js.linear_kl_divergence(h, w, 2 * h, w),
    "linear_kl_divergence, Jensen–Shannon": lambda h, w, y: js.linear_kl_divergence(
        h, w, 2 * h, w, direction="jensen_shannon", regularizer=js.Tsallis(1.5)
    ),
    "linear_kl_divergence_from_topk": lambda h, w, y: js.linear_kl_divergence_from_topk(
        h, w, y[..., None], jnp.full_like(y[..., None], -1.0, h.dtype), direction="jeffreys"
    ),
    "linear_entmax_loss": js.linear_entmax_loss,
    "hierarchical_cross_entropy": lambda h, w, y: js.hierarchical_cross_entropy(h, NODES, TREE, y),
    "hierarchical_log_softmax": lambda h, w, y: js.hierarchical_log_softmax(h, NODES, TREE),
    "hierarchical_entropy": lambda h, w, y: js.hierarchical_entropy(h, NODES, TREE),
    "adaptive_cross_entropy": lambda h, w, y: js.adaptive_cross_entropy(h, TABLES, y),
    "adaptive_log_softmax": lambda h, w, y: js.adaptive_log_softmax(h, TABLES),
    "sampled_softmax_loss": lambda h, w, y: js.sampled_softmax_loss(h, w, y, CANDIDATES),
    "nce_loss": lambda h, w, y: js.nce_loss(h, w, y, CANDIDATES),
    "negative_sampling_loss": lambda h, w, y: js.negative_sampling_loss(h, w, y, CANDIDATES),
    "importance_sampling_loss": lambda h, w, y: js.vocabulary.importance_sampling_loss(
        h, w, y, CANDIDATES
    ),
    "differentiated_cross_entropy": lambda h, w, y: js.vocabulary.differentiated_cross_entropy(
        h, BANDS, y
    ),
    "contrastive_loss": lambda h, w, y: js.contrastive_loss((h @ w)[:, 0], (h @ w)[:, 1]),
    "contrastive_loss, labels": lambda h, w, y: js.contrastive_loss(
        (h @ w)[:, 0], (h @ w)[:, 1], labels=y[:, 0] % 2, alpha=1.5
    ),
    "sigmoid_contrastive_loss": lambda h, w, y: js.sigmoid_contrastive_loss(
        (h @ w)[:, 0], (h @ w)[:, 1], labels=y[:, 0] % 2
    ),
    "linear_cross_entropy_sum, angles": lambda h, w, y: js.linear_cross_entropy_sum(
        h, w, y, normalize=True, angular_margin=0.3
    ),
    "route": lambda h, w, y: js.route(h @ w, 3, score="sigmoid").weights,
    "route, balance": lambda h, w, y: js.route(h @ w, 3).statistics.balance_loss,
    "log_prob": lambda h, w, y: js.policies.log_prob(h @ w, y),
    "soft_argmax": lambda h, w, y: js.soft_argmax(h @ w),
    "gumbel_softmax": lambda h, w, y: js.gumbel_softmax(KEY, h @ w, 0.5),
    "relaxed_topk": lambda h, w, y: js.relaxed_topk(KEY, h @ w, 3),
    "cross_entropy": lambda h, w, y: js.cross_entropy(h @ w, y),
    "entmax": lambda h, w, y: js.entmax(h @ w),
    "temperature_scaling": lambda h, w, y: js.temperature_scaling(h @ w, y),
    "expected_calibration_error": lambda h, w, y: js.expected_calibration_error(
        js.softmax(h @ w), y
    ),
}
CONSTANT = {
    "route": lambda h, w, y: js.route(h @ w, 3, groups=4, groups_kept=2),
    "linear_topk": lambda h, w, y: js.linear_topk(h, w, 3),
    "linear_categorical": lambda h, w, y: js.linear_categorical(KEY, h, w),
    "hierarchical_topk": lambda h, w, y: js.hierarchical_topk(h, NODES, TREE, 3),
    "categorical": lambda h, w, y: js.categorical(KEY, h @ w, shape=(5, 4, 2)),
    "gumbel_argmax": lambda h, w, y: js.gumbel_argmax(KEY, h @ w),
    "hierarchical_categorical": lambda h, w, y: js.hierarchical_categorical(KEY, h, NODES, TREE),
    "adaptive_topk": lambda h, w, y: js.vocabulary.adaptive_topk(h, TABLES, 3),
    "entmax_scores": lambda h, w, y: js.calibration.entmax_scores(h @ w),
    "conformal_sets": lambda h, w, y: js.conformal_sets(-js.softmax(h @ w), -0.1),
    "gumbel_topk": lambda h, w, y: js.gumbel_topk(KEY, h @ w, 3),
    "sample_action": lambda h, w, y: js.sample_action(KEY, h @ w),
    "reliability_diagram": lambda h, w, y: js.reliability_diagram(js.softmax(h @ w), y),
    "aps_scores": lambda h, w, y: js.calibration.aps_scores(js.softmax(h @ w)),
    "conformal_threshold": lambda h, w, y: js.conformal_threshold(-js.softmax(h @ w), y),
    "vector_scaling": lambda h, w, y: js.vector_scaling(h @ w, y),
}
QUICK = {"linear_cross_entropy", "hierarchical_cross_entropy", "linear_topk", "categorical"}


def mesh():
    return jax.make_mesh((2, 4), ("data", "model"))


def split(classes):
    """Features, kernel and labels on the mesh, classes over `model` or whole."""
    specs = P("data"), P(None, "model" if classes else None), P("data")
    return [
        jax.device_put(x, NamedSharding(mesh(), s)) for x, s in zip((H, W, Y), specs, strict=True)
    ]


def scalar(function):
    """A number that depends on every entry of the results, and these."""

    def total(h, w, y):
        found = function(h, w, y)
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(found)), found

    return total


@pytest.mark.parametrize("classes", [False, True], ids=["tokens", "tokens and classes"])
@pytest.mark.parametrize("name", some(DIFFERENTIABLE, QUICK & DIFFERENTIABLE.keys()))
def test_values_and_gradients_are_those_of_one_device(name, classes):
    both = jax.value_and_grad(scalar(DIFFERENTIABLE[name]), (0, 1), has_aux=True)
    expected = jax.jit(both)(H, W, Y)
    arguments = split(classes)
    with jax.set_mesh(mesh()):
        found = jax.jit(both)(*arguments)
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-9)
    for result in jax.tree.leaves(found[0][1]):
        if result.shape[:2] == (4, 2):
            assert result.sharding.spec[0] == "data"
    for gradient, argument in zip(found[1], arguments, strict=False):
        assert gradient.sharding.is_equivalent_to(argument.sharding, gradient.ndim)


@pytest.mark.parametrize("classes", [False, True], ids=["tokens", "tokens and classes"])
@pytest.mark.parametrize("name", some(CONSTANT, QUICK & CONSTANT.keys()))
def test_what_has_no_gradient_is_that_of_one_device(name, classes):
    expected = jax.jit(CONSTANT[name])(H, W, Y)
    with jax.set_mesh(mesh()):
        found = jax.jit(CONSTANT[name])(*split(classes))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-9)


def test_classes_along_the_first_axis_leave_the_rows_split():
    p = js.softmax(H @ W)
    turned = jax.device_put(jnp.moveaxis(p, -1, 0), NamedSharding(mesh(), P(None, "data")))
    with jax.set_mesh(mesh()):
        found = jax.jit(lambda p: js.calibration.aps_scores(p, axis=0))(turned)
    assert found.sharding.spec[1] == "data"
    chex.assert_trees_all_close(jnp.moveaxis(found, 0, -1), js.calibration.aps_scores(p))


def test_called_eagerly_it_is_the_same_with_a_mesh_set_or_not():
    expected = js.linear_cross_entropy(H, W, Y)
    h, w, y = split(True)
    for set_mesh in (jax.set_mesh, lambda _: contextlib.nullcontext()):
        with set_mesh(mesh()):
            found = js.linear_cross_entropy(h, w, y)
        chex.assert_trees_all_close(found, expected, rtol=1e-12)
        assert found.sharding.spec[0] == "data"


def test_a_second_eager_call_with_other_values_compiles_nothing():
    h, w, y = split(True)
    with jax.set_mesh(mesh()):
        other = -h
        for function in (
            js.linear_cross_entropy,
            jax.grad(lambda *a: js.linear_cross_entropy_sum(*a)),
        ):
            jax.block_until_ready(function(h, w, y))
            COMPILED.clear()
            jax.block_until_ready(function(other, w, y))
            assert not COMPILED
