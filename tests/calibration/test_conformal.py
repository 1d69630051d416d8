"""Conformal sets: thresholds, scores, and guaranteed coverage."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from sklearn.datasets import load_digits

import jsoftmax as js
from tests import oracles

NAN, INF = np.nan, np.inf
ROWS, CLASSES = 50, 5
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)

rng = np.random.default_rng(0)
Z = rng.normal(size=(ROWS, CLASSES)) * 2
Z[0] = [1, 1, 1, 0, -1]
P = oracles.sparsemax(Z).astype(float)
LABELS = rng.integers(0, CLASSES, size=ROWS)
WEIGHTS = rng.integers(0, 3, size=ROWS)
SCORES = [js.calibration.lac_scores, js.calibration.aps_scores, js.calibration.entmax_scores]
of_labels = np.take_along_axis(Z, LABELS[:, None], 1)[:, 0]


def threshold(scores, coverage):
    """The ⌈(n+1)c⌉-th smallest, c in hundredths."""
    rank = -(-(len(scores) + 1) * round(100 * coverage) // 100)
    return np.append(np.sort(scores), INF)[max(rank, 1) - 1]


@pytest.mark.parametrize("coverage", [0.0, 0.07, 0.5, 0.9, 0.98, 0.99, 1.0])
def test_the_threshold_has_the_rank_of_a_finite_sample(coverage):
    found = js.conformal_threshold(Z, LABELS, coverage)
    np.testing.assert_array_equal(found, threshold(of_labels, coverage))
    traced = jax.jit(js.conformal_threshold)(Z, LABELS, coverage)
    np.testing.assert_array_equal(traced, found)


@pytest.mark.slow
def test_a_whole_rank_is_not_rounded_up():
    """In floats 0.07 × 100 and 0.28 × 25 are above 7; float32 has no 0.9 at all."""
    scores = np.stack([np.arange(99.0), np.zeros(99)], -1)
    for n, coverage in ((99, 0.07), (24, 0.28), (9, 0.9), (99, 0.9)):
        labels = np.zeros(n, int)
        exact = round(coverage * (n + 1)) - 1
        for dtype in (np.float64, np.float32):
            row = scores[:n].astype(dtype)
            assert js.conformal_threshold(row, labels, coverage) == exact
            assert js.conformal_threshold(row, labels, jnp.array(coverage, dtype)) == exact


@pytest.mark.slow
def test_integer_weights_are_repetitions_and_zero_is_absence():
    again = np.repeat(np.arange(ROWS), WEIGHTS)
    z = np.where((WEIGHTS == 0)[:, None], NAN, Z)
    for coverage in (0.1, 0.5, 0.9):
        found = js.conformal_threshold(z, LABELS, coverage, weights=WEIGHTS)
        np.testing.assert_array_equal(
            found, js.conformal_threshold(Z[again], LABELS[again], coverage)
        )
    for n in (0, 3):
        few = np.arange(ROWS) < n
        assert js.conformal_threshold(Z, LABELS, 0.9, weights=few) == INF
    assert js.conformal_threshold(Z[:0], LABELS[:0]) == INF


@pytest.mark.slow
def test_every_class_may_have_a_threshold_of_its_own():
    each = jax.vmap(lambda k: js.conformal_threshold(Z, LABELS, 0.75, weights=k == LABELS))(
        jnp.arange(CLASSES)
    )
    np.testing.assert_array_equal(each, [threshold(of_labels[k == LABELS], 0.75) for k in range(5)])
    np.testing.assert_array_equal(js.conformal_sets(Z, each), np.asarray(each) >= Z)


def test_sets_hold_what_is_not_too_strange():
    sets = js.conformal_sets(Z, 0.3)
    assert sets.dtype == bool
    np.testing.assert_array_equal(sets, Z <= 0.3)
    where = np.arange(CLASSES) < 3
    np.testing.assert_array_equal(js.conformal_sets(Z, INF, where=where), np.tile(where, (ROWS, 1)))
    # Against a NaN nothing is known.
    np.testing.assert_array_equal(
        js.conformal_sets(np.array([NAN, 1.0, 2.0]), 1.0), [True, True, False]
    )
    np.testing.assert_array_equal(js.conformal_sets(np.array([0.0, 1.0]), NAN), [True, True])


def test_a_threshold_of_nan_comes_from_labels_only():
    z = np.where(np.arange(CLASSES) == LABELS[:, None], Z, NAN)
    assert js.conformal_threshold(z, LABELS) == threshold(of_labels, 0.9)
    z[4, LABELS[4]] = NAN
    assert np.isnan(js.conformal_threshold(z, LABELS))
    assert np.isnan(js.conformal_threshold(Z, jnp.asarray(LABELS).at[0].set(9)))


def test_zeros_of_a_sparse_mapping_may_make_every_set_whole():
    """Above a share 1 − c of labels with p = 0 the threshold is the score of every zero."""
    p = np.array([[1.0, 0.0, 0.0]] * 20)
    labels = np.array([0] * 17 + [1] * 3)
    q = js.conformal_threshold(js.calibration.lac_scores(p), labels, 0.8)
    assert q == 0
    np.testing.assert_array_equal(js.conformal_sets(js.calibration.lac_scores(p), q).sum(-1), 1)
    q = js.conformal_threshold(js.calibration.lac_scores(p), labels, 0.9)
    assert q == 1
    np.testing.assert_array_equal(js.conformal_sets(js.calibration.lac_scores(p), q).sum(-1), 3)


def test_lac_scores_are_what_is_missing_to_one():
    near(js.calibration.lac_scores(P), 1 - P)
    np.testing.assert_array_equal(
        js.calibration.lac_scores(np.array([NAN, 0.25]), where=np.array([False, True])), [INF, 0.75]
    )


def adaptive(p, u=1.0, penalty=0.0, free=0):
    """Class by class."""
    more = np.array([[row[row > x].sum() for x in row] for row in p])
    same = np.array([[row[row == x].sum() for x in row] for row in p])
    rank = np.array([[(row >= x).sum() for x in row] for row in p])
    return more + u * same + penalty * np.maximum(rank - free, 0)


def test_adaptive_scores_are_the_mass_down_to_a_class():
    near(js.calibration.aps_scores(P), adaptive(P))
    near(js.calibration.aps_scores(P, penalty=0.1, free=2), adaptive(P, penalty=0.1, free=2))
    key = jax.random.key(3)
    u = jax.random.uniform(key, (ROWS, 1), float)
    found = js.calibration.aps_scores(P, key=key, penalty=0.1)
    near(found, adaptive(P, np.asarray(u), penalty=0.1))
    near(
        js.calibration.aps_scores(
            P, key=jax.random.wrap_key_data(jax.random.key_data(key)), penalty=0.1
        ),
        found,
    )
    assert 0.3 < u.mean() < 0.7 and u.std() > 0.2


def test_equal_probabilities_enter_together():
    p = np.array([0.2, 0.3, 0.3, 0.2, 0.0])
    near(js.calibration.aps_scores(p), [1, 0.6, 0.6, 1, 1])


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0, 3.0])
def test_entmax_scores_are_the_temperatures_at_which_classes_enter(alpha):
    """A hair above it a class has mass, a hair below it has none."""
    scores = np.asarray(js.calibration.entmax_scores(Z, alpha))
    near(jax.jit(js.calibration.entmax_scores)(Z, alpha), scores)
    best = Z.max(-1, keepdims=True) == Z
    np.testing.assert_array_equal(scores == 0, best)
    for k in range(CLASSES):
        t = np.where(best[:, k], 1, scores[:, k])[:, None]
        for factor, enters in ((1 + 1e-6, True), (1 - 1e-6, False)):
            p = oracles.entmax(Z / (t * factor), alpha)[:, k]
            np.testing.assert_array_equal(p > 0, enters | best[:, k])


def test_entmax_scores_of_sparsemax_add_up_what_is_above():
    expected = np.maximum(Z[:, :, None] - Z[:, None, :], 0).sum(1)
    near(js.calibration.entmax_scores(Z, 2.0), expected)
    near(js.calibration.entmax_scores(1e4 + Z * 1e-4, 2.0), expected * 1e-4, rtol=1e-6)


def test_near_softmax_the_score_is_the_margin():
    margin = Z.max(-1, keepdims=True) - Z
    near(js.calibration.entmax_scores(Z, 1 + 1e-6) / 1e-6, margin, rtol=1e-5)


def test_the_conformal_sets_of_entmax_are_its_support():
    """At any temperature except the threshold: there the label has p = 0, up to rounding."""
    t = js.conformal_threshold(js.calibration.entmax_scores(Z), LABELS, 0.8)
    support = js.entmax(Z, temperature=t * (1 + 1e-9)) > 0
    np.testing.assert_array_equal(js.conformal_sets(js.calibration.entmax_scores(Z), t), support)
    entering = support & ~(js.entmax(Z, temperature=t * (1 - 1e-9)) > 0)
    assert entering.sum() == 1  # the label with the threshold as score


@pytest.mark.slow
def test_entmax_scores_at_the_edges():
    z = np.array([[-INF, 1, 0], [INF, 1, INF], [-INF] * 3, [NAN, 1, 2]])
    expected = [[INF, 0, 0.5], [0, INF, 0], [INF] * 3]
    for alpha in (1.5, jnp.array(1.5)):
        found = np.asarray(js.calibration.entmax_scores(z, alpha))
        near(found[:3], expected)
        assert np.isnan(found[3]).all()
    masked = js.calibration.entmax_scores(z, where=np.array([False, True, True]))
    near(masked[3], [INF, 0.5, 0])
    huge = np.array([1, -1, 0.5], np.float32) * np.float32(1e38)
    np.testing.assert_allclose(
        js.calibration.entmax_scores(huge), huge[0] * np.float32([0, 1.25, 0.25]), 1e-6
    )
    orders = jnp.array([[1.0], [INF], [NAN], [2.0]])
    found = js.calibration.entmax_scores(np.array([[1.0, 0.0]] * 4), orders)
    assert np.isnan(found[:3]).all()
    near(found[3], [0, 1])


@pytest.mark.parametrize("function", SCORES)
@pytest.mark.slow
def test_scores_may_lie_on_any_axes_be_compiled_and_mapped(function):
    x = Z if function is js.calibration.entmax_scores else P
    found = function(x)
    near(function(x.T, axis=0), found.T)
    near(jax.jit(jax.vmap(function))(x), found)
    cube = x[:, :4].T.reshape(2, 2, ROWS).transpose(0, 2, 1)
    near(
        np.asarray(function(cube, axis=(0, 2))).transpose(1, 0, 2).reshape(ROWS, 4),
        function(x[:, :4]),
    )
    assert function(x[:0]).shape == (0, CLASSES)
    assert function(jnp.asarray(x, jnp.bfloat16)).dtype == np.float32
    x = np.where(np.arange(CLASSES) == 2, NAN, x)
    where = np.arange(CLASSES) != 2
    assert np.isnan(function(x)[:, 0]).all() or function is js.calibration.lac_scores
    kept = function(x, where=where)
    near(kept[:, where], function(x[:, where]))
    assert (kept[:, 2] == INF).all()


@pytest.mark.slow
def test_the_threshold_takes_all_rows_together():
    q = js.conformal_threshold(Z, LABELS)
    found = js.conformal_threshold(Z.reshape(5, 10, CLASSES), LABELS.reshape(5, 10))
    np.testing.assert_array_equal(found, q)
    np.testing.assert_array_equal(js.conformal_threshold(Z.T, LABELS, axis=0), q)
    cube = Z[:, :4].T.reshape(2, 2, ROWS).transpose(0, 2, 1)
    flat = js.conformal_threshold(Z[:, :4], LABELS % 4)
    np.testing.assert_array_equal(js.conformal_threshold(cube, LABELS % 4, axis=(0, 2)), flat)


# Digits: a linear classifier, trained on some, calibrated on others, judged by the rest.
# More is asked for than the accuracy, which sets of one class would have.
CALIBRATION, COVERAGE = 400, 0.98


@functools.cache
def digits(alpha):
    """Logits and labels to calibrate with, and logits and labels to judge by."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(labels))
    images, labels = images[order] / 16, labels[order]
    train, rest = slice(0, 500), slice(500, None)

    def loss(kernel):
        return js.entmax_loss(images[train] @ kernel, labels[train], alpha=alpha).mean()

    optimizer = optax.adam(0.05)

    def step(state, _):
        kernel, memory = state
        move, memory = optimizer.update(jax.grad(loss)(kernel), memory)
        return (kernel + move, memory), None

    start = jnp.zeros((64, 10))
    train_all = jax.jit(lambda s: jax.lax.scan(step, s, length=150)[0][0])
    logits = images[rest] @ np.asarray(train_all((start, optimizer.init(start))))
    labels, n = labels[rest], CALIBRATION
    return logits[:n], labels[:n], logits[n:], labels[n:]


