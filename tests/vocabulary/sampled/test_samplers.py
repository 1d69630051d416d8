"""Samplers of classes: frequencies of draws, against expected counts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jsoftmax as js
from jsoftmax.vocabulary.sampled import _points
from jsoftmax.vocabulary.sampled._class_sampler import UniformSampler
from jsoftmax.vocabulary.sampled._weighted_samplers import DistinctSampler
from tests.draws import assert_frequencies

KEY = jax.random.key(3)
CLASSES, DRAWS, SETS = 23, 7, 4000
COUNTS = np.random.default_rng(0).zipf(1.5, CLASSES).clip(1, 300) * 1.0
COUNTS[5] = 0

MAKERS = {
    "uniform": lambda replacement: js.vocabulary.uniform_sampler(CLASSES, replacement=replacement),
    "log-uniform": lambda replacement: js.vocabulary.log_uniform_sampler(
        CLASSES, replacement=replacement
    ),
    "unigram": lambda replacement: js.vocabulary.unigram_sampler(COUNTS, replacement=replacement),
}
PROBABILITIES = {
    "uniform": np.full(CLASSES, 1 / CLASSES),
    "log-uniform": np.diff(np.log(np.arange(1, CLASSES + 2))) / np.log(CLASSES + 1),
    "unigram": COUNTS**0.75 / (COUNTS**0.75).sum(),
}
each_sampler = pytest.mark.parametrize("name", MAKERS)


@jax.jit
def many(sampler, key):
    return sampler.sample(key, (SETS, DRAWS), jnp.arange(CLASSES))


@functools.partial(jax.jit, static_argnums=1)
def expected_counts(sampler, draws=DRAWS):
    return jnp.exp(sampler.log_expected_count(jnp.arange(sampler.classes), draws))


@each_sampler
def test_draws_with_replacement_have_the_frequencies_of_the_distribution(name):
    """Pearson's χ² below its 1 − 1e-4 quantile, for a fixed key; a class of weight 0 never."""
    ids = many(MAKERS[name](True), KEY).ids
    counts, q = np.bincount(ids.ravel(), minlength=CLASSES), PROBABILITIES[name]
    assert counts[q == 0].sum() == 0
    assert_frequencies(counts[q > 0], q[q > 0])


@each_sampler
def test_draws_without_replacement_include_classes_as_often_as_they_say(name):
    """No class twice, and each in so many sets within five standard deviations, for a fixed key."""
    sampler = MAKERS[name](False)
    ids = many(sampler, KEY).ids
    assert (np.diff(np.sort(ids, axis=-1)) > 0).all()
    counts, inclusion = np.bincount(ids.ravel(), minlength=CLASSES), expected_counts(sampler)
    assert inclusion.sum() == pytest.approx(DRAWS, rel=1e-9)
    assert (inclusion <= 1).all()
    # A class as good as always drawn may be missed by rounding of its probability alone.
    scatter = np.sqrt(SETS * inclusion * np.maximum(1 - inclusion, 0))
    np.testing.assert_array_less(abs(counts - SETS * inclusion), 5 * scatter + 1e-4)


@each_sampler
@pytest.mark.parametrize("replacement", [True, False])
def test_candidates_carry_the_counts_of_their_classes_and_of_targets(name, replacement):
    sampler = MAKERS[name](replacement)
    drawn = many(sampler, KEY)
    counts = sampler.log_expected_count(np.arange(CLASSES), DRAWS)
    np.testing.assert_array_equal(drawn.target_log_expected_count, counts)
    found = np.broadcast_to(drawn.log_expected_count, drawn.ids.shape)
    np.testing.assert_array_equal(found, np.asarray(counts)[drawn.ids])


@each_sampler
def test_expected_counts_are_exact(name):
    """With replacement draws · q; without min(1, λ q), summing to the number of draws.

    To the rounding of the weights, 2⁻³¹ of their sum; smaller weights are exact less precisely.
    """
    q = PROBABILITIES[name]
    for draws in (1, DRAWS, 22 if name == "unigram" else 23):
        np.testing.assert_allclose(
            expected_counts(MAKERS[name](True), draws), draws * q, rtol=1e-7, atol=1e-9
        )
        scale, inclusion = 1.0, np.minimum(1, q)
        for _ in range(200):  # λ by fixed-point iteration on those below 1
            free = scale * q < 1
            scale = (draws - (~free).sum()) / q[free].sum() if q[free].any() else scale
            inclusion = np.minimum(1, scale * q)
        if draws == 22 and name == "unigram":
            inclusion = (q > 0) * 1.0
        np.testing.assert_allclose(
            expected_counts(MAKERS[name](False), draws), inclusion, rtol=1e-6, atol=1e-7
        )


