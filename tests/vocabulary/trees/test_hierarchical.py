"""Hierarchical softmax equals explicit products along paths, in value and derivatives."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests.draws import assert_frequencies
from tests.vocabulary.trees.hierarchical_helpers import (
    FEATURES,
    TOKENS,
    TREES,
    WIDTH,
    explicit,
    table_of,
)

pytestmark = pytest.mark.slow

each_tree = pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
KEY = jax.random.key(0)


@jax.jit
def everything(h, table, tree, bias, y):
    """All that is asked of one tree, in one program."""
    ids = tree.rows(y)
    return {
        "log_softmax": js.hierarchical_log_softmax(h, table, tree, bias=bias),
        "log_prob": js.hierarchical_log_prob(h, table, tree, y, bias=bias),
        "of_rows": js.hierarchical_log_prob_of_rows(h, table[ids], tree, y, bias=bias[ids]),
        "entropy": js.hierarchical_entropy(h, table, tree, bias=bias),
        "topk": js.hierarchical_topk(h, table, tree, 5, bias=bias),
        "narrow": js.hierarchical_topk(h, table, tree, 5, bias=bias, beam=2),
        "all": js.hierarchical_topk(h, table, tree, tree.classes, bias=bias, beam=4),
    }


@each_tree
def test_everything_is_that_of_products_along_paths(tree):
    """Which sum to 1; the likeliest classes are those of the sorted row, whatever the beam."""
    table, bias = table_of(tree, 2.0)
    p = np.stack([explicit(tree, h, table, bias) for h in FEATURES])
    near(p.sum(-1), 1)
    y = jnp.arange(TOKENS) * 2 + 1
    found = everything(FEATURES, table, tree, bias, y)
    near(jnp.exp(found["log_softmax"]), p)
    near(found["log_softmax"], np.log(p))
    near(found["log_prob"], np.log(p[np.arange(TOKENS), y]))
    near(found["of_rows"], found["log_prob"])
    near(found["entropy"], -(p * np.log(p)).sum(-1))
    order = np.argsort(-p, axis=-1)
    for name, k in (("topk", 5), ("narrow", 5), ("all", tree.classes)):
        np.testing.assert_array_equal(found[name].classes, order[:, :k])
        near(found[name].values, np.log(np.take_along_axis(p, order[:, :k], 1)))


def test_the_likeliest_class_need_not_be_below_the_likeliest_nodes():
    """0.6 shared by four classes, 0.4 alone: a beam of one would go the wrong way."""
    tree = js.vocabulary.class_tree([[0, 1, 2, 3], 4])
    table = np.log([[0.6], [0.4], [1.0], [1.0], [1.0], [1.0]])
    found = js.hierarchical_topk(np.ones(1), table, tree, 1, beam=1)
    assert found.classes == 4
    near(found.values, np.log([0.4]))
    # And a beam that dropped a better node has to compute all classes.
    deep = js.vocabulary.class_tree([[0, 1, 2, 3], [4, [5, 6]]])
    table = np.log([[0.6], [0.4], *[[1.0]] * 4, [0.1], [0.9], [0.9], [0.1]])
    assert js.hierarchical_topk(np.ones(1), table, deep, 1, beam=1).classes == 5


@pytest.mark.parametrize("name", ["Huffman", "given"])
def test_derivatives(name):
    """In features, table and bias, in both modes, twice."""
    tree = TREES[name]
    table, bias = table_of(tree)
    y = jnp.array([0, 6, 5, 6])

    @jax.jit
    def values(h, table, bias):
        loss = js.hierarchical_cross_entropy(h, table, tree, y, bias=bias)
        return loss, js.hierarchical_entropy(h, table, tree, bias=bias)

    check_grads(values, (FEATURES, table, bias), order=2, rtol=1e-5)


@pytest.mark.parametrize("name", ["Huffman", "given"])
def test_the_route_of_rows_has_the_dense_gradient(name):
    """Labels are repeated, and one is out of range: it has no rows, and its loss is NaN."""
    tree = TREES[name]
    table, bias = (jnp.asarray(x) for x in table_of(tree))
    y, weights = jnp.array([6, 5, 6, 99]), jnp.arange(4.0)

    @jax.jit
    def both(h, table, bias, y):
        def dense(h, table, bias):
            log_p = js.hierarchical_log_prob(h, table, tree, y, bias=bias)
            return (weights * jnp.where(y == 99, 0, log_p)).sum(), log_p

        def of_rows(h, rows, biases):
            log_p = js.hierarchical_log_prob_of_rows(h, rows, tree, y, bias=biases)
            return (weights * jnp.where(y == 99, 0, log_p)).sum(), log_p

        ids = tree.rows(y)
        (_, log_p), (d_h, d_rows, d_biases) = jax.value_and_grad(of_rows, (0, 1, 2), has_aux=True)(
            h, table[ids], bias[ids]
        )
        sums = (
            d_h,
            jnp.zeros_like(table).at[jnp.where(ids < 0, 99, ids)].add(d_rows, mode="drop"),
            jnp.zeros_like(bias).at[jnp.where(ids < 0, 99, ids)].add(d_biases, mode="drop"),
        )
        padding = jnp.where(ids[..., None] < 0, d_rows, 0)
        return (
            jax.value_and_grad(dense, (0, 1, 2), has_aux=True)(h, table, bias),
            log_p,
            sums,
            padding,
        )

    ((_, log_p), gradients), of_rows, sums, padding = both(FEATURES, table, bias, y)
    near(log_p, of_rows)
    assert jnp.isnan(log_p[3]) and jnp.isfinite(log_p[:3]).all()
    chex.assert_trees_all_close(gradients, sums, atol=1e-13)
    assert (padding == 0).all()


def test_a_step_of_rows_is_a_step_of_the_dense_gradient():
    tree = TREES["Huffman"]
    table, y = jnp.asarray(table_of(tree)[0]), jnp.array([6, 5, 6, 0])
    optimizer = js.vocabulary.row_sgd(0.5)

    @jax.jit
    def step(table, state):
        ids = tree.rows(y)

        def loss(rows):
            return -js.hierarchical_log_prob_of_rows(FEATURES, rows, tree, y).mean()

        return optimizer.update(table, state, ids, jax.grad(loss)(table[ids]))

    def dense(table):
        return js.hierarchical_cross_entropy(FEATURES, table, tree, y).mean()

    moved, _ = step(table, optimizer.init(table))
    near(moved, table - 0.5 * jax.grad(dense)(table))


@pytest.mark.parametrize("name", ["Huffman", "given"])
def test_draws_follow_the_probabilities(name):
    """Pearson's χ² is below its quantile at 1 − 1e-4, for a fixed key."""
    tree = TREES[name]
    table, bias = table_of(tree, 0.5)
    h = np.broadcast_to(FEATURES[0], (20_000, WIDTH))
    drawn = jax.jit(js.hierarchical_categorical)(KEY, h, table, tree, bias=bias)
    counts = np.bincount(drawn, minlength=tree.classes)
    assert_frequencies(counts, explicit(tree, FEATURES[0], table, bias))


