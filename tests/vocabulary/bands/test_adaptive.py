"""Adaptive and differentiated softmax: their distributions, for every size of blocks."""

import itertools
from inspect import unwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jsoftmax import adaptive_cross_entropy, adaptive_log_softmax, cross_entropy
from jsoftmax.vocabulary import (
    AdaptiveTables,
    Band,
    adaptive_cutoffs,
    adaptive_tables,
    adaptive_topk,
    band_embedding,
    differentiated_cross_entropy,
    differentiated_log_softmax,
    differentiated_tables,
    differentiated_topk,
)
from jsoftmax.vocabulary.bands import _adaptive, _band_topk

pytestmark = pytest.mark.slow

TOKENS, WIDTH, CLASSES, CUTOFFS = 9, 6, 17, [4, 9, 10]  # bands of 4, 5, 1 and 7 classes
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(TOKENS, WIDTH))


def moved(tables):
    """The same shapes in float64, with biases that are not 0."""
    return jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape)), tables)


KEY = jax.random.key(0)
SIZES = (WIDTH, CLASSES, CUTOFFS)
ADAPTIVE = moved(adaptive_tables(KEY, *SIZES, div_value=1.7, use_bias=True))
PLAIN = moved(adaptive_tables(KEY, *SIZES, div_value=1.7))
PROJECTED = moved(differentiated_tables(KEY, *SIZES, div_value=1.7, use_bias=True))
SLICED = moved(differentiated_tables(KEY, *SIZES, widths=[3, 1, 1, 1]))
# Tokens of all clusters; of some; of none but one; of none.
LABELS = {
    "mixed": np.array([12, 3, 9, 5, 16, 0, 8, 10, 11]),
    "no first tail": np.array([12, 3, 9, 10, 16, 0, 9, 10, 11]),
    "one tail": np.array([4, 5, 6, 7, 8, 8, 7, 6, 5]),
    "shortlist": np.array([0, 1, 2, 3, 3, 2, 1, 0, 0]),
}
BLOCKS = {"whole": {}, "ragged": {"block_tokens": 2, "block_classes": 3}}
LOSSES = {
    "adaptive": (adaptive_cross_entropy, ADAPTIVE),
    "without biases": (adaptive_cross_entropy, PLAIN),
    "differentiated": (differentiated_cross_entropy, PROJECTED),
    "sliced": (differentiated_cross_entropy, SLICED),
}


def log_normalized(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def scores(h, band):
    x = h if band.projection is None else h @ np.asarray(band.projection)
    return x @ np.asarray(band.table).T + (0 if band.bias is None else np.asarray(band.bias))


def oracle(tables, h=FEATURES):
    """All log-probabilities, in numpy."""
    if isinstance(tables, AdaptiveTables):
        first, *tails = tables.bands
        gates = h @ np.asarray(tables.clusters).T
        gates += 0 if tables.cluster_bias is None else np.asarray(tables.cluster_bias)
        head = log_normalized(np.concatenate([scores(h, first), gates], -1))
        size = len(first.table)
        parts = [head[:, :size]]
        for i, band in enumerate(tails):
            parts.append(head[:, [size + i]] + log_normalized(scores(h, band)))
        return np.concatenate(parts, -1)
    inputs = [h] * len(tables) if tables[1].projection is not None else np.split(h, [3, 4, 5], -1)
    return log_normalized(
        np.concatenate([scores(x, band) for x, band in zip(inputs, tables, strict=True)], -1)
    )


def log_softmax_of(tables):
    of = adaptive_log_softmax if isinstance(tables, AdaptiveTables) else differentiated_log_softmax
    return lambda h, tables: of(h, tables)


@pytest.mark.parametrize("name", LOSSES)
def test_log_probabilities_are_those_of_the_formula(name):
    """They sum to 1, and equal numpy's."""
    _, tables = LOSSES[name]
    log_p = jax.jit(log_softmax_of(tables))(FEATURES, tables)
    chex.assert_trees_all_close(jnp.exp(log_p).sum(-1), np.ones(TOKENS), rtol=1e-13)
    chex.assert_trees_all_close(log_p, oracle(tables), rtol=1e-12)


def gradients_of(loss, **options):
    def total(h, tables, labels, weights):
        losses = loss(h, tables, labels, **options)
        return (weights * losses).sum(), losses

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize(
    ("blocks", "kept"),
    [("whole", True), ("ragged", True), pytest.param("ragged", False, marks=pytest.mark.slow)],
)
def test_adaptive_losses_and_gradients_are_the_dense_ones(blocks, kept, monkeypatch):
    """For every token, whatever clusters are empty, in blocks that are no divisors."""
    if not kept:
        monkeypatch.setattr(_adaptive, "_KEPT", 0)
    weights = RNG.normal(size=TOKENS)
    ours = gradients_of(adaptive_cross_entropy, **BLOCKS[blocks])
    theirs = gradients_of(dense)
    for labels in LABELS.values():
        for tables in (ADAPTIVE, PLAIN)[: 1 if blocks == "whole" or not kept else 2]:
            found, losses = ours(FEATURES, tables, jnp.asarray(labels), weights)
            expected, _ = theirs(FEATURES, tables, jnp.asarray(labels), weights)
            chex.assert_trees_all_close(losses, -oracle(tables)[range(TOKENS), labels], rtol=1e-12)
            chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


def dense(h, tables, labels):
    log_p = log_softmax_of(tables)(h, tables)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]