def fraction_of_luck(covered, of, n, coverage):
    """How probable it is to cover no more, and no fewer.

    Given n calibration examples the coverage of new ones is Beta(k, n + 1 − k), k = ⌈(n+1)c⌉, so
    that the number of those covered is beta-binomial.
    """
    k = math.ceil((n + 1) * coverage - 1e-9)
    luck = scipy.stats.betabinom(of, k, n + 1 - k)
    return luck.cdf(covered), luck.sf(covered - 1)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("score", ["lac", "adaptive", "adaptive, random", "raps", "support"])
@pytest.mark.slow
def test_digits_are_covered_as_promised(score, alpha):
    """Within 1 − 1e-3 of the exact distribution; from below only, where scores may be equal."""
    seen, seen_labels, new, new_labels = digits(alpha)

    def scores(z, seed):
        p = js.entmax(z, alpha)
        return {
            "lac": lambda: js.calibration.lac_scores(p),
            "adaptive": lambda: js.calibration.aps_scores(p),
            "adaptive, random": lambda: js.calibration.aps_scores(p, key=jax.random.key(seed)),
            "raps": lambda: js.calibration.aps_scores(
                p, key=jax.random.key(seed), penalty=0.01, free=2
            ),
            "support": lambda: js.calibration.entmax_scores(z, 1.5),
        }[score]()

    q = js.conformal_threshold(scores(seen, 0), seen_labels, COVERAGE)
    sets = js.conformal_sets(scores(new, 1), q)
    covered = int(sets[np.arange(len(new_labels)), new_labels].sum())
    fewer, more = fraction_of_luck(covered, len(new_labels), CALIBRATION, COVERAGE)
    assert fewer > 1e-3, (covered, len(new_labels), sets.sum(-1).mean())
    if score == "support" or (alpha == 1 and score != "adaptive"):
        assert more > 1e-3, (covered, len(new_labels), sets.sum(-1).mean())


