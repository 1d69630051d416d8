"""Sums over many examples, more precise than one float32 accumulator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from jsoftmax.calibration._sums import bin_sums, cumulative, for_rows, total

N = 200_000


def examples(n, seed=0):
    """Confidences in ascending order, the worst for sums in order, and labels that agree."""
    rng = np.random.default_rng(seed)
    confidence = np.sort(rng.uniform(0.5, 1, n)).astype(np.float32)
    p = np.stack([confidence, 1 - confidence], -1)
    return p, (rng.random(n) > confidence).astype(np.int32)


def gap(p, labels, bins):
    """The expected calibration error, in float64 of numpy."""
    confidence, right = p.max(-1), p.argmax(-1) == labels
    edges = np.arange(1, bins, dtype=np.float32) / np.float32(bins)
    which = np.searchsorted(edges, confidence)
    sums = (np.bincount(which, x, bins) for x in (right, confidence.astype(np.float64)))
    return np.abs(np.subtract(*sums)).sum() / len(p)


def check(n):
    # Equal confidences: every sum is of one number, and rounds the same way each time.
    confidence = np.full(n, 0.999, np.float32)
    labels = (np.random.default_rng(0).random(n) > 0.989).astype(np.int32)
    p = np.stack([confidence, 1 - confidence], -1)
    expected = abs((labels == 0).mean() - np.float64(confidence[0]))
    for function in (js.expected_calibration_error, js.maximum_calibration_error):
        assert abs(float(function(p, labels)) - expected) < 1e-6
    diagram = js.reliability_diagram(p, labels)
    assert diagram.weight.sum() == n
    p, labels = examples(n)
    for bins in (15, 100):
        error = float(js.expected_calibration_error(p, labels, bins))
        assert abs(error - gap(p, labels, bins)) < 1e-6


def test_calibration_errors_of_many_are_right_to_1e_6():
    check(N)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2_000_000, 20_000_000])
def test_calibration_errors_of_tens_of_millions_are_right_to_1e_6(n):
    check(n)


@pytest.mark.parametrize("value", [0.999, 0.1, 1e-30])
def test_a_sum_in_pairs_is_right_to_one_eps(value):
    """Of equal numbers, of numbers in ascending order, and of those that cancel."""
    same = np.full(1_000_003, value, np.float32)
    eps = float(jnp.finfo(jnp.float32).eps)
    for x in (same, same * np.arange(len(same), dtype=np.float32)):
        expected = np.sum(x, dtype=np.float64)
        assert abs(float(total(jnp.asarray(x))) - expected) <= eps * expected
    cancelling = np.concatenate([x, -x[:-1]])
    assert abs(float(total(jnp.asarray(cancelling))) - x[-1]) <= eps * x[-1] + eps**2 * expected


def test_a_sum_in_pairs_keeps_infinity_and_nan_and_is_linear():
    assert total(jnp.array([1.0, np.inf, 2.0])) == np.inf
    assert np.isnan(total(jnp.array([np.inf, 1.0, -np.inf])))
    assert np.isnan(total(jnp.array([1.0, np.nan, 2.0])))
    np.testing.assert_array_equal(total(jnp.arange(10.0).reshape(5, 2)), [20, 25])
    np.testing.assert_array_equal(total(jnp.zeros((0, 2))), [0, 0])
    np.testing.assert_array_equal(jax.grad(lambda x: 2 * total(x))(jnp.ones(5)), np.full(5, 2))


def test_what_rows_share_is_pulled_back_by_that_sum():
    slopes = jnp.full((1_000_003, 2, 1), 0.999, jnp.float32)
    pulled = jax.vjp(lambda x: for_rows(x, slopes.shape), jnp.ones((1, 2, 1), jnp.float32))[1](
        slopes
    )[0]
    np.testing.assert_allclose(
        pulled[0, :, 0], np.float64(slopes[0, 0]).repeat(2) * 1_000_003, 2e-7
    )


@pytest.mark.slow
def test_partial_sums_of_ones_count_beyond_the_integers_of_a_float():
    """Weights 0 and 1, with more ones than float32 counts: 2²⁴ + 64."""
    n = 2**12 + 64
    found = np.asarray(cumulative(jnp.ones(n, jnp.float32)), np.float64)
    np.testing.assert_array_equal(found / found[0], np.arange(1, n + 1))


@pytest.mark.parametrize("bins", [3, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_hold_the_sums_of_what_falls_into_them(bins, dtype):
    rng = np.random.default_rng(1)
    which = rng.integers(0, bins, 70_001)
    values = (np.exp(rng.normal(0, 3, 70_001)).astype(dtype), np.ones(70_001, dtype))
    found = bin_sums(tuple(map(jnp.asarray, values)), jnp.asarray(which, jnp.int32), bins)
    eps = float(jnp.finfo(dtype).eps)
    for sums, v in zip(found, values, strict=True):
        expected = np.bincount(which, v, bins)
        np.testing.assert_allclose(np.asarray(sums, np.float64), expected, 3 * eps + 1e-12)
        assert sums.dtype == dtype


def test_bins_are_differentiated_as_sums():
    which = jnp.array([0, 2, 0, 1])

    def squares(v):
        return (bin_sums((v,), which, 3)[0] ** 2).sum()

    v = jnp.array([0.5, 2.0, 1.0, 0.25])
    np.testing.assert_allclose(jax.grad(squares)(v), 2 * np.array([1.5, 2.0, 1.5, 0.25]))
    tangent = jax.jvp(squares, (v,), (jnp.ones(4),))[1]
    np.testing.assert_allclose(tangent, 2 * (1.5 + 2.0 + 1.5 + 0.25))


@pytest.mark.slow
def test_a_temperature_of_many_is_that_of_few():
    """Every example a hundred thousand times: nothing changes."""
    z = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [1.0, 1.5, -2.0]], np.float32)
    labels = np.array([0, 2, 1])
    for function, tolerance in ((js.temperature_scaling, 2e-6), (js.vector_scaling, 1e-4)):
        few = function(z, labels)
        many = function(np.tile(z, (N // 3, 1)), np.tile(labels, N // 3))
        jax.tree.map(lambda a, b, t=tolerance: np.testing.assert_allclose(a, b, t, t), many, few)


@pytest.mark.slow
def test_a_threshold_of_many_has_the_rank_asked_for():
    n = 1_000_003
    scores = np.random.default_rng(0).permutation(n).astype(np.float32)[:, None]
    labels = np.zeros(n, np.int32)
    for weights in (None, np.ones(n, np.float32)):
        found = float(js.conformal_threshold(scores, labels, 0.9, weights=weights))
        assert abs(found + 1 - np.ceil(0.9 * (n + 1))) <= 1e-6 * n
