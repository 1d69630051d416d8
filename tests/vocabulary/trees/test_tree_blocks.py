"""Trees with wide nodes: tokens in blocks, so that few rows of the table are gathered at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax.vocabulary import balanced_tree, hierarchical_cross_entropy, two_level_tree
from jsoftmax.vocabulary.trees import _hierarchical_log_prob

rng = np.random.default_rng(0)
TREES = {"two levels": two_level_tree(40), "binary": balanced_tree(40)}


@pytest.mark.parametrize("name", TREES)
def test_blocks_change_nothing(name, monkeypatch):
    """37 tokens, which no block divides; values and gradients, with a bias and tokens left out."""
    tree = TREES[name]
    h = jnp.asarray(rng.normal(size=(37, 5)))
    table = jnp.asarray(rng.normal(size=(tree.table_rows, 5)))
    bias = jnp.asarray(rng.normal(size=tree.table_rows))
    labels = jnp.asarray(rng.integers(0, 40, 37)).at[3].set(-1)

    def found():
        def loss(h, table, bias):
            losses = hierarchical_cross_entropy(h, table, tree, labels, bias=bias, ignore_index=-1)
            return jnp.sum(jnp.sin(losses)), losses

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(h, table, bias)

    at_once = found()
    monkeypatch.setattr(_hierarchical_log_prob, "_GATHERED", 5 * tree.path_rows * 8)
    chex.assert_trees_all_close(found(), at_once, rtol=1e-12)


def test_a_gradient_gathers_few_rows_at_once():
    """Where those of all tokens would take twice as much and more."""
    tree = two_level_tree(4096)
    shapes = (4096, 256), (tree.table_rows, 256)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((4096,), jnp.int32)

    def loss(h, table, labels):
        return hierarchical_cross_entropy(h, table, tree, labels).sum()

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    memory = gradient.lower(*arrays, labels).compile().memory_analysis()
    rows = 4096 * tree.path_rows * 256 * 4
    assert rows > 4 * _hierarchical_log_prob._GATHERED
    assert memory.temp_size_in_bytes < 3 * 4 * _hierarchical_log_prob._GATHERED < 2 * rows