def test_the_alias_table_holds_the_weights():
    """To 2⁻³¹/K, and the counts are those of the probabilities of the table, bit for bit."""
    counts = np.random.default_rng(1).zipf(1.3, 1000).clip(0, 10**6)
    weights = counts**0.75
    sampler = js.vocabulary.unigram_sampler(counts)
    held = js.AliasTable.of(weights).probabilities()
    np.testing.assert_allclose(held, weights / weights.sum(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(expected_counts(sampler, 5), 5 * held, rtol=1e-14)


LENGTHS = np.array([3, 50, 1, 20, 9, 7, 5, 0, 4, 3, 2, 1, 1])


def drawn_at_every_turn(monkeypatch, sampler, units, draws):
    """Draws with the circle turned by every number of units, and points moved a little, or far."""

    def points(key, shape, limit):
        if shape == (units, 1):
            return jnp.broadcast_to(jnp.arange(units, dtype=jnp.uint32)[:, None], shape)
        move = jax.random.bits(key, shape[1:], jnp.uint32)
        return jnp.broadcast_to(move, shape) % jnp.asarray(limit, jnp.uint32)

    monkeypatch.setattr(_points, "independent_points", points)
    ids = jax.jit(lambda: sampler._drawn(KEY, (units, draws)))()
    assert (np.diff(np.sort(ids, axis=-1)) > 0).all()
    return np.bincount(ids.ravel(), minlength=sampler.classes)


@pytest.mark.parametrize("draws", [2, 3, 8, 12])
def test_inclusion_probabilities_are_exact_to_the_unit(draws, monkeypatch):
    """Over all turns of the circle each class is drawn as often as stated, and never twice."""
    sampler = DistinctSampler.of_lengths(LENGTHS)
    units = int(LENGTHS[~cut_out(draws)].sum())
    counts = drawn_at_every_turn(monkeypatch, sampler, units, draws)
    np.testing.assert_allclose(counts, units * expected_counts(sampler, draws), rtol=1e-12)
    assert (counts[cut_out(draws)] == units).all()


@pytest.mark.parametrize("draws", [2, 5, 13])
def test_uniform_inclusion_probabilities_are_exact_to_the_unit(draws, monkeypatch):
    counts = drawn_at_every_turn(monkeypatch, UniformSampler(13, False), 13, draws)
    np.testing.assert_array_equal(counts, draws)


def cut_out(draws):
    """Which arcs are longer than their share, by cutting out one at a time."""
    cut = np.zeros(LENGTHS.size, bool)
    while True:
        rest = np.where(cut, 0, LENGTHS)
        if rest.max() <= rest.sum() // (draws - cut.sum()):
            return cut
        cut[rest.argmax()] = True


def test_points_turn_around_also_where_their_sum_has_more_than_32_bits():
    units = 2**32 - 3
    turn, place = (np.array([0, units - 1, units - 1, 5, 2**31]), [7, 1, units - 1, 9, 2**31 - 4])
    found = _points.turned(*(jnp.asarray(x, jnp.uint32) for x in (turn, place, units)))
    np.testing.assert_array_equal(found, (turn + np.array(place)) % units)


def test_what_is_rare_may_be_drawn_at_all():
    """A weight too small for a unit gets one; a huge one leaves the others theirs."""
    sampler = js.vocabulary.unigram_sampler([1e30, 1.0, 1.0, 0.0], power=1, replacement=False)
    drawn = jax.jit(lambda: sampler.sample(KEY, (3,)).ids)()
    assert set(drawn.tolist()) == {0, 1, 2}
    np.testing.assert_allclose(expected_counts(sampler, 2), [1, 0.5, 0.5, 0], rtol=1e-6)
    same = js.vocabulary.unigram_sampler([1e300, 0, 1e-300], power=0)
    np.testing.assert_allclose(expected_counts(same, 2), [1, 0, 1], rtol=1e-9)


def test_drawing_takes_no_memory_of_the_size_of_the_classes():
    for replacement in (True, False):
        needed = []
        for classes in (500, 100_000):
            sampler = js.vocabulary.log_uniform_sampler(classes, replacement=replacement)
            ready = jax.jit(lambda s, k: s.sample(k, (9,))).lower(sampler, KEY).compile()
            needed.append(ready.memory_analysis().temp_size_in_bytes)
        assert needed[1] <= needed[0] + 1024


def test_samplers_are_immutable_pytrees():
    """They pass through `jit`, `scan` and `vmap`, and a stack of them through `vmap` too."""
    drawn = jax.jit(lambda sampler, key: sampler.sample(key, (3,)).ids)
    for sampler in (
        js.vocabulary.uniform_sampler(9),
        UNIGRAM,
        js.vocabulary.log_uniform_sampler(9),
    ):
        leaves, tree = jax.tree.flatten(sampler)
        one = drawn(sampler, KEY)
        np.testing.assert_array_equal(drawn(jax.tree.unflatten(tree, leaves), KEY), one)
        with pytest.raises(dataclasses.FrozenInstanceError):
            sampler.classes = 3
        stack = jax.tree.map(lambda x: jnp.stack([x, x]), sampler)
        both = jax.jit(jax.vmap(drawn))(stack, jnp.stack([KEY, KEY]))
        np.testing.assert_array_equal(both, [one, one])


def test_targets_of_a_batch_are_candidates_for_each_other():
    """(n − 1) q of each; negative labels take no part, in numbers neither."""
    q = PROBABILITIES["log-uniform"]
    y = np.array([[1, 4, 1], [0, -1, 2]])
    found = js.vocabulary.in_batch_candidates(y, np.log(q)[y])
    np.testing.assert_array_equal(found.ids, y.ravel())
    np.testing.assert_allclose(np.exp(found.log_expected_count), 4 * q[y].ravel(), rtol=1e-12)
    np.testing.assert_array_equal(found.target_log_expected_count.ravel(), found.log_expected_count)
    assert js.vocabulary.in_batch_candidates(y[0, :1], np.zeros(1)).log_expected_count == 0
    assert (
        js.vocabulary.in_batch_candidates(y, np.float32(q)[y]).log_expected_count.dtype
        == jnp.float32
    )


UNIGRAM = js.vocabulary.unigram_sampler(COUNTS, replacement=False)
MISTAKES = {
    "key": (lambda: UNIGRAM.sample(0, (3,)), TypeError, r"ClassSampler.sample: `key`.*random.key"),
    "keys": (lambda: UNIGRAM.sample(jax.random.split(KEY), (3,)), ValueError, "one key"),
    "size": (lambda: UNIGRAM.sample(KEY, 3), TypeError, r"did you mean \(3,\)|Did you mean \(3,\)"),
    "no draws": (lambda: UNIGRAM.sample(KEY, ()), ValueError, "number of draws"),
    "too many": (lambda: UNIGRAM.sample(KEY, (23,)), ValueError, "only 22 have a positive weight"),
    "too many of all": (
        lambda: js.vocabulary.uniform_sampler(4, replacement=False).sample(KEY, (5,)),
        ValueError,
        "5 different classes",
    ),
    "targets": (lambda: UNIGRAM.sample(KEY, (3,), [0.5]), TypeError, "`labels`.*integers"),
    "no target": (lambda: UNIGRAM.sample(KEY, (3,), [23]), ValueError, "range .0, 23"),
    "no class": (lambda: UNIGRAM.log_expected_count(-1, 3), ValueError, "`ids` is out of r"),
    "draws": (lambda: UNIGRAM.log_expected_count(1, 0), ValueError, "at least 1"),
    "text": (
        lambda: UNIGRAM.log_expected_count("cat", 1),
        TypeError,
        r"log_expected_count: `ids` is 'cat'",
    ),
    "half a draw": (lambda: UNIGRAM.log_expected_count(1, 0.5), TypeError, "integer"),
    "classes": (lambda: js.vocabulary.uniform_sampler(0), ValueError, "uniform_sampler: `classes`"),
    "a float": (
        lambda: js.vocabulary.log_uniform_sampler(3.0),
        TypeError,
        "log_uniform_sampler: `classes`",
    ),
    "counts": (
        lambda: js.vocabulary.unigram_sampler([1, -2]),
        ValueError,
        "unigram_sampler: weight 1 is -2",
    ),
    "no counts": (
        lambda: js.vocabulary.unigram_sampler([0, 0]),
        ValueError,
        "all 2 weights are zero",
    ),
    "traced counts": (
        lambda: jax.jit(js.vocabulary.unigram_sampler)(jnp.ones(3)),
        TypeError,
        "unigram_sampler: `counts` are traced",
    ),
    "power": (lambda: js.vocabulary.unigram_sampler([1.0], power=np.nan), ValueError, "`power`"),
    "powers": (
        lambda: js.vocabulary.unigram_sampler([1.0], power=np.ones(2)),
        TypeError,
        "`power`",
    ),
    "batch": (
        lambda: js.vocabulary.in_batch_candidates([1.0], [0.0]),
        TypeError,
        "`labels`.*integers",
    ),
    "batch of another shape": (
        lambda: js.vocabulary.in_batch_candidates([1, 2], [0.0]),
        ValueError,
        r"one log-probability for each target",
    ),
}


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name, unchecked):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()


def test_numbers_in_an_array_are_not_checked():
    """A number that is no class has no count: NaN."""
    counts = UNIGRAM.log_expected_count(jnp.array([-1, 0, CLASSES], jnp.int8), 3)
    np.testing.assert_array_equal(np.isnan(counts), [True, False, True])
