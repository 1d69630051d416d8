"""Draws without replacement, their relaxation, and densities of relaxed samples."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

import jsoftmax as js
from tests.draws import DRAWS, KEY, KEYS, Z, assert_frequencies, near, softmax

INF, NAN = np.inf, np.nan


def enumerated_draws(z, k):
    """Ordered draws without replacement and their probabilities."""
    table = {}
    for order in itertools.permutations(np.flatnonzero(np.isfinite(z)), k):
        left, p = np.exp(z).sum(), 1.0
        for i in order:
            p, left = p * np.exp(z[i]) / left, left - np.exp(z[i])
        table[order] = p
    return table


def test_draws_without_replacement_are_as_frequent_as_enumeration_says():
    z = np.array([0.5, -0.3, -INF, 1.2, 0.0])
    table = enumerated_draws(z, 2)
    near(sum(table.values()), 1)
    draw = jax.jit(jax.vmap(lambda key: js.gumbel_topk(key, z, 2)))(KEYS)
    found = [tuple(pair) for pair in np.asarray(draw.indices)]
    near(np.exp(draw.log_prob), [table[pair] for pair in found])
    assert_frequencies(np.array([found.count(pair) for pair in table]), list(table.values()))


@pytest.mark.parametrize("k", [3, 5])
def test_the_probability_of_a_draw_and_its_derivative_are_those_of_the_formula(k):
    """Who is left before each draw, summed anew; also where nobody is left after the last."""
    z = jnp.array([0.5, -0.3, 0.8, 1.2, 0.0])

    @jax.jit
    def both(z):
        def drawn(z):
            draw = js.gumbel_topk(KEY, z, k)
            return draw.log_prob, draw.indices

        def formula(z, order):
            left, log_prob = jnp.ones(5, bool), 0.0
            for i in order:
                log_prob += z[i] - jnp.log(jnp.where(left, jnp.exp(z), 0).sum())
                left = left.at[i].set(False)
            return log_prob

        (value, order), gradient = jax.value_and_grad(drawn, has_aux=True)(z)
        return (value, gradient), jax.value_and_grad(formula)(z, order)

    (value, gradient), (right, slope) = both(z)
    near(value, right)
    near(gradient, slope, atol=1e-11)


def test_probabilities_of_draws_do_not_cancel():
    """A class with all of the mass leaves e⁻²⁰⁰ for the second draw, and that is shared right."""
    z = jnp.array([200.0, 0.0, 1.0, 0.0], jnp.float32)
    draw = jax.jit(lambda z: js.gumbel_topk(KEY, z, 2))(z)
    shares = [0.0, *np.log(softmax(np.array([0.0, 1, 0])))]
    np.testing.assert_allclose(draw.log_prob, shares[draw.indices[1]], rtol=1e-6)


def test_a_row_with_too_few_classes_says_so():
    z = jnp.array([[0.0, -INF, 1.0], [-INF, -INF, -INF], [0.0, 1.0, 2.0]])

    def drawn(z):
        draw = js.gumbel_topk(KEY, z.T, 3, axis=0)
        masked = js.gumbel_topk(KEY, jnp.array([0.0, NAN, 1.0]), 2, where=jnp.array([1, 0, 1]) > 0)
        return draw.log_prob[2], (draw, masked)

    gradient, (draw, masked) = jax.jit(jax.grad(drawn, has_aux=True))(z)
    assert draw.indices.shape == (3, 3)
    assert sorted(draw.indices[:, 0].tolist()) == [-1, 0, 2]
    assert (draw.indices[:, 1] == -1).all()
    assert (draw.log_prob[:2] == -INF).all() and np.isfinite(draw.log_prob[2])
    assert np.isfinite(gradient).all() and (gradient[2] != 0).any()
    assert sorted(masked.indices.tolist()) == [0, 2]


@pytest.mark.parametrize("regularizer", [js.Tsallis(2.0), js.FermiDirac()])
def test_relaxed_subsets_become_those_drawn_without_replacement(regularizer):
    z = jnp.asarray(np.random.default_rng(3).standard_normal((20, 6)))

    @jax.jit
    def samples(t):
        return js.relaxed_topk(KEY, z, 2, temperature=t, regularizer=regularizer)

    hot = jax.nn.one_hot(jax.jit(lambda z: js.gumbel_topk(KEY, z, 2).indices)(z), 6).sum(-2)
    near(samples(0.0), hot, atol=1e-7 if regularizer == js.FermiDirac() else 0)
    soft = samples(0.7)
    near(soft.sum(-1), 2)
    assert (soft >= 0).all() and (soft <= 1).all() and ((soft > 0) & (soft < 1)).any()
    near(samples(1e-6), hot, atol=1e-6)


def concrete(x, z, t):
    """The density of the paper, written down factor by factor."""
    n = len(z)
    weighed = np.exp(z) * x ** (-t)
    return math.factorial(n - 1) * t ** (n - 1) * np.prod(weighed / x) / weighed.sum() ** n


@jax.jit
def relaxed_pairs(t):
    """The first of two classes, for each key."""
    return jax.vmap(lambda key: js.gumbel_softmax(key, Z[:2], t)[0])(KEYS)


@jax.jit
def density(x, z, t):
    return jnp.exp(js.concrete_log_prob(x, z, t))


def test_a_relaxed_sample_of_two_is_a_logistic_function_of_logistic_noise():
    x, t = np.asarray(relaxed_pairs(0.7)), 0.7
    noise = t * np.log(x / (1 - x)) - (Z[0] - Z[1])
    assert scipy.stats.kstest(noise, "logistic").pvalue > 1e-4


@pytest.mark.parametrize("t", [0.4, 1.0, 3.0])
def test_the_concrete_density_is_that_of_the_paper_and_integrates_to_one(t):
    x = np.random.default_rng(5).dirichlet(np.ones(4), 50)
    near(density(x, Z, t), [concrete(row, Z, t) for row in x], rtol=1e-10)
    # Over u with x = u³(10 − 15u + 6u²), which takes the poles at the ends away.
    u, weight = np.polynomial.legendre.leggauss(400)
    u, weight = (u + 1) / 2, weight / 2
    first = u**3 * (10 - 15 * u + 6 * u**2)
    jacobian = 30 * u**2 * (1 - u) ** 2
    pair = np.stack([first, 1 - first], -1)
    total = (density(pair, Z[:2], t) * jacobian * weight).sum()
    np.testing.assert_allclose(total, 1, atol=1e-4)
    # And its mean is that of the samples.
    mean = (density(pair, Z[:2], t) * first * jacobian * weight).sum()
    samples = relaxed_pairs(t)
    assert abs(samples.mean() - mean) < 5 * samples.std() / np.sqrt(DRAWS) + 1e-4


def test_the_density_of_the_logarithm_holds_where_samples_underflow():
    log_density = jax.jit(lambda y, z, t: js.exp_concrete_log_prob(y, z, t))
    sample = jax.jit(lambda z, t: (js.gumbel_softmax(KEY, z, t), js.gumbel_log_softmax(KEY, z, t)))
    x = np.random.default_rng(5).dirichlet(np.ones(4), 50)
    near(log_density(np.log(x), Z, 0.4), np.log(density(x, Z, 0.4)) + np.log(x).sum(-1), rtol=1e-10)
    x, y = sample(Z.astype(np.float32), np.float32(1e-3))
    assert (x == 0).any() and np.isfinite(y).all() and y.dtype == np.float32
    exact = log_density(np.asarray(y, np.float64), Z, 1e-3)
    cold = np.float32(1e-3)
    np.testing.assert_allclose(log_density(y, Z.astype(np.float32), cold), exact, rtol=1e-5)
    x, y = sample(Z, 0.5)
    near(np.exp(y), x)
    check_grads(log_density, (y, Z, 0.7), order=1, modes=("rev",), eps=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_classes_that_cannot_be_drawn_do_not_count_in_the_density():
    z = np.array([0.5, -INF, 1.2, 3.0])
    x, where = np.array([0.3, 0.0, 0.7, NAN]), np.array([True, True, True, False])

    @jax.jit
    @jax.value_and_grad
    def density(z, x):
        return js.concrete_log_prob(x, z, 0.5, where=where)

    value, gradient = map(np.asarray, density(z, x))
    near(value, np.log(concrete(x[[0, 2]], z[[0, 2]], 0.5)))
    assert (gradient[[1, 3]] == 0).all() and (gradient[[0, 2]] != 0).all()
    assert density(z, np.array([0.3, 0.1, 0.6, 0.0]))[0] == -INF

    @jax.jit
    def others():
        part = jax.vmap(
            lambda x, z: js.concrete_log_prob(x, z, 0.5, axis_name="parts"), axis_name="parts"
        )
        return (
            js.concrete_log_prob(np.zeros(2), np.full(2, -INF)),
            js.concrete_log_prob(np.array([0.0, 1.0]), np.zeros(2), 0.01),
            js.concrete_log_prob(np.full(2, 0.5), np.zeros(2), jnp.array(0.0)),
            js.concrete_log_prob(np.full((5, 4), 0.25), Z, np.full((5, 1), 0.5)),
            part(x[[0, 2]].reshape(2, 1), z[[0, 2]].reshape(2, 1)),
        )

    empty, border, frozen, many, split = others()
    assert empty == 0 and np.isfinite(border) and np.isnan(frozen) and many.shape == (5,)
    near(many, np.log(concrete(np.full(4, 0.25), Z, 0.5)))
    near(split, value)
