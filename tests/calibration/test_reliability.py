"""Confidence against accuracy: bins, errors of calibration, and the Brier score."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles

NAN, INF = np.nan, np.inf
ROWS, CLASSES = 60, 4
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)

rng = np.random.default_rng(0)
P = oracles.sparsemax(rng.normal(size=(ROWS, CLASSES))).astype(float)  # zeros and ones among them
P[:6] = [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25] * 4] * 2  # ties, and confidences on edges
LABELS = rng.integers(0, CLASSES, size=ROWS)
WEIGHTS = rng.integers(0, 3, size=ROWS)
ERRORS = [
    js.expected_calibration_error,
    js.maximum_calibration_error,
    js.classwise_calibration_error,
]
FUNCTIONS = [js.reliability_diagram, *ERRORS]


def bin_of(x, sample, weights, bins, equal_mass):
    """Return the bin of one confidence: the first with an upper edge at or above it."""
    for b in range(bins):
        if equal_mass:
            # In integers: B W(≤ x) ≤ (b + 1) W.
            if bins * weights[sample <= x].sum() <= (b + 1) * weights.sum():
                return b
        elif x <= (b + 1) / bins:
            return b
    raise AssertionError


def diagram(confidence, right, weights, bins, equal_mass):
    """Mean confidence, mean accuracy and weight of every bin, bin by bin."""
    which = np.array([bin_of(x, confidence, weights, bins, equal_mass) for x in confidence])
    found = np.zeros((3, bins))
    for b in range(bins):
        w = weights * (which == b)
        if w.sum():
            found[:, b] = (w * confidence).sum() / w.sum(), (w * right).sum() / w.sum(), w.sum()
    return found


def top(p, labels):
    """Confidence, and the share of the predicted classes that is right."""
    best = p == p.max(-1, keepdims=True)
    return p.max(-1), best[np.arange(len(p)), labels] / best.sum(-1)


def mean_gap(confidence, accuracy, weight):
    return (weight / weight.sum() * np.abs(confidence - accuracy)).sum()


OPTIONS = pytest.mark.parametrize(
    ("bins", "equal_mass"),
    [
        (4, False),
        (7, True),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in [(1, False), (15, False), (4, True)]),
    ],
)


@OPTIONS
def test_bins_are_as_counted_one_by_one(bins, equal_mass):
    for weights in (np.ones(ROWS), WEIGHTS):
        expected = diagram(*top(P, LABELS), weights, bins, equal_mass)
        options = {"equal_mass": equal_mass, "weights": weights}
        near(js.reliability_diagram(P, LABELS, bins, **options), expected)
        near(js.expected_calibration_error(P, LABELS, bins, **options), mean_gap(*expected))
        worst = np.abs(expected[0] - expected[1]).max()
        near(js.maximum_calibration_error(P, LABELS, bins, **options), worst)


@OPTIONS
def test_the_classwise_error_is_the_mean_over_the_classes(bins, equal_mass):
    each = [
        mean_gap(*diagram(P[:, k], k == LABELS, WEIGHTS, bins, equal_mass)) for k in range(CLASSES)
    ]
    found = js.classwise_calibration_error(P, LABELS, bins, equal_mass=equal_mass, weights=WEIGHTS)
    near(found, np.mean(each))


def test_of_two_classes_all_is_said_by_one():
    """Then every class is as far off as the other."""
    p = np.stack([P[:, 0], 1 - P[:, 0]], -1)
    labels = LABELS % 2
    expected = mean_gap(*diagram(p[:, 0], labels == 0, np.ones(ROWS), 1, False))
    near(js.classwise_calibration_error(p, labels, 1), expected)


@pytest.mark.slow
def test_an_edge_belongs_to_the_bin_below_it():
    """0.7 is 7/10 and so in the seventh bin, though 0.7 × 10 > 7 in floats."""
    p = np.array([0.1, 0.3, 0.6, 0.7, 0.9, 1.0])
    p = np.stack([p, 1 - p], -1)
    for dtype in (np.float64, np.float32):
        found = js.reliability_diagram(p.astype(dtype), np.zeros(6, int), 10)
        np.testing.assert_array_equal(found.weight, [0, 0, 0, 0, 0, 1, 2, 0, 2, 1])


def test_bins_of_equal_mass_hold_as_many_and_keep_equals_together():
    p = rng.permutation(np.linspace(0.51, 0.99, 20))
    found = js.reliability_diagram(np.stack([p, 1 - p], -1), LABELS[:20] % 2, 4, equal_mass=True)
    np.testing.assert_array_equal(found.weight, [5, 5, 5, 5])
    p[p < 0.7] = 0.6
    found = js.reliability_diagram(np.stack([p, 1 - p], -1), LABELS[:20] % 2, 4, equal_mass=True)
    np.testing.assert_array_equal(found.weight, [0, 10, 5, 5])  # 8 equals, and the next two


@pytest.mark.parametrize("equal_mass", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_neither_the_order_of_examples_nor_that_of_classes_matters(function, equal_mass):
    rows, classes = rng.permutation(ROWS), rng.permutation(CLASSES)
    turned = P[rows][:, classes], np.argsort(classes)[LABELS[rows]]
    near(function(*turned, 5, equal_mass=equal_mass), function(P, LABELS, 5, equal_mass=equal_mass))


@pytest.mark.parametrize("equal_mass", [False, True])
def test_the_error_of_perfect_probabilities_is_as_small_as_promised(equal_mass):
    """In a bin of n_b the mean gap is at most √(p(1−p)/n_b) ≤ 1/(2√n_b), so that of all at most
    √(bins/n)/2 by Cauchy and Schwarz. The mean of 200 draws is off by far less than it is below."""
    n, bins, draws = 500, 10, 200
    p = jnp.asarray(oracles.softmax(2 * rng.normal(size=(draws, n, 3))).astype(float))
    labels = jax.random.categorical(jax.random.key(0), jnp.log(p))
    error = functools.partial(js.expected_calibration_error, bins=bins, equal_mass=equal_mass)
    mean = jax.vmap(error)(p, labels).mean()
    bound = (bins / n) ** 0.5 / 2
    assert 0.3 * bound < mean < 0.9 * bound


@pytest.mark.parametrize("function", FUNCTIONS)
def test_rows_of_weight_zero_and_masked_classes_cannot_be_seen(function):
    p = np.concatenate([P, np.full((ROWS, 1), NAN)], -1)
    p[0], labels = NAN, jnp.asarray(LABELS).at[0].set(-1)
    weights = np.ones(ROWS)
    weights[0] = 0
    where = np.array([True] * CLASSES + [False])
    found = function(p, labels, 5, where=where, weights=weights)
    expected = function(P[1:], LABELS[1:], 5)
    share = CLASSES / (CLASSES + 1) if function is js.classwise_calibration_error else 1
    near(found, np.asarray(expected) * share)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_to_count_is_no_error(function):
    for found in (
        function(P, LABELS, 5, weights=np.zeros(ROWS)),
        function(P[:0], LABELS[:0], 5),
        function(P[:0], LABELS[:0], 5, equal_mass=True),
    ):
        np.testing.assert_array_equal(found, np.zeros_like(found))


@pytest.mark.parametrize("equal_mass", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_and_labels_that_are_no_class_are_nan(function, equal_mass):
    p = P.copy()
    p[3, 1] = NAN
    no_class = jnp.asarray(LABELS).at[2].set(-1)
    for found in (
        function(p, LABELS, 5, equal_mass=equal_mass),
        function(P, no_class, 5, equal_mass=equal_mass),
    ):
        assert np.isnan(found).all()


def test_gradients_hold_the_bins():
    """Every confidence pulls by its share, upwards in a bin where it is above accuracy."""
    p = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    slope = jax.grad(js.expected_calibration_error)(p, np.array([0, 1, 0, 1]), 4)
    near(slope, [[0.25, 0], [0.25, 0], [-0.25, 0], [0, -0.25]])
    slope = jax.grad(js.maximum_calibration_error)(p, np.array([0, 1, 1, 1]), 4)
    near(slope, [[0.5, 0], [0.5, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize("function", [*FUNCTIONS, js.brier_score])
def test_compiled_and_mapped_it_is_the_same(function):
    p, labels = P.reshape(2, ROWS // 2, CLASSES), LABELS.reshape(2, ROWS // 2)
    expected = [function(*pair) for pair in zip(p, labels, strict=True)]
    found = jax.jit(jax.vmap(function))(p, labels)
    for leaves in zip(jax.tree.leaves(found), *map(jax.tree.leaves, expected), strict=True):
        near(leaves[0], leaves[1:])
    together, rows = function(p, labels), function(P, LABELS)
    near(together, rows.reshape(labels.shape) if function is js.brier_score else rows)


@pytest.mark.parametrize("function", [*FUNCTIONS, js.brier_score])
def test_classes_may_lie_on_any_axes(function):
    near(function(P.T, LABELS, axis=0), function(P, LABELS))
    cube = P.T.reshape(2, 2, ROWS).transpose(0, 2, 1)
    near(function(cube, LABELS, axis=(0, 2)), function(P, LABELS))


@pytest.mark.parametrize("function", [*FUNCTIONS, js.brier_score])
def test_few_digits_are_counted_in_float32(function):
    for dtype in (jnp.bfloat16, np.float32):
        p = jnp.asarray(P, dtype)
        found = function(p, LABELS)
        exact = function(np.asarray(p, np.float64), LABELS)
        for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert leaf.dtype == np.float32
            np.testing.assert_allclose(leaf, expected, rtol=2e-6, atol=1e-7)


def test_the_brier_score_is_a_squared_distance():
    near(js.brier_score(P, LABELS), ((P - np.eye(CLASSES)[LABELS]) ** 2).sum(-1))
    np.testing.assert_array_equal(js.brier_score(np.eye(3), np.array([0, 1, 0])), [0, 0, 2])
    found = js.brier_score(P[:2], jnp.array([CLASSES, 0]))
    assert np.isnan(found[0]) and np.isfinite(found[1])
    masked = js.brier_score(np.array([NAN, 0.5, 0.5]), 1, where=np.array([False, True, True]))
    near(masked, 0.5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.zeros((ROWS, 0))}, "`probabilities` of shape (60, 0) has no classes"),
        ({"probabilities": P + 0j}, "`probabilities` has dtype complex128"),
        ({"labels": LABELS[1:]}, "`labels` have shape (59,), but `probabilities`"),
        ({"labels": np.full(ROWS, "cat")}, "`labels` is array(['cat',"),
        ({"labels": P}, "give integers, one class a row"),
        ({"labels": -LABELS - 1}, "is out of range [0, 4)"),
        ({"axis": (0, 0)}, "must name at least one axis, and none twice"),
        ({"where": np.ones(CLASSES)}, "give it a boolean mask"),
        ({"weights": np.full(ROWS, NAN)}, "`weights` must not be negative, nor NaN"),
        ({"weights": np.ones(2)}, "give one number a row, shape (60,)"),
        ({"bins": 0}, "`bins` must be an integer ≥ 1, got 0"),
    ],
)
def test_mistakes_are_named(function, change, message):
    arguments = {"probabilities": P, "labels": LABELS, **change}
    with pytest.raises((ValueError, TypeError), match=rf"^jsoftmax\.{function.__name__}: ") as told:
        function(**arguments)
    assert message in str(told.value)


def test_mistakes_with_the_brier_score_are_named():
    with pytest.raises(ValueError, match=r"^jsoftmax\.brier_score: `labels` have shape"):
        js.brier_score(P, LABELS[1:])
    with pytest.raises(ValueError, match=r"^jsoftmax\.brier_score: label 4 is out of range"):
        js.brier_score(P, LABELS * 0 + CLASSES)


@pytest.mark.parametrize("bins", [3, 7, 10, 15])
def test_bins_of_equal_mass_hold_the_same_number_where_it_is_whole(bins):
    """An edge that rounds would move an example to the next bin."""
    p = jnp.asarray(np.random.default_rng(bins).random(600 * bins))
    labels = jnp.zeros(p.shape, int)
    diagram = jax.jit(lambda p, labels: js.reliability_diagram(p, labels, bins, equal_mass=True))(
        p, labels
    )
    np.testing.assert_array_equal(diagram.weight, np.full(bins, 600))