def test_over_many_draws_coverage_has_its_beta_distribution():
    """Of 2000 thresholds from 19 scores: coverage U_(18) has mean 0.9 and the quantiles of Beta."""
    scores = jax.random.uniform(jax.random.key(0), (2000, 19, 1), float)
    labels = np.zeros(19, int)
    q = jax.vmap(lambda s: js.conformal_threshold(s, labels, 0.9))(scores)
    assert scipy.stats.kstest(np.asarray(q), scipy.stats.beta(18, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (0, TypeError, "`key` is 0"),
        (np.zeros(3, np.uint32), ValueError, "`key` of shape (3,) is not a key of the default"),
        (jnp.zeros(2), TypeError, "`key` is an array of dtype float"),
        (
            lambda: jax.random.split(jax.random.key(0)),
            ValueError,
            "`key` of shape (2,) is not one key",
        ),
    ],
)
def test_what_is_no_key_is_named(key, error, message):
    unchecked = inspect.unwrap(js.calibration.aps_scores)  # by the annotations, in the tests
    with pytest.raises(error, match=r"^jsoftmax\.aps_scores: ") as told:
        unchecked(P, key=key() if callable(key) else key)
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: js.conformal_threshold(Z, LABELS, 1.5), "conformal_threshold: `coverage` must be"),
        (lambda: js.conformal_threshold(Z, LABELS, NAN), "conformal_threshold: `coverage` must be"),
        (lambda: js.conformal_threshold(Z, LABELS[1:]), "`labels` have shape (49,), but `scores`"),
        (lambda: js.conformal_threshold(Z, LABELS + 5), "is out of range [0, 5)"),
        (lambda: js.conformal_threshold(Z[:, :0], LABELS), "`scores` of shape (50, 0) has no"),
        (lambda: js.conformal_threshold(Z, LABELS, weights=-WEIGHTS), "`weights` must not be"),
        (lambda: js.conformal_sets(Z, np.ones(3)), "conformal_sets: `threshold` has shape (3,)"),
        (lambda: js.conformal_sets(Z, 1.0, where=1.0), "conformal_sets: `where` has dtype float"),
        (lambda: js.calibration.lac_scores(P, axis=2), "lac_scores: axis 2 is out of range"),
        (
            lambda: js.calibration.aps_scores(P, penalty=-1),
            "aps_scores: `penalty` must be one number ≥ 0",
        ),
        (
            lambda: js.calibration.aps_scores(P, free=np.ones(2)),
            "aps_scores: `free` must be one number ≥ 0",
        ),
        (
            lambda: js.calibration.entmax_scores(Z, 1.0),
            "entmax_scores: `alpha` must be above 1 and finite",
        ),
        (
            lambda: js.calibration.entmax_scores(Z, INF),
            "entmax_scores: `alpha` must be above 1 and finite",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=r"^jsoftmax\.") as told:
        call()
    assert message in str(told.value)