@pytest.mark.parametrize("tables", [PROJECTED, SLICED], ids=["projected", "sliced"])
def test_differentiated_losses_and_gradients_are_the_dense_ones(tables):
    weights = RNG.normal(size=TOKENS)
    for labels in (LABELS["mixed"], LABELS["one tail"]):
        arguments = FEATURES, tables, jnp.asarray(labels), weights
        found, losses = gradients_of(differentiated_cross_entropy)(*arguments)
        expected, _ = gradients_of(dense)(*arguments)
        chex.assert_trees_all_close(losses, -oracle(tables)[range(TOKENS), labels], rtol=1e-12)
        chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptive", "differentiated"])
def test_derivatives_are_those_of_differences(name):
    """Reverse; forward over reverse; and, where it is no adaptive loss, forward."""
    loss, tables = LOSSES[name]
    labels, some = LABELS["mixed"][[0, 1, 3]], FEATURES[[0, 1, 3]]
    blocks = {"block_tokens": 2, "block_classes": 3} if name == "adaptive" else {}

    def total(h, tables):
        return jnp.sin(loss(h, tables, labels, **blocks)).sum()

    modes = ["rev"] if name == "adaptive" else ["rev", "fwd"]
    check_grads(
        jax.jit(total), (some, tables), order=1, modes=modes, atol=1e-6, rtol=1e-6, eps=1e-6
    )
    along = moved((some, tables))

    def slope(t):
        at = jax.tree.map(lambda x, d: x + t * d, (jnp.asarray(some), tables), along)
        gradient = jax.grad(total, argnums=(0, 1))(*at)
        return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, gradient, along))

    check_grads(jax.jit(slope), (0.0,), order=1, modes=["fwd"], atol=1e-6, rtol=1e-6, eps=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_topk_is_the_beginning_of_the_sorted_distribution(name, monkeypatch):
    """With ties in the order of classes, in blocks, beyond the size of any band."""
    _, tables = LOSSES[name]
    topk = adaptive_topk if isinstance(tables, AdaptiveTables) else differentiated_topk
    monkeypatch.setattr(_band_topk, "_SCORES", 0)  # blocks of 16 tokens
    h = np.concatenate([FEATURES, 30 * FEATURES, np.zeros((1, WIDTH))])  # unsure, sure, even
    log_p = oracle(tables, h)
    for k, found in zip(
        (2, 12), jax.jit(lambda h: (topk(h, tables, 2), topk(h, tables, 12)))(h), strict=True
    ):
        order = np.argsort(-np.round(log_p, 12), axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(log_p, order, axis=1)
        chex.assert_trees_all_close(found.values, best, rtol=1e-11)
        at_classes = np.take_along_axis(log_p, np.asarray(found.classes), axis=1)
        chex.assert_trees_all_close(at_classes, best, rtol=1e-11)
        assert all(len(set(row)) == k for row in found.classes.tolist())

    @jax.jit
    def gradients(h):
        best = jax.grad(lambda h: topk(h, tables, 2).values.sum())
        whole = jax.grad(lambda h: jax.lax.top_k(log_softmax_of(tables)(h, tables), 2)[0].sum())
        return best(h), whole(h)

    chex.assert_trees_all_close(*gradients(FEATURES[:3]), rtol=1e-10, atol=1e-12)


def test_one_band_is_a_softmax_and_so_is_a_differentiated_one_of_full_width():
    table, labels = moved(jnp.zeros((CLASSES, WIDTH))), LABELS["mixed"]

    @jax.jit
    def answers():
        no_clusters = AdaptiveTables([Band(table)], jnp.zeros((0, WIDTH)))
        halves = [Band(table[:5]), Band(table[5:])]
        return (
            cross_entropy(FEATURES @ table.T, labels),
            adaptive_cross_entropy(FEATURES, no_clusters, labels),
            differentiated_cross_entropy(FEATURES, [Band(table)], labels),
            differentiated_cross_entropy(FEATURES, halves, labels),
        )

    expected, *found = answers()
    for losses in found:
        chex.assert_trees_all_close(losses, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["adaptive", "differentiated"])
def test_tokens_that_do_not_count_have_no_loss_and_no_gradient(name):
    """Whatever stands in their features; a label out of range makes a NaN of its own loss only."""
    loss, tables = LOSSES[name]
    h = jnp.asarray(FEATURES[:4]).at[1].set(jnp.nan).at[2].set(jnp.inf)
    labels, where = jnp.array([12, -100, 3, 99]), jnp.array([True, True, False, True])[:, None]

    @jax.jit
    def answers(h, tables):
        def total(h, tables):
            losses = loss(h, tables, labels, where=where, ignore_index=-100)
            return losses.sum(where=jnp.arange(4) < 3), losses

        return jax.grad(total, argnums=(0, 1), has_aux=True)(h, tables)

    gradients, losses = answers(h, tables)
    expected = -oracle(tables, FEATURES[:1])[0, 12]
    chex.assert_trees_all_close(losses, np.array([expected, 0, 0, np.nan]), rtol=1e-12)
    assert (gradients[0][1:] == 0).all()
    chex.assert_tree_all_finite(gradients)


@pytest.mark.parametrize("name", ["adaptive", "differentiated"])
def test_any_shape_any_dtype(name):
    """bfloat16 is computed in float32; axes in front are kept; of no tokens no losses come."""
    loss, tables = LOSSES[name]
    topk = adaptive_topk if name == "adaptive" else differentiated_topk
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tables)
    h, labels = jnp.asarray(FEATURES, jnp.bfloat16), LABELS["mixed"].astype(np.int8)
    found = jax.jit(loss)(h.reshape(3, 3, WIDTH), low, labels.reshape(3, 3))
    assert found.shape == (3, 3) and found.dtype == jnp.float32
    exact = jax.tree.map(lambda x: np.asarray(x, float), low)
    exact = oracle(exact, np.asarray(h, float))[range(TOKENS), labels]
    chex.assert_trees_all_close(found.ravel(), -exact, rtol=1e-5)
    single = jax.eval_shape(lambda: loss(h[0], low, 3))
    assert single.shape == () and single.dtype == jnp.float32

    @jax.jit
    def of_nothing(h):
        losses = loss(h, low, np.zeros(0, int))
        return losses, topk(h, low, 2).classes, log_softmax_of(tables)(h, low)

    empty, classes, log_p = of_nothing(h[:0])
    assert empty.shape == (0,) and empty.dtype == jnp.float32
    assert classes.shape == (0, 2) and log_p.shape == (0, CLASSES)


@pytest.mark.slow
def test_batches_of_tables_and_tokens_are_mapped():
    """vmap maps over loops with different numbers of iterations."""
    tables = jax.tree.map(lambda x: jnp.stack([x, -x]), PLAIN)
    labels = jnp.stack([LABELS["one tail"], LABELS["mixed"]])

    def loss(tables, labels):
        options = BLOCKS["ragged"]
        return adaptive_cross_entropy(FEATURES, tables, labels, **options).sum()

    batched = jax.jit(jax.vmap(jax.value_and_grad(loss)))(tables, labels)
    one = jax.jit(jax.value_and_grad(loss))
    for k in range(2):
        alone = one(jax.tree.map(lambda x, k=k: x[k], tables), labels[k])
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, k=k: x[k], batched), alone, rtol=1e-11, atol=1e-13
        )