def test_two_classes_are_a_sigmoid_and_one_node_is_softmax():
    """Trees of depth 1."""
    two, w = js.huffman_tree([1, 1]), np.array([[0.3, -2.0, 1.0]])
    z = FEATURES @ w[0]
    assert (two.depth, two.table_rows) == (1, 1)
    near(js.hierarchical_log_softmax(FEATURES, w, two)[:, 1], jax.nn.log_sigmoid(-z))
    assert (js.hierarchical_topk(FEATURES, w, two, 1).classes[:, 0] == (z < 0)).all()
    flat = js.vocabulary.kary_tree(6, 6)
    table = np.random.default_rng(1).normal(size=(6, WIDTH))
    near(js.hierarchical_log_softmax(FEATURES, table, flat), jax.nn.log_softmax(FEATURES @ table.T))


def test_deep_trees_are_right_where_probabilities_are_tiny_or_nearly_one():
    """44 choices deep: Σ −log σ, with z of ±60 in float32, by numpy in float64."""
    counts = 2.0 ** -np.arange(45)
    tree = js.huffman_tree(counts)
    assert tree.depth == 44
    rng = np.random.default_rng(2)
    table = (60 * rng.choice([-1, 1], (44, 1))).astype(np.float32)
    h = np.ones((45, 1), np.float32)
    loss = js.hierarchical_cross_entropy(h, table, tree, np.arange(45))
    assert loss.dtype == jnp.float32
    expected = [
        sum(np.logaddexp(0.0, table[n, 0] * (2.0 * c - 1)) for n, c in tree.path(y))
        for y in range(45)
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    log_p = js.hierarchical_log_softmax(h[0], table, tree)
    np.testing.assert_allclose(-log_p, expected, rtol=1e-6)


def test_half_precision_is_computed_in_float32():
    tree = TREES["Huffman"]
    table = jnp.asarray(table_of(tree)[0], jnp.bfloat16)
    h, y = jnp.asarray(FEATURES, jnp.bfloat16), jnp.array([0, 1, 2, 3])
    loss = js.hierarchical_cross_entropy(h, table, tree, y)
    wide = js.hierarchical_cross_entropy(h.astype(float), table.astype(float), tree, y)
    assert loss.dtype == js.hierarchical_log_softmax(h, table, tree).dtype == jnp.float32
    np.testing.assert_allclose(loss, wide, rtol=1e-6)


def test_it_maps_over_features_and_over_trees():
    """Trees of one shape may be stacked."""
    trees = [js.vocabulary.two_level_tree(counts, 3) for counts in (np.arange(9), np.arange(9) % 4)]
    tables = np.random.default_rng(3).normal(size=(2, trees[0].table_rows, WIDTH))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)
    y = jnp.array([3, 4])

    def ask(h, table, tree, y, key):
        return (
            js.hierarchical_cross_entropy(h, table, tree, y),
            js.hierarchical_log_softmax(h, table, tree),
            js.hierarchical_topk(h, table, tree, 2, beam=1),
            js.hierarchical_categorical(key, h, table, tree),
        )

    keys = jax.random.split(KEY)
    mapped = jax.jit(jax.vmap(ask))(FEATURES[:2], tables, stacked, y, keys)
    apart = [ask(FEATURES[i], tables[i], trees[i], y[i], keys[i]) for i in range(2)]
    chex.assert_trees_all_close(mapped, jax.tree.map(lambda *x: jnp.stack(x), *apart), atol=1e-12)


