"""Probabilities of one of two classes, without a class axis."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

import jsoftmax as js

NAN = np.nan
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)
rng = np.random.default_rng(0)
P = rng.random(200)
P[:4] = [0, 1, 0.2, 0.4]
LABELS = (rng.random(200) < P**1.5).astype(int)
W = rng.random(200)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_the_probability_of_class_one_is_compared_with_its_share(equal_mass):
    """As by scikit-learn. Its bins are closed on the other side, but no p here is at an edge."""
    p, y = P[4:], LABELS[4:]
    found = js.reliability_diagram(p, y, 10, equal_mass=equal_mass)
    strategy = "quantile" if equal_mass else "uniform"
    if equal_mass:  # quantiles are interpolated there, so that an example may change its bin
        p, y = p[:190], y[:190]
        order = np.argsort(p)
        found = js.reliability_diagram(p, y, 10, equal_mass=True)
        near(found.confidence, p[order].reshape(10, -1).mean(-1))
        near(found.accuracy, y[order].reshape(10, -1).mean(-1))
    else:
        share, mean = calibration_curve(y, p, n_bins=10, strategy=strategy)
        some = np.asarray(found.weight) > 0
        near(found.accuracy[some], share)
        near(found.confidence[some], mean)
    assert found.weight.sum() == len(p)


def test_errors_are_gaps_of_that_diagram():
    b = np.minimum((np.ceil(P * 5) - 1).clip(0).astype(int), 4)
    gap = np.array([abs((W * (LABELS - P))[b == k].sum()) for k in range(5)])
    mass = np.array([W[b == k].sum() for k in range(5)])
    near(js.expected_calibration_error(P, LABELS, 5, weights=W), gap.sum() / W.sum())
    near(js.maximum_calibration_error(P, LABELS, 5, weights=W), (gap / mass).max())


def test_the_brier_score_is_the_square_and_half_of_that_of_both_classes():
    near(js.brier_score(P, LABELS).mean(), brier_score_loss(LABELS, P))
    near(js.brier_score(P, LABELS) * 2, js.brier_score(np.stack([1 - P, P], -1), LABELS))
    near(js.brier_score(P.reshape(20, 10), LABELS.reshape(20, 10) > 0).ravel(), (P - LABELS) ** 2)
    assert js.brier_score(jnp.bfloat16(0.5), 1) == 0.25
    assert js.brier_score(jnp.bfloat16(0.5), 1).dtype == jnp.float32


def test_what_has_no_weight_is_not_seen_and_nan_spoils_the_rest():
    p = np.where(W > 0.5, P, NAN)
    some = W > 0.5
    near(
        js.expected_calibration_error(p, LABELS, weights=some),
        js.expected_calibration_error(P[some], LABELS[some]),
    )
    assert np.isnan(js.expected_calibration_error(p, LABELS))
    assert np.isnan(js.expected_calibration_error(P, jnp.asarray(LABELS).at[0].set(2)))
    assert np.isnan(js.brier_score(P, jnp.asarray(LABELS).at[0].set(-1))[0])
    assert js.expected_calibration_error(P[:0], LABELS[:0]) == 0


def test_one_row_of_classes_is_still_one_row():
    near(js.brier_score(np.array([0.25, 0.75]), 1), 0.125)
    near(js.brier_score(np.array([[0.25, 0.75]]), np.array([1])), [0.125])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="brier_score: label 2 is neither 0 nor 1"):
        js.brier_score(P, LABELS + 1)
    with pytest.raises(ValueError, match="reliability_diagram: `where` masks classes"):
        js.reliability_diagram(P, LABELS, where=P > 0)
    with pytest.raises(ValueError, match="expected_calibration_error: `weights` have shape"):
        js.expected_calibration_error(P, LABELS, weights=W[:3])
    with pytest.raises(ValueError, match=r"`labels` have shape \(3,\)"):
        js.reliability_diagram(P, LABELS[:3])