def test_small_losses_keep_their_digits():
    """At a gap of 60 in float32, where the difference of a log-sum and a score is 0."""
    h = jnp.ones((1, 1), jnp.float32)
    head = Band(jnp.zeros((1, 1), jnp.float32))
    tail = Band(jnp.array([[60.0], [0.0]], jnp.float32), jnp.ones((1, 1), jnp.float32))
    tables = AdaptiveTables([head, tail], jnp.array([[60.0]], jnp.float32))
    of = jax.jit(jax.value_and_grad(lambda h: adaptive_cross_entropy(h, tables, [1])[0]))
    loss, slope = of(h)
    chex.assert_trees_all_close(loss, np.float32(2 * np.exp(-60.0)), rtol=1e-5)
    chex.assert_trees_all_close(slope[0, 0], np.float32(-120 * np.exp(-60.0)), rtol=1e-5)


def test_memory_does_not_grow_with_the_classes_of_a_cluster():
    """Besides the gradient of its table: the scores of one block, not of all tokens."""
    tokens, classes = 512, 40_000
    tables = jax.eval_shape(lambda: adaptive_tables(KEY, 16, classes, [100], div_value=8.0))
    h = jax.ShapeDtypeStruct((tokens, 16), jnp.float32)
    labels = jax.ShapeDtypeStruct((tokens,), jnp.int32)
    gradient = jax.grad(lambda h, t, y: adaptive_cross_entropy(h, t, y).sum(), argnums=(0, 1))
    memory = jax.jit(gradient).lower(h, tables, labels).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < tokens * classes * 4 / 3


