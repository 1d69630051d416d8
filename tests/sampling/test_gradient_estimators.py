"""Gradient estimators against enumeration and quadrature."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import jsoftmax as js
from jsoftmax.sampling import _corrected, _draw, _noise
from tests.draws import KEY, KEYS, ONE_HOT, P_Z, Z, assert_frequencies, assert_mean, near, softmax


def quadratic(x):
    """Not linear, so that biases show; quadratic, so that second-order estimators are exact."""
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])[: x.shape[-1]]
    return ((x @ weights - 0.7) ** 2) + 0.3 * x[0] * x[1] - x[-1]


def cubic(x):
    return quadratic(x) * (1 + x @ jnp.arange(x.shape[-1]))


def exact_gradient(f, p):
    """∂ Σ p_i f(e_i)/∂z, by enumeration."""
    values = np.array([f(e) for e in jnp.eye(len(p))])
    return p * (values - p @ values)


# (estimator, function): the gradients of all of them are compiled, and drawn, together.
ESTIMATES = {
    "plain, T = 0.5": (
        functools.partial(js.straight_through_categorical, temperature=0.5),
        quadratic,
    ),
    "plain, T = 1": (js.straight_through_categorical, quadratic),
    "decoupled": (
        functools.partial(js.decoupled_straight_through, temperature=2.0, forward_temperature=0.5),
        quadratic,
    ),
    "reinmax, T = 1": (js.reinmax, cubic),
    "reinmax, T = 2": (functools.partial(js.reinmax, temperature=2.0), cubic),
    "reinmax-rao, T = 1": (functools.partial(js.reinmax_rao, samples=5), cubic),
    "reinmax-rao, T = 0.5": (functools.partial(js.reinmax_rao, temperature=0.5, samples=1), cubic),
    "gumbel": (functools.partial(js.straight_through_gumbel, temperature=0.3), quadratic),
    "rao": (functools.partial(js.gumbel_rao, temperature=0.3, samples=20), quadratic),
}


@functools.cache
def estimates():
    """(gradients, samples) of every estimate for each of the keys."""

    def gradient(key, name):
        estimator, f = ESTIMATES[name]

        def value(z):
            x = estimator(key, z)
            return f(x), x

        return jax.grad(value, has_aux=True)(jnp.asarray(Z))

    found = jax.jit(jax.vmap(lambda key: {name: gradient(key, name) for name in ESTIMATES}))(KEYS)
    return jax.tree.map(np.asarray, found)


def jacobian(p):
    return np.diag(p) - np.outer(p, p)


def enumerated(derivative, p=P_Z, f=quadratic):
    """Σ p_D ∇f(D) · derivative(D): the mean of an estimator that knows of its noise only D."""
    slopes = jax.vmap(jax.grad(f))(jnp.eye(4))
    return sum(p[i] * derivative(np.eye(4)[i]) @ np.asarray(slopes[i]) for i in range(4))


@pytest.mark.parametrize("t", [0.5, 1.0])
@pytest.mark.slow
def test_plain_straight_through_has_the_mean_that_enumeration_gives(t):
    mean = enumerated(lambda d: jacobian(softmax(Z / t)) / t)
    assert_mean(estimates()[f"plain, T = {t:g}"][0], mean)


def test_plain_straight_through_is_exact_for_linear_functions():
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])
    gradient = jax.grad(lambda z: js.straight_through_categorical(KEY, z) @ weights)(Z)
    near(gradient, exact_gradient(lambda x: x @ weights, P_Z))


def test_decoupled_straight_through_draws_at_one_temperature_and_differentiates_at_another():
    gradients, samples = estimates()["decoupled"]
    p = softmax(Z / 0.5)
    assert_mean(gradients, enumerated(lambda d: jacobian(softmax(Z / 2)) / 2, p))
    assert_frequencies(samples.sum(0), p)


def test_reinmax_is_exact_for_quadratic_functions():
    """To the digits, not only in the limit of many draws."""

    @jax.jit
    @jax.vmap
    def both(key):
        return jax.jacobian(lambda z: (js.reinmax(key, z),) * 2, has_aux=True)(jnp.asarray(Z))

    jacobians, samples = map(np.asarray, both(KEYS[:100]))
    assert set(samples.argmax(-1)) == {0, 1, 2, 3}

    def derivative(d):
        return jacobians[(samples == d).all(-1).argmax()].T

    near(enumerated(derivative), exact_gradient(quadratic, P_Z))


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_reinmax_has_the_mean_that_enumeration_gives(t):
    """Also where it is not exact: of a cubic function, and at another temperature."""
    found = estimates()[f"reinmax, T = {t:g}"][0]
    mean = enumerated(lambda d: 2 * jacobian((softmax(Z / t) + d) / 2) - jacobian(P_Z) / 2, f=cubic)
    assert_mean(found, mean)
    assert abs(mean - exact_gradient(cubic, P_Z)).max() > 0.01


def rejected(theta, d, t, draws=200_000):
    """Estimate the mean of J(softmax((θ + G)/T))/T over noise that makes d win, by rejection."""
    noise = np.random.default_rng(d).gumbel(size=(draws, 4))
    scores = theta + noise
    scores = scores[scores.argmax(-1) == d] / t
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return (np.diag(p.mean(0)) - p.T @ p / len(p)) / t


@pytest.mark.parametrize("t", [1.0, 0.5])
def test_reinmax_rao_averages_the_derivative_of_gumbel_softmax_over_noise_that_draws_the_same(t):
    """By enumeration of D, and for each by rejection of the noise that draws another."""

    def derivative(one_hot):
        theta = np.log((one_hot + P_Z) / 2)
        return 2 * rejected(theta, int(one_hot.argmax()), t) - jacobian(P_Z) / 2

    assert_mean(estimates()[f"reinmax-rao, T = {t:g}"][0], enumerated(derivative, f=cubic))


def test_reinmax_rao_has_less_variance_the_more_samples_and_the_mean_of_one():
    """Of the same D; by Rao and Blackwell the mean stays."""

    def gradients(samples):
        def one(key):
            return jax.grad(lambda z: cubic(js.reinmax_rao(key, z, 0.5, samples=samples)))(Z)

        return np.asarray(jax.jit(jax.vmap(one))(KEYS[:4000]))

    one, many = gradients(1), gradients(20)
    assert (many.var(0) < one.var(0)).all()
    assert_mean(one - many, np.zeros(4))


@pytest.mark.parametrize("t", [1.0, 2.0])
@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_reinmax_cv_has_the_mean_of_reinmax_to_the_digits(t, weight):
    """By enumeration of both samples, for a function of third order."""

    @jax.jit
    @jax.vmap
    def both(key):
        def drawn(z):
            return (js.reinmax_cv(key, z, t, samples=2, weight=weight),) * 2

        return jax.jacobian(drawn, has_aux=True)(jnp.asarray(Z))

    jacobians, samples = map(np.asarray, both(KEYS[:4000]))
    slopes = np.asarray(jax.vmap(jax.grad(cubic))(jnp.eye(4)))
    classes = samples.argmax(-1)
    mean = np.zeros(4)
    for a, b in itertools.product(range(4), repeat=2):
        first, second = jacobians[(classes == (a, b)).all(-1).argmax()]
        mean += P_Z[a] * P_Z[b] * (first.T @ slopes[a] + second.T @ slopes[b]) / 2
    assert len({tuple(pair) for pair in classes}) == 16
    q = softmax(Z / t)
    near(
        mean,
        enumerated(lambda d: 2 * jacobian((q + d) / 2) - jacobian(P_Z) / 2, f=cubic),
    )


def test_reinmax_cv_of_weight_0_is_reinmax_of_each_sample():
    cotangents = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    samples, pull = jax.vjp(lambda z: js.reinmax_cv(KEY, z, samples=3, weight=0.0), Z)
    classes = np.asarray(samples).argmax(-1)
    mine = sum(
        (2 * jacobian((P_Z + np.eye(4)[d]) / 2) - jacobian(P_Z) / 2) @ c
        for d, c in zip(classes, np.asarray(cotangents), strict=True)
    )
    near(pull(cotangents)[0], mine)


def test_reinmax_cv_of_weight_1_has_no_variance_for_linear_functions():
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])

    def gradient(key):
        return jax.grad(lambda z: (js.reinmax_cv(key, z, samples=3, weight=1.0) @ weights).mean())(
            jnp.asarray(Z)
        )

    found = np.asarray(jax.jit(jax.vmap(gradient))(KEYS[:50]))
    near(found, np.broadcast_to(exact_gradient(lambda x: x @ weights, P_Z), found.shape))


def test_reinmax_cv_has_less_variance_than_reinmax_for_a_function_that_bends_little():
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])

    def gradients(weight):
        def one(key):
            def mean(z):
                x = js.reinmax_cv(key, z, samples=4, weight=weight)
                return ((x @ weights + 8) ** 2).mean()

            return jax.grad(mean)(jnp.asarray(Z))

        return np.asarray(jax.jit(jax.vmap(one))(KEYS[:4000]))

    alone, controlled = gradients(0.0).var(0).sum(), gradients(0.5).var(0).sum()
    assert controlled < 0.8 * alone


def test_reinmax_cv_draws_independent_samples_of_softmax():
    samples = np.asarray(jax.jit(jax.vmap(lambda key: js.reinmax_cv(key, Z)))(KEYS))
    first, second = samples[:, 0], samples[:, 1]
    pairs = (first[:, :, None] * second[:, None]).reshape(len(samples), 16)
    assert_frequencies(pairs.sum(0), np.outer(P_Z, P_Z).ravel())


def test_reinmax_cv_refuses_one_sample_and_a_weight_that_is_not_one_finite_number():
    with pytest.raises(ValueError, match="`samples` must be at least 2"):
        js.reinmax_cv(KEY, Z, samples=1)
    with pytest.raises(ValueError, match="`weight` must be finite"):
        js.reinmax_cv(KEY, Z, weight=math.inf)
    with pytest.raises(ValueError, match="`weight` has shape"):
        js.reinmax_cv(KEY, Z, weight=np.ones(2))


def test_leave_one_out_is_unbiased_for_any_function():
    def gradient(key):
        return jax.grad(lambda z: js.reinforce_leave_one_out(key, z, cubic, 3))(Z)

    assert_mean(np.asarray(jax.jit(jax.vmap(gradient))(KEYS)), exact_gradient(cubic, P_Z))


def test_leave_one_out_of_two_is_half_the_difference_times_that_of_the_scores():
    """(f₁ − f₂)(∂log p₁ − ∂log p₂)/2 with ∂log p(e_i) = e_i − p, by hand."""
    pairs = jax.vmap(jax.random.split)(KEYS[:20])
    pairs = np.asarray(
        jax.jit(jax.vmap(jax.vmap(lambda key: js.gumbel_softmax(key, Z, 0.0))))(pairs)
    )
    different = (pairs[:, 0] != pairs[:, 1]).any(-1).argmax()
    first, second = pairs[different]
    assert (first != second).any()
    estimate = jax.jit(jax.value_and_grad(lambda z, key: js.reinforce_leave_one_out(key, z, cubic)))
    value, gradient = estimate(Z, KEYS[different])
    near(value, (cubic(first) + cubic(second)) / 2)
    near(gradient, (cubic(first) - cubic(second)) * (first - second) / 2)


def test_leave_one_out_rewards_rows_or_groups_of_rows_and_differentiates_the_function():
    z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)))
    weights = jnp.arange(4.0)

    @jax.jit
    def jacobians(key):
        def rowwise(z, w):
            return js.reinforce_leave_one_out(key, z, lambda x: (x @ w) ** 2, 3)

        def grouped(z, w):
            return js.reinforce_leave_one_out(key, z, lambda x: ((x @ w) ** 2).sum(-1), 3)

        return [jax.jacobian(f, (0, 1))(z, weights) for f in (rowwise, grouped)]

    (rows, of_weights), (groups, of_weights_too) = jacobians(KEY)
    assert rows.shape == (2, 3, 2, 3, 4) and groups.shape == (2, 2, 3, 4)
    for i, j in itertools.product(range(2), range(3)):
        assert (np.delete(rows[i, j].reshape(6, 4), 3 * i + j, axis=0) == 0).all()
        assert (groups[i, 1 - i] == 0).all() and (groups[i, i] != 0).any()
    near(of_weights.sum(1), of_weights_too)
    assert (of_weights[..., 1:].sum((0, 1)) > 0).all()


def logistic_mean(d, t, slopes):
    """E of straight-through Gumbel for two classes, by quadrature over the logistic G₁ − G₂."""

    def integrand(noise, side):
        share = 1 / (1 + math.exp(-(d + noise) / t))
        return scipy.stats.logistic.pdf(noise) * share * (1 - share) / t * side

    difference = slopes[:, 0] - slopes[:, 1]  # for D = e₁ and D = e₂
    wins = scipy.integrate.quad(integrand, -d, 60, args=(difference[0],))[0]
    loses = scipy.integrate.quad(integrand, -60, -d, args=(difference[1],))[0]
    return wins + loses


@pytest.mark.slow
def test_straight_through_gumbel_has_the_mean_that_quadrature_gives():
    """And Gumbel-Rao the same."""
    t, z = 0.5, jnp.array([0.4, -0.3])
    slopes = np.asarray(jax.vmap(jax.grad(quadratic))(jnp.eye(2)))
    mean = logistic_mean(0.7, t, slopes)

    @jax.jit
    @jax.vmap
    def gradients(key):
        estimators = (js.straight_through_gumbel, ONE_HOT["gumbel_rao"])
        return [jax.grad(lambda z, f=f: quadratic(f(key, z, t)))(z) for f in estimators]

    for found in gradients(KEYS):
        assert_mean(np.asarray(found), np.array([mean, -mean]))


def test_rao_and_blackwell_keep_the_mean_and_lower_the_variance():
    (plain, samples), (better, samples_too) = estimates()["gumbel"], estimates()["rao"]
    np.testing.assert_array_equal(samples, samples_too)
    assert_mean(plain - better, 0)
    assert (better.var(0) < 0.7 * plain.var(0)).all()


def test_conditional_noise_is_noise_and_draws_what_it_is_given():
    """Drawn first D, then z + G given D, each score is that of a Gumbel variable at z."""

    @jax.jit
    @jax.vmap
    def scores(key):
        drawn = _draw.draw("test", key, Z, 1.0, -1, None, None)
        hard = drawn.hard()
        given = _corrected._scores_given(hard, drawn, drawn.ask.z, _noise.another_key(key))
        return hard, given, (given == given.max()) == (hard > 0)

    hard, given, same = scores(KEYS)
    assert np.asarray(same).all()
    for j in range(4):
        distance = scipy.stats.kstest(np.asarray(given)[:, j], "gumbel_r", (Z[j] - Z.max(), 1))
        assert distance.pvalue > 1e-4
    # The largest is one at log Σ exp z, whatever D is.
    for i in range(4):
        largest = np.asarray(given).max(-1)[np.asarray(hard)[:, i] > 0]
        at = np.log(np.exp(Z).sum()) - Z.max()
        assert scipy.stats.kstest(largest, "gumbel_r", (at, 1)).pvalue > 1e-4


def test_straight_through_has_one_value_and_the_other_derivative():
    """To the bit, where soft + (hard − soft) is not; and to second order."""
    z = jnp.array([0.1, 1e-9, 3.0])

    def hard(z):
        return js.straight_through(jnp.round(z), z**3)

    np.testing.assert_array_equal(hard(z), jnp.round(z))
    near(jax.jacobian(hard)(z), np.diag(3 * z**2))
    near(jax.jacfwd(jax.jacrev(hard))(z)[2, 2, 2], 18)
    soft = jnp.array([0.3, 0.7], jnp.float32)
    assert js.straight_through(np.array([0, 1]), soft).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"jsoftmax.straight_through.*\(3,\).*\(2,\)"):
        js.straight_through(np.zeros(3), soft)
    with pytest.raises(TypeError, match="`soft` has dtype int"):
        js.straight_through(soft, np.array([0, 1]))
