"""Trees, tables, samplers and optimizers as objects: equal, hashed, pickled, saved."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jsoftmax as js

KEY, TARGETS = jax.random.key(0), np.array([0, 1])
OBJECTS = {
    "ClassTree": (lambda n: js.huffman_tree(np.arange(1, n)), lambda t: t.rows([0, 2])),
    "a wide ClassTree": (lambda n: js.vocabulary.kary_tree(n, 3), lambda t: t.rows([0, 2])),
    "AliasTable": (lambda n: js.AliasTable.of([n, 2.0, 1.0]), lambda t: t.sample(KEY, (20,))),
    "uniform_sampler": (js.vocabulary.uniform_sampler, lambda s: s.sample(KEY, (4,), TARGETS)),
    "log_uniform_sampler": (
        js.vocabulary.log_uniform_sampler,
        lambda s: s.sample(KEY, (4,), TARGETS),
    ),
    "log_uniform_sampler without replacement": (
        lambda n: js.vocabulary.log_uniform_sampler(n, replacement=False),
        lambda s: s.sample(KEY, (4,), TARGETS),
    ),
    "unigram_sampler": (
        lambda n: js.vocabulary.unigram_sampler([n, 2.0, 1.0]),
        lambda s: s.sample(KEY, (4,), TARGETS),
    ),
}  # fmt: skip
every_object = pytest.mark.parametrize(("make", "use"), OBJECTS.values(), ids=OBJECTS.keys())


@every_object
def test_objects_are_equal_by_contents(make, use):
    """Made twice, copied, pickled; not where a number differs."""
    one, other = make(9), make(5)
    for same in (make(9), copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert same.__eq__(one) and not same.__ne__(one) and hash(same) == hash(one)
        chex.assert_trees_all_equal(use(same), use(one))
    assert one.__ne__(other) and not one.__eq__(other) and hash(one) != hash(other)
    assert one != "another thing" and {one: 1}[make(9)] == 1


@every_object
def test_objects_are_made_and_used_inside_a_trace(make, use):
    """By numpy, while JAX traces; as a static argument and as an argument."""
    expected = use(make(9))
    chex.assert_trees_all_close(jax.jit(lambda: use(make(9)))(), expected)
    chex.assert_trees_all_close(jax.jit(use)(make(9)), expected)
    chex.assert_trees_all_close(jax.jit(use, static_argnums=0)(make(9)), expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(lambda: make(9)), make(9))


@every_object
def test_objects_are_saved_and_restored(make, use, tmp_path):
    """By orbax, in a tree with other arrays."""
    del use
    saved = {"object": make(9), "step": jnp.array(3)}
    abstract = jax.eval_shape(lambda: {"object": make(9), "step": jnp.array(0)})
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "checkpoint", abstract)
    assert restored["object"] == make(9)


def test_a_traced_table_explains_that_its_probabilities_are_numpy():
    table = js.AliasTable.of([1.0, 3.0])
    np.testing.assert_array_equal(table.probabilities(), [0.25, 0.75])
    with pytest.raises(TypeError, match=r"AliasTable.probabilities: the table is traced"):
        jax.jit(lambda table: table.probabilities())(table)


def rate(step):
    """A schedule that pickle finds by its name."""
    return 0.5 / (1 + step)


@pytest.mark.parametrize(
    "make", [js.vocabulary.row_sgd, js.vocabulary.row_adagrad, js.vocabulary.row_adam]
)
def test_row_optimizers_are_pickled_and_their_states_saved(make, tmp_path):
    """A copy goes on where the optimizer stopped; both may be static arguments."""
    optimizer = make(rate)
    table, rows, gradients = jnp.ones((4, 2)), jnp.array([3, 1, 3]), jnp.ones((3, 2))
    step = jax.jit(lambda o, *state: o.update(*state, rows, gradients), static_argnums=0)
    table, state = step(optimizer, table, optimizer.init(table))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", state)
        checkpointer.wait_until_finished()
        abstract = jax.eval_shape(optimizer.init, table)
        restored = checkpointer.restore(tmp_path / "checkpoint", abstract)
    expected = step(optimizer, table, state)
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        chex.assert_trees_all_close(step(twin, table, restored), expected, rtol=1e-12)