def test_embeddings_are_rows_through_the_transposed_projections():
    ids = np.array([[0, 12], [9, 4]])
    starts, at = [0, *CUTOFFS, CLASSES], np.cumsum([0, 3, 1, 1])
    kinds = ADAPTIVE.bands, PROJECTED, SLICED
    answers = jax.jit(
        lambda ids, bad: (*(band_embedding(ids, b) for b in kinds), band_embedding(bad, SLICED))
    )
    *vectors, bad = answers(ids, jnp.array([-1, CLASSES]))
    assert jnp.isnan(bad).all()
    for bands, found in zip(kinds, vectors, strict=True):
        assert found.shape == (2, 2, WIDTH)
        for place in np.ndindex(2, 2):
            i = np.searchsorted(starts, ids[place], side="right") - 1
            row = np.asarray(bands[i].table)[ids[place] - starts[i]]
            expected = np.zeros(WIDTH)
            if bands is SLICED:
                expected[at[i] : at[i] + len(row)] = row
            else:
                p = bands[i].projection
                expected = row if p is None else row @ np.asarray(p).T
            chex.assert_trees_all_close(found[place], expected, rtol=1e-12)


def cost(counts, cuts, width, div_value, tokens, least):
    """The cost model, term by term."""
    bounds, q = [*cuts, len(counts)], counts / counts.sum()
    total = max(tokens * (cuts[0] + len(cuts)) * width, least)
    for i, (a, b) in enumerate(itertools.pairwise(bounds), 1):
        narrow = max(1, int(width / div_value**i))
        total += max(tokens * q[a:b].sum() * ((b - a) + width) * narrow, least)
    return total


@pytest.mark.parametrize("div_value", [1.0, 3.0])
@pytest.mark.parametrize("least", [0.0, 500.0])
def test_cutoffs_are_those_of_the_least_cost(div_value, least):
    """By going through all of them."""
    counts = 100 / np.arange(1, 15)
    for tails in (1, 2, 3):
        options = {"div_value": div_value, "tokens": 20, "least_work": least}
        found = adaptive_cutoffs(counts, 8, tails, **options)
        costs = {
            cuts: cost(counts, cuts, 8, div_value, 20, least)
            for cuts in itertools.combinations(range(1, 14), tails)
        }
        np.testing.assert_allclose(costs[found], min(costs.values()), rtol=1e-12)


def test_cutoffs_of_a_large_vocabulary_rise_and_cost_about_the_least():
    """The places in between are no better by a thousandth."""
    counts = 1 / np.arange(1, 100_001.0)
    found = adaptive_cutoffs(counts, 512, 2, div_value=1.0)
    assert 0 < found[0] < found[1] < 100_000
    here = cost(counts, found, 512, 1.0, 2048, 1e6)
    near = [
        cost(counts, (int(found[0] * a), int(found[1] * b)), 512, 1.0, 2048, 1e6)
        for a in (0.5, 0.97, 0.99, 1.01, 1.03, 2)
        for b in (0.5, 0.97, 0.99, 1.01, 1.03, 2)
    ]
    assert here < 1.001 * min(near)
    assert adaptive_cutoffs(np.ones(3), 4, 2) == (1, 2)


