"""Flax modules of adaptive and differentiated softmax: twins that call the functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsoftmax.linen
import jsoftmax.nnx
from jsoftmax import adaptive_cross_entropy
from jsoftmax.vocabulary import (
    adaptive_topk,
    band_embedding,
    differentiated_cross_entropy,
    differentiated_topk,
)
from tests.marks import some

KEY = jax.random.key(0)
SIZES = (6, 17, [4, 9])
FEATURES = jax.random.normal(KEY, (5, 6))
LABELS = jnp.array([12, 3, 8, 16, 4])
MODULES = {
    "adaptive": ("AdaptiveSoftmax", {"use_bias": True, "div_value": 2.0}),
    "adaptive in bfloat16": ("AdaptiveSoftmax", {"dtype": jnp.bfloat16}),
    "differentiated": ("DifferentiatedSoftmax", {"use_bias": True}),
    "sliced": ("DifferentiatedSoftmax", {"widths": [3, 2, 1], "param_dtype": jnp.bfloat16}),
}


@pytest.mark.parametrize("name", some(MODULES, ["sliced"]))
def test_modules_are_twins_and_call_the_functions(name):
    kind, options = MODULES[name]
    left = getattr(jsoftmax.nnx, kind)(*SIZES, rngs=nnx.Rngs(0), **options)
    right = getattr(jsoftmax.linen, kind)(*SIZES, **options)
    variables = {"params": nnx.to_pure_dict(nnx.state(left, nnx.Param))}
    shapes = jax.eval_shape(right.init, KEY, FEATURES)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)

    def answers(layer):
        where = jnp.ones((5, 1), bool).at[2].set(False)
        return (
            layer(FEATURES),
            layer.log_softmax(FEATURES),
            layer.loss(FEATURES, LABELS, where=where, ignore_index=16),
            layer.topk(FEATURES, 3),
            layer.embed(LABELS),
        )

    @jax.jit
    def functions():
        dtype = options.get("dtype") or FEATURES.dtype
        h, skipped = FEATURES.astype(dtype), jnp.array([12, 3, -1, -1, 4])
        if kind == "AdaptiveSoftmax":
            loss = adaptive_cross_entropy(h, left.table, skipped, ignore_index=-1)
            return loss, adaptive_topk(h, left.table, 3), band_embedding(LABELS, left.table.bands)
        loss = differentiated_cross_entropy(h, left.table, skipped, ignore_index=-1)
        return loss, differentiated_topk(h, left.table, 3), band_embedding(LABELS, left.table)

    both = jax.jit(lambda: (answers(left), answers(right.bind(variables))))
    mine, twin = both()
    chex.assert_trees_all_equal(mine, twin)
    chex.assert_trees_all_close(mine[2:], functions(), rtol=1e-6)
    np.testing.assert_allclose(mine[0].sum(-1), np.ones(5), rtol=1e-5)
    assert mine[2].dtype == mine[0].dtype == jnp.float64 if "dtype" not in options else jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AdaptiveSoftmax", "DifferentiatedSoftmax"])
def test_tied_layers_learn_with_optax(kind):
    """Input embeddings, from the tables of the output."""
    layer = getattr(jsoftmax.nnx, kind)(*SIZES, div_value=1.0, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(layer, optax.adam(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(layer, optimizer):
        def mean(layer):
            return layer.loss(layer.embed(LABELS), LABELS).mean()

        loss, gradient = nnx.value_and_grad(mean)(layer)
        optimizer.update(layer, gradient)
        return loss

    losses = [step(layer, optimizer) for _ in range(40)]
    assert losses[-1] < 0.1 < losses[0]
    assert (layer.topk(layer.embed(LABELS), 1).classes[:, 0] == LABELS).all()


@pytest.mark.parametrize("home", [jsoftmax.nnx, jsoftmax.linen], ids=["nnx", "linen"])
def test_a_mistake_is_named(home):
    options = {"rngs": nnx.Rngs(0)} if home is jsoftmax.nnx else {}
    with pytest.raises(ValueError, match=r"AdaptiveSoftmax: `cutoffs` .* must rise"):
        home.AdaptiveSoftmax(6, 17, [9, 4], **options)
    with pytest.raises(ValueError, match="DifferentiatedSoftmax: `widths`"):
        home.DifferentiatedSoftmax(6, 17, [4], widths=[6, 1], **options)