def test_tokens_that_do_not_count_have_no_loss_and_no_gradient():
    """By label or by mask, whatever stands in their features."""
    tree = TREES["Huffman"]
    table = jnp.asarray(table_of(tree)[0])
    h = jnp.asarray(FEATURES).at[1].set(jnp.nan).at[2].set(jnp.nan)
    y, where = np.array([0, -7, 3, 4]), jnp.array([True, True, False, True])

    def losses(h, table):
        return js.hierarchical_cross_entropy(h, table, tree, y, where=where, ignore_index=-7)

    loss = losses(h, table)
    d_h, d_table = jax.grad(lambda *x: losses(*x).sum(), (0, 1))(h, table)
    assert (loss[1:3] == 0).all() and (loss[::3] > 0).all()
    assert (d_h[1:3] == 0).all() and (d_h[::3] != 0).all() and jnp.isfinite(d_table).all()


def test_labels_in_an_array_are_not_checked():
    """The loss is NaN and never that of another class; in integers of any width."""
    tree = TREES["Huffman"]
    table = table_of(tree)[0]
    for dtype in (jnp.int8, jnp.uint8, jnp.int32, jnp.int64):
        y = jnp.array([0, 10, 11, -1]).astype(dtype)
        loss = js.hierarchical_cross_entropy(FEATURES, table, tree, y)
        np.testing.assert_array_equal(jnp.isnan(loss), [False, False, True, True])