TABLES = adaptive_tables(KEY, 4, 10, [3, 6])
BANDS = TABLES.bands
H, Y = np.ones((2, 4)), np.array([0, 9])
# Unwrapped, where annotations would speak first.
MISTAKES = {
    "no tables": (lambda: adaptive_cross_entropy(H, BANDS, Y), TypeError, "AdaptiveTables"),
    "no band": (lambda: differentiated_cross_entropy(H, [], Y), TypeError, "at least one"),
    "one band": (
        lambda: unwrap(differentiated_cross_entropy)(H, BANDS[0], Y),
        TypeError,
        "a sequence",
    ),
    "arrays": (lambda: unwrap(differentiated_topk)(H, [H], 1), TypeError, "band 0 is of type"),
    "width": (
        lambda: adaptive_cross_entropy(H[:, :3], TABLES, Y),
        ValueError,
        "takes 4 features, and there are 3",
    ),
    "bands of other widths": (
        lambda: differentiated_log_softmax(H, [Band(np.ones((2, 4))), Band(np.ones((2, 3)))]),
        ValueError,
        "widths that sum to",
    ),
    "table": (lambda: differentiated_topk(H, [Band(H[0])], 1), ValueError, "the table of band 0"),
    "projection": (
        lambda: differentiated_topk(H, [Band(H, np.ones((4, 3)))], 1),
        ValueError,
        r"the shape \[d, 4\]",
    ),
    "bias": (
        lambda: differentiated_topk(H, [Band(H, None, np.ones(3))], 1),
        ValueError,
        "the bias of band 0",
    ),
    "clusters": (
        lambda: adaptive_topk(H, TABLES._replace(clusters=np.ones((3, 4))), 1),
        ValueError,
        r"\(2, 4\)",
    ),
    "biases of clusters": (
        lambda: adaptive_topk(H, TABLES._replace(cluster_bias=np.ones(1)), 1),
        ValueError,
        "`cluster_bias`",
    ),
    "complex": (lambda: adaptive_log_softmax(H * 1j, TABLES), TypeError, "`features`"),
    "a number": (lambda: adaptive_log_softmax(1.0, TABLES), ValueError, "single number"),
    "one target": (lambda: adaptive_cross_entropy(H, TABLES, 1), ValueError, "`labels`"),
    "float targets": (lambda: adaptive_cross_entropy(H, TABLES, Y * 1.0), TypeError, "integers"),
    "text for targets": (
        lambda: unwrap(adaptive_cross_entropy)(H, TABLES, "cat"),
        TypeError,
        "adaptive_cross_entropy: `labels` is 'cat'",
    ),
    "no class": (lambda: adaptive_cross_entropy(H, TABLES, Y + 1), ValueError, "label 10 is ou"),
    "mask": (lambda: adaptive_cross_entropy(H, TABLES, Y, where=Y), TypeError, "`where`"),
    "mask of classes": (
        lambda: adaptive_cross_entropy(H, TABLES, Y, where=np.ones(10, bool)),
        ValueError,
        "not classes",
    ),
    "block": (lambda: adaptive_cross_entropy(H, TABLES, Y, block_tokens=0), ValueError, "block_t"),
    "k": (lambda: adaptive_topk(H, TABLES, 11), ValueError, "`k`"),
    "half a k": (lambda: unwrap(adaptive_topk)(H, TABLES, 1.5), TypeError, "`k`"),
    "cut-offs": (lambda: adaptive_tables(KEY, 4, 10, [6, 3]), ValueError, "must rise"),
    "half a cut-off": (lambda: unwrap(adaptive_tables)(KEY, 4, 10, [2.5]), TypeError, "`cutoffs`"),
    "ratio": (lambda: adaptive_tables(KEY, 4, 10, [3], div_value=0.5), ValueError, "`div_value`"),
    "key": (lambda: unwrap(adaptive_tables)(0, 4, 10, [3]), TypeError, "`key`"),
    "widths": (
        lambda: differentiated_tables(KEY, 4, 10, [3], widths=[3, 2]),
        ValueError,
        "sum to the width",
    ),
    "id": (lambda: band_embedding(np.array([10]), BANDS), ValueError, "id 10 is out of r"),
    "float id": (lambda: band_embedding(np.ones(2), BANDS), TypeError, "`ids`"),
    "text for an id": (
        lambda: unwrap(band_embedding)("cat", BANDS),
        TypeError,
        "band_embedding: `ids` is 'cat'",
    ),
    "rising counts": (lambda: adaptive_cutoffs(np.arange(5), 4), ValueError, "falling count"),
    "negative counts": (lambda: adaptive_cutoffs(-np.ones(5), 4), ValueError, "negative or NaN"),
    "infinite counts": (lambda: adaptive_cutoffs(np.full(5, np.inf), 4), ValueError, "infinite"),
    "no counts": (lambda: adaptive_cutoffs(np.zeros(5), 4), ValueError, "counts are 0"),
    "one class": (lambda: adaptive_cutoffs(np.ones(1), 4), ValueError, "at least two classes"),
    "tails": (lambda: adaptive_cutoffs(np.ones(5), 4, 5), ValueError, "`tails`"),
    "work": (lambda: adaptive_cutoffs(np.ones(5), 4, least_work=-1.0), ValueError, "`least_work`"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()
