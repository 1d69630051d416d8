"""The modules around hierarchical softmax: twins that agree with each other and the functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jsoftmax as js
import jsoftmax.linen
import jsoftmax.nnx
from tests.vocabulary.trees.hierarchical_helpers import FEATURES, TREES, WIDTH

KEY, TREE, Y = jax.random.key(0), TREES["Huffman"], jnp.array([0, 6, -1, 6])
OPTIONS = {
    "use_bias": True,
    "param_dtype": jnp.float64,
    "table_init": nn.initializers.normal(1.0),
    "bias_init": nn.initializers.normal(1.0),
}


@pytest.mark.slow
def test_twins_agree_with_each_other_and_with_the_functions():
    left = jsoftmax.nnx.HierarchicalSoftmax(WIDTH, TREE, rngs=nnx.Rngs(0), **OPTIONS)
    right = jsoftmax.linen.HierarchicalSoftmax(WIDTH, TREE, **OPTIONS)
    table, bias = left.table[...], left.bias[...]
    variables = right.init(KEY, FEATURES)
    parameters = nnx.to_pure_dict(nnx.state(left, nnx.Param))
    chex.assert_trees_all_equal_shapes(variables["params"], parameters)
    assert variables["params"]["table"].dtype == jnp.float64
    variables = {**variables, "params": parameters}
    graph, state = nnx.split(left)

    @jax.jit
    def answers(state, variables):
        model = nnx.merge(graph, state)

        def linen(method, *x, **options):
            return right.apply(variables, *x, method=method, **options)

        h = FEATURES
        return (
            (
                model(h),
                model.log_softmax(h),
                model.loss(h, Y, ignore_index=-1),
                model.topk(h, 3),
                model.sample(KEY, h),
            ),
            (
                linen("__call__", h),
                linen("log_softmax", h),
                linen("loss", h, Y, ignore_index=-1),
                linen("topk", h, 3),
                linen("sample", KEY, h),
            ),
            (
                jnp.exp(js.hierarchical_log_softmax(h, table, TREE, bias=bias)),
                js.hierarchical_log_softmax(h, table, TREE, bias=bias),
                js.hierarchical_cross_entropy(h, table, TREE, Y, bias=bias, ignore_index=-1),
                js.hierarchical_topk(h, table, TREE, 3, bias=bias),
                js.hierarchical_categorical(KEY, h, table, TREE, bias=bias),
            ),
        )

    chex.assert_trees_all_close(*answers(state, variables), atol=1e-12)


def test_a_tree_is_state_and_no_parameter():
    """An optimizer of parameters leaves it alone; it starts with all choices even."""
    model = jsoftmax.nnx.HierarchicalSoftmax(
        WIDTH, js.vocabulary.balanced_tree(8), rngs=nnx.Rngs(0)
    )
    assert list(nnx.to_pure_dict(nnx.state(model, nnx.Param))) == ["table"]
    optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        y = jnp.array([0, 1, 2, 3])
        loss, gradient = nnx.value_and_grad(lambda m: m.loss(FEATURES, y).mean())(model)
        optimizer.update(model, gradient)
        return loss

    np.testing.assert_allclose(step(model, optimizer), np.log(8), rtol=1e-6)
    assert step(model, optimizer) < np.log(8)
    np.testing.assert_array_equal(
        model.tree.get_value().paths, js.vocabulary.balanced_tree(8).paths
    )