@each_tree
def test_ranks_and_dtypes_are_never_promoted_silently(tree):
    """Nor do empty batches trouble anyone. Found while tracing, so nothing is compiled."""

    def trace(tokens, dtype):
        h, table = jnp.ones((2, tokens, WIDTH), dtype), jnp.ones((tree.table_rows, WIDTH), dtype)
        y, bias = jnp.zeros((2, tokens), jnp.int8), jnp.ones(tree.table_rows, jnp.float32)
        where = jnp.ones(tokens, bool)

        def ask(h, table):
            ids = tree.rows(y)
            return (
                js.hierarchical_cross_entropy(h, table, tree, y, bias=bias, where=where),
                js.hierarchical_log_prob_of_rows(h, table[ids], tree, y, bias=bias[ids]),
                js.hierarchical_entropy(h, table, tree, bias=bias),
                js.hierarchical_categorical(KEY, h, table, tree, bias=bias),
                js.hierarchical_topk(h, table, tree, 2, bias=bias),
            )

        return jax.eval_shape(ask, h, table)

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for tokens, dtype in ((3, jnp.bfloat16), (0, jnp.float32)):
            loss, of_rows, entropy, drawn, topk = trace(tokens, dtype)
            assert loss.dtype == of_rows.dtype == entropy.dtype == jnp.float32
            assert loss.shape == of_rows.shape == entropy.shape == drawn.shape == (2, tokens)
            assert topk.classes.shape == topk.values.shape == (2, tokens, 2)


def test_nan_stays_with_its_token():
    tree = TREES["Huffman"]
    table = table_of(tree)[0]
    h = jnp.asarray(FEATURES).at[1].set(jnp.nan)
    only = np.array([False, True, False, False])
    np.testing.assert_array_equal(
        jnp.isnan(js.hierarchical_log_softmax(h, table, tree)).all(-1), only
    )
    np.testing.assert_array_equal(jnp.isnan(js.hierarchical_entropy(h, table, tree)), only)
    topk = js.hierarchical_topk(h, table, tree, 2)
    np.testing.assert_array_equal(jnp.isnan(topk.values).any(-1), only)
    np.testing.assert_array_equal(js.hierarchical_categorical(KEY, h, table, tree) == -1, only)


H, TABLE, TREE, Y = (
    FEATURES,
    table_of(TREES["Huffman"])[0],
    TREES["Huffman"],
    np.array([0, 1, 2, 3]),
)
LOSS = js.hierarchical_cross_entropy
MISTAKES = {
    "rows": (lambda: LOSS(H, TABLE[1:], TREE, Y), ValueError, r"\[10, d\]"),
    "width": (lambda: LOSS(H[:, 1:], TABLE, TREE, Y), ValueError, "do not fit"),
    "complex": (lambda: LOSS(H * 1j, TABLE, TREE, Y), TypeError, "`features`"),
    "targets": (lambda: LOSS(H, TABLE, TREE, Y[:2]), ValueError, r"integers of shape \(4,\)"),
    "float targets": (lambda: LOSS(H, TABLE, TREE, Y * 1.0), TypeError, "integers"),
    "no class": (lambda: LOSS(H, TABLE, TREE, Y + 9), ValueError, "label 11 is out of "),
    "negative": (lambda: LOSS(H[0], TABLE, TREE, -1), ValueError, "label -1 is out of "),
    "text": (
        lambda: inspect.unwrap(LOSS)(H, TABLE, TREE, "cat"),
        TypeError,
        "hierarchical_cross_entropy: `labels` is 'cat'",
    ),
    "bias": (lambda: LOSS(H, TABLE, TREE, Y, bias=np.ones(3)), ValueError, "`bias`"),
    "mask": (lambda: LOSS(H, TABLE, TREE, Y, where=np.ones(4)), TypeError, "boolean"),
    "size of mask": (
        lambda: LOSS(H, TABLE, TREE, Y, where=np.ones(3, bool)),
        ValueError,
        "`where`",
    ),
    "gathered": (
        lambda: js.hierarchical_log_prob_of_rows(H, TABLE, TREE, Y),
        ValueError,
        r"tree.rows\(labels\)",
    ),
    "k": (lambda: js.hierarchical_topk(H, TABLE, TREE, 12), ValueError, "from 1 to 11"),
    "no k": (lambda: js.hierarchical_topk(H, TABLE, TREE, 0), ValueError, "`k` must be at least 1"),
    "beam": (
        lambda: js.hierarchical_topk(H, TABLE, TREE, 1, beam=0),
        ValueError,
        "`beam` must be at least 1",
    ),
    "keys": (
        lambda: js.hierarchical_categorical(jax.random.split(KEY), H, TABLE, TREE),
        ValueError,
        "one key",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()
