"""Shared by the tests of sampling: keys, samplers, and tests of draws.

A mean is compared within five of its standard errors, a sum of squares or a greatest distance with
the value that one test in 10,000 would pass by chance. Keys are fixed.
"""

import functools

import jax
import numpy as np
import pytest
import scipy.stats

import jsoftmax as js

KEY = jax.random.key(7)
DRAWS = 10_000
KEYS = jax.random.split(KEY, DRAWS)
Z = np.array([0.5, -0.3, 1.2, 0.0])
P_Z = np.exp(Z) / np.exp(Z).sum()
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)

# All that return a sample of the shape of the logits, at some setting of their own.
ONE_HOT = {
    "straight_through_categorical": js.straight_through_categorical,
    "straight_through_gumbel": js.straight_through_gumbel,
    "gumbel_rao": functools.partial(js.gumbel_rao, samples=3),
    "reinmax": js.reinmax,
    "reinmax_rao": functools.partial(js.reinmax_rao, samples=3),
    "decoupled_straight_through": js.decoupled_straight_through,
}
RELAXED = {
    "gumbel_softmax": js.gumbel_softmax,
    "gumbel_entmax": js.gumbel_entmax,
}
SAMPLERS = ONE_HOT | RELAXED


def each(table):
    return pytest.mark.parametrize("name", table)


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


def assert_mean(draws, mean):
    """Within five standard errors."""
    error = draws.std(0) / np.sqrt(len(draws))
    np.testing.assert_array_less(abs(draws.mean(0) - mean), 5 * error + 1e-12)


def assert_frequencies(counts, p):
    """Pearson's χ², against its quantile at 1 − 1e-4."""
    expected = np.asarray(p) * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-4, len(p) - 1)
