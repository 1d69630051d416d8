"""Policies: draws, their log-probabilities, and divergences between policies."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

import jsoftmax as js
from tests import oracles

INF, NAN = np.inf, np.nan
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
RNG = np.random.default_rng(5)
Z = RNG.standard_normal((4, 5))
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
KEY = jax.random.key(3)
checked = functools.partial(check_grads, order=1, eps=1e-5, rtol=1e-5, atol=1e-6)


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def policy(z, alpha, mask, temperature, epsilon):
    """(1 − ε) entmax(z/T) + ε u, in numpy, row by row."""
    p = np.zeros(z.shape)
    for row, scores, allowed in zip(p, z, mask, strict=True):
        best = oracles.entmax(scores[allowed][None] / (temperature or 1e-30), alpha)[0]
        row[allowed] = (1 - epsilon) * best.astype(float) + epsilon / allowed.sum()
    return p


@functools.cache
def log_probs(alpha, mixes):
    """(z, mask, T, ε) → the log-probability of every action of every row."""

    def every(z, mask, temperature, epsilon):
        options = {"where": mask, "temperature": temperature}
        if mixes:
            options["epsilon"] = epsilon
        return jax.vmap(
            lambda action: js.policies.log_prob(
                z, jnp.full(z.shape[:-1], action), alpha=alpha, **options
            ),
            out_axes=-1,
        )(jnp.arange(z.shape[-1]))

    return jax.jit(every)


@pytest.mark.parametrize(
    ("alpha", "epsilon"), [(1.0, 0.0), (1.5, 0.0), (INF, 0.0), (1.0, 0.2), (1.5, 0.2), (INF, 0.2)]
)
def test_log_prob_is_the_logarithm_of_the_policy(alpha, epsilon):
    """Of masked and of sparse actions −∞; at temperature 0 the policy is greedy."""
    for temperature in (0.0, 0.3, 2.0):
        expected = policy(Z, alpha, MASK, temperature, epsilon)
        with np.errstate(divide="ignore"):
            log = np.log(expected)
        near(log_probs(alpha, epsilon > 0)(Z, MASK, temperature, epsilon), log)
        p = js.entmax(Z, alpha, where=MASK, temperature=temperature)
        p = np.asarray(js.policies.epsilon_mixture(p, epsilon, where=MASK))
        near(p, expected)
        assert (p[~MASK] == 0).all()


@pytest.mark.parametrize(("alpha", "epsilon"), [(1.0, 0.0), (1.5, 0.0), (1.5, 0.1)])
def test_the_mean_score_is_zero_and_with_rewards_the_policy_gradient(alpha, epsilon):
    """Σ π(a) ∇log π(a) = 0 and Σ π(a) r(a) ∇log π(a) = ∇⟨π, r⟩, whatever is sparse or masked."""
    z, mask, reward = jnp.asarray(Z[1]), MASK[1], jnp.arange(5.0)

    def value(z):
        p = js.entmax(z, alpha, where=mask, temperature=0.7)
        p = js.policies.epsilon_mixture(p, epsilon, where=mask)
        return (p * reward).sum(), p

    gradient, p = jax.jit(jax.grad(value, has_aux=True))(z)
    scores = jax.jit(jax.jacrev(log_probs(alpha, epsilon > 0)))(z, mask, 0.7, epsilon)
    assert np.isfinite(scores).all()
    assert (np.asarray(scores)[:, ~mask] == 0).all()
    assert (np.asarray(scores)[np.asarray(p) == 0] == 0).all()
    near(p @ scores, np.zeros(5))
    near((p * reward) @ scores, gradient)


@pytest.mark.slow
def test_log_prob_differentiates_in_everything():
    """In both modes, in the preferences, the temperature, ε, and a traced α; and twice."""
    z, actions = jnp.asarray(Z[:2]), jnp.argmax(jnp.asarray(Z[:2]), -1)
    plain = jax.jit(lambda z, t: js.policies.log_prob(z, actions, temperature=t))
    checked(plain, (z, 0.8))
    checked(jax.jit(jax.grad(lambda z, t: plain(z, t).sum())), (z, 0.8))
    mixed = jax.jit(
        lambda z, t, e, a: js.policies.log_prob(z, actions, alpha=a, temperature=t, epsilon=e)
    )
    checked(mixed, (z, 0.8, 0.2, jnp.array([[1.5], [1.0]])))


def test_log_prob_is_right_where_the_probability_underflows_or_is_almost_one():
    near(js.policies.log_prob(np.array([0.0, 2000.0]), 0), -2000, rtol=1e-15)
    near(js.policies.log_prob(np.array([0.0, 40.0]), 1), -np.exp(-40.0), rtol=1e-14)
    near(
        js.policies.log_prob(np.array([0.0, 20.0]), 1, temperature=0.5), -np.exp(-40.0), rtol=1e-14
    )
    gradient = jax.grad(lambda z: js.policies.log_prob(z, 1))(jnp.array([0.0, 40.0]))
    near(gradient, [-np.exp(-40.0), np.exp(-40.0)], rtol=1e-14)
    # p = (1 − 2e-9 − …): α = 1.5 has p₁ = δ²  where z₁ is 2δ above the edge of the support.
    z = np.array([2.0, 2e-4])
    wide = oracles.entmax15(z[None])[0]
    near(js.policies.log_prob(z, 0, alpha=1.5), float(np.log1p(-wide[1])), rtol=1e-8)


def test_log_prob_of_infinite_preferences():
    near(js.policies.log_prob(np.array([INF, 0, INF]), 2), -np.log(2))
    assert js.policies.log_prob(np.array([INF, 0, INF]), 1) == -INF
    assert js.policies.log_prob(np.array([-INF, 0.0]), 0) == -INF
    assert js.policies.log_prob(np.array([-INF, 0.0]), 0, epsilon=0.5) == -INF
    near(js.policies.log_prob(np.array([-INF, 0.0, 1.0]), 1, epsilon=1.0), -np.log(2))
    nobody = np.zeros(3, bool)
    for options in ({}, {"alpha": 1.5}, {"epsilon": 0.5}):
        assert js.policies.log_prob(np.ones(3), 1, where=nobody, **options) == -INF
        assert np.isnan(js.policies.log_prob(np.array([1.0, NAN, 0.0]), 0, **options))
        gradient = jax.grad(lambda z, o=options: js.policies.log_prob(z, 1, where=nobody, **o))(
            jnp.ones(3)
        )
        np.testing.assert_array_equal(gradient, np.zeros(3))


def test_a_masked_action_passes_neither_nan_nor_gradient():
    z, mask = jnp.array([NAN, 1.0, INF, 0.5]), np.array([False, True, False, True])
    for options in ({}, {"alpha": 1.5}, {"alpha": 2.0, "epsilon": 0.2}, {"temperature": 0.0}):
        function = functools.partial(js.policies.log_prob, actions=1, where=mask, **options)
        value, gradient = jax.value_and_grad(function)(z)
        near(value, js.policies.log_prob(z[mask], 0, **options))
        assert (np.asarray(gradient)[~mask] == 0).all() and np.isfinite(gradient).all()
        assert js.policies.log_prob(z, 2, where=mask, **options) == -INF


def test_actions_out_of_range_are_an_error_where_they_are_known_and_nan_where_not():
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=rf"log_prob: {wrong} in `actions` .* range \[0, 5\)"):
            js.policies.log_prob(Z, np.array([0, 1, wrong, 2]))
        assert np.isnan(js.policies.log_prob(Z, jnp.array([0, 1, wrong, 2]))[2])
        assert np.isfinite(js.policies.log_prob(Z, jnp.array([0, 1, wrong, 2])))[[0, 1, 3]].all()
    assert np.isnan(js.policies.log_prob(np.zeros(3), jnp.array(-1, jnp.int8)))


def test_wrong_actions_are_explained(unchecked):
    with pytest.raises(
        TypeError, match=r"jsoftmax.log_prob: `actions` has dtype float64.*integers"
    ):
        js.policies.log_prob(Z, np.zeros(4))
    with pytest.raises(ValueError, match=r"jsoftmax.log_prob: `actions` has shape \(3,\).*\(4,\)"):
        js.policies.log_prob(Z, np.zeros(3, int))
    with pytest.raises(ValueError, match="axis 2 is out of range for `preferences`"):
        js.policies.log_prob(Z, np.zeros(4, int), axis=2)
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        js.policies.log_prob(Z, np.zeros(4, int), alpha=-1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8])
def test_dtypes_of_results(dtype):
    z = jnp.array([1, 2, 0], dtype)
    wide = jnp.array([1, 2, 0], float)
    assert js.policies.log_prob(z, 0).dtype == (jnp.float64 if dtype == jnp.int8 else jnp.float32)
    near(js.policies.log_prob(z, 0), js.policies.log_prob(wide, 0), rtol=1e-6)
    assert js.sample_action(KEY, z).dtype == jnp.zeros((), int).dtype
    assert (
        js.mellowmax(z).dtype
        == js.mellowmax_temperature(z).dtype
        == js.policies.log_prob(z, 0).dtype
    )
    if dtype != jnp.int8:
        p = js.policies.epsilon_mixture(js.softmax(z), 0.1)
        assert p.dtype == dtype
        assert js.policies.kl_divergence(p, p).dtype == jnp.float32
        assert js.policies.importance_ratio(z, z).dtype == jnp.float32


# Drawing


@functools.cache
def act(alpha):
    def many(z, where, temperature, epsilon):
        z = jnp.broadcast_to(z, (20_000, 5))
        return js.sample_action(
            KEY, z, alpha=alpha, where=where, temperature=temperature, epsilon=epsilon
        )

    return jax.jit(many)


def counts(row, alpha=1.0, where=(True,) * 5, temperature=1.0, epsilon=0.0):
    """How often each of five actions is drawn in 20,000 draws."""
    drawn = act(alpha)(np.asarray(row), np.asarray(where), temperature, epsilon)
    return np.bincount(np.asarray(drawn), minlength=5)


@pytest.mark.parametrize(
    ("alpha", "epsilon", "temperature"),
    [(1.0, 0.0, 1.0), (1.0, 0.2, 0.0), (2.0, 0.0, 0.8), (2.0, 0.3, 0.5)],
)
def test_actions_are_drawn_as_often_as_the_policy_says(alpha, epsilon, temperature):
    """Pearson's χ² of 20,000 draws; its bound would be missed for one key in 10⁵."""
    mask = np.array([[1, 0, 1, 1, 1]], bool)
    expected = 20_000 * policy(Z[1:2], alpha, mask, temperature, epsilon)[0]
    seen = counts(Z[1], alpha, where=mask, temperature=temperature, epsilon=epsilon)
    possible = expected > 0
    assert seen[~possible].sum() == 0
    chi2 = ((seen - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi2 < scipy.stats.chi2.ppf(1 - 1e-5, max(possible.sum() - 1, 1))


def test_what_has_probability_zero_is_never_drawn():
    """Neither masked, nor −∞, nor off a sparse support; in 20,000 draws each."""
    row = [1.0, -INF, 0.9, 5.0, -3.0]
    mask = np.array([True, True, True, False, True])
    for options, allowed in (
        ({}, {0, 2, 4}),
        ({"alpha": 2.0}, {0, 2}),
        ({"alpha": 2.0, "epsilon": 0.2}, {0, 2, 4}),
        ({"temperature": 0.0}, {0}),
        ({"temperature": INF}, {0, 2, 4}),
    ):
        assert set(np.flatnonzero(counts(row, where=mask, **options))) == allowed


def test_the_greedy_limit_breaks_ties_at_random():
    """Of 20,000 draws between two, within 5 standard deviations of 71 of the half."""
    for row, t in (([1, 5, 5.0, 0, 2], 0.0), ([INF, 0, INF, -INF, 2], 1.0)):
        seen = counts(row, temperature=t)
        tied = np.asarray(row) == max(row)
        assert seen[~tied].sum() == 0
        assert (abs(seen[tied] - 10_000) < 5 * np.sqrt(20_000) / 2).all()


def test_noise_is_wide_enough_for_narrow_preferences():
    """Of 2,000 uniform draws from 4,096 in bfloat16 a quarter falls in the first quarter.

    Within 5 standard deviations of √(2000 · ¼ · ¾) = 19.4; jax.random.categorical gives 1,998.
    """
    z = jnp.zeros((2000, 4096), jnp.bfloat16)
    first = int((js.sample_action(KEY, z) < 1024).sum())
    assert abs(first - 500) < 5 * 19.4


def test_a_row_without_an_action_gives_minus_one_and_its_neighbours_do_not_notice():
    z = np.array([[1.0, 2, 3], [NAN, 1, 2], [-INF, -INF, -INF], [1, 2, 3]])
    mask = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]], bool)
    for options in ({}, {"alpha": 1.5}, {"epsilon": 0.5}):
        drawn = np.asarray(js.sample_action(KEY, z, where=mask, **options))
        assert drawn[0] >= 0 and (drawn[1:] == -1).all()


def test_draws_are_reproducible_under_jit_and_vmap():
    z = jnp.asarray(Z)
    eager = js.sample_action(KEY, z, alpha=1.5, epsilon=0.1)
    np.testing.assert_array_equal(eager, jax.jit(js.sample_action)(KEY, z, alpha=1.5, epsilon=0.1))
    keys = jax.random.split(KEY, 6)
    rows = jax.vmap(lambda key: js.sample_action(key, z))(keys)
    np.testing.assert_array_equal(rows, [js.sample_action(key, z) for key in keys])
    assert len(np.unique(rows, axis=0)) > 1
    np.testing.assert_array_equal(
        js.sample_action(jax.random.key_data(KEY), z), js.sample_action(KEY, z)
    )


@pytest.mark.slow
def test_several_action_axes_are_numbered_row_major():
    z = jnp.asarray(RNG.standard_normal((2, 3, 4)))
    drawn = js.sample_action(KEY, z, axis=(0, 2), temperature=0.01)
    flat = jnp.moveaxis(z, 1, 0).reshape(3, 8)
    np.testing.assert_array_equal(drawn, flat.argmax(-1))
    near(js.policies.log_prob(z, drawn, axis=(0, 2)), js.log_softmax(flat).max(-1))


def test_a_temperature_may_follow_a_schedule():
    """An optax schedule inside a compiled loop; late draws are greedy, early ones are not."""
    schedule = optax.exponential_decay(5.0, 10, 0.1)
    z = jnp.asarray(np.broadcast_to([0.0, 1.0, 0.5], (500, 3)))

    def step(key, count):
        key, now = jax.random.split(key)
        return key, (js.sample_action(now, z, temperature=schedule(count)) == 1).mean()

    _, greedy = jax.lax.scan(step, KEY, jnp.arange(40))
    assert greedy[0] < 0.5 and greedy[-1] == 1
    p = js.softmax(z[0], temperature=schedule(0))
    assert abs(greedy[0] - p[1]) < 5 * np.sqrt(p[1] * (1 - p[1]) / 500)


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, NAN])
def test_an_epsilon_out_of_range_is_an_error_where_it_is_known_and_nan_where_not(epsilon):
    p = js.softmax(Z)
    calls = {
        "epsilon_mixture": lambda e: js.policies.epsilon_mixture(p, e),
        "sample_action": lambda e: js.sample_action(KEY, Z, epsilon=e),
        "log_prob": lambda e: js.policies.log_prob(Z, np.zeros(4, int), epsilon=e),
    }
    for name, call in calls.items():
        for given in (epsilon, np.float32(epsilon), np.full((4, 1), epsilon)):
            with pytest.raises(
                ValueError, match=rf"jsoftmax.{name}: `epsilon` must be from 0 to 1"
            ):
                call(given)
    one = jnp.full((4, 1), 0.1).at[2].set(epsilon)
    np.testing.assert_array_equal(np.isnan(calls["epsilon_mixture"](one)).all(-1), one[:, 0] != 0.1)
    np.testing.assert_array_equal(np.isnan(calls["log_prob"](one)), one[:, 0] != 0.1)
    assert (np.asarray(calls["sample_action"](one)) == -1).tolist() == [False, False, True, False]


def test_an_epsilon_mixture_keeps_what_is_masked_at_zero():
    """Also its gradient, and NaN there stays there; a row of nobody is zeros."""
    p = jnp.array([[NAN, 0.25, 0.75], [0.2, 0.3, 0.5]])
    mask = np.array([[False, True, True], [False, False, False]])
    mixture, pull = jax.vjp(lambda p, e: js.policies.epsilon_mixture(p, e, where=mask), p, 0.4)
    near(mixture, [[0, 0.35, 0.65], [0, 0, 0]])
    d_p, d_epsilon = pull(jnp.array([[1.0, 2, 3], [1, 2, 3]]))
    near(d_p, [[0, 1.2, 1.8], [0, 0, 0]])
    near(d_epsilon, 2 * 0.25 - 3 * 0.25)
    checked(jax.jit(js.policies.epsilon_mixture), (js.softmax(jnp.asarray(Z)), 0.3))
    near(js.policies.epsilon_mixture(p[1], 0.0), p[1])
    near(js.policies.epsilon_mixture(p[1], 1.0), np.full(3, 1 / 3))
    near(
        js.policies.epsilon_mixture(js.softmax(Z), np.array([[0], [1], [0], [1]]))[1::2],
        np.full((2, 5), 0.2),
    )


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (None, TypeError, "`key` is None"),
        (0, TypeError, "`key` is 0"),
        (np.zeros(3, np.uint32), ValueError, r"`key` of shape \(3,\) is not a key of the default"),
        (jnp.zeros(2), TypeError, "`key` is an array of dtype float"),
        (jax.random.split(KEY, 3), ValueError, r"`key` of shape \(3,\).*vmap"),
        (jax.random.key_data(jax.random.split(KEY, 3)), ValueError, "`key` of shape.*vmap"),
    ],
)
def test_what_is_no_key_is_explained(key, error, words, unchecked):
    with pytest.raises(error, match=r"jsoftmax.sample_action: " + words):
        js.sample_action(key, np.zeros(3))


# Comparing

P = oracles.softmax(Z).astype(float)
Q = oracles.sparsemax(Z).astype(float)


def test_kl_is_that_of_scipy_and_infinite_where_support_is_missing():
    near(js.policies.kl_divergence(P, P[::-1]), scipy.special.rel_entr(P, P[::-1]).sum(-1))
    assert (Q == 0).any(-1).all()
    near(js.policies.kl_divergence(Q, P), scipy.special.rel_entr(Q, P).sum(-1))
    assert (np.asarray(js.policies.kl_divergence(P, Q)) == INF).all()
    np.testing.assert_array_equal(js.policies.kl_divergence(Q, Q), np.zeros(4))
    near(js.policies.kl_divergence(P, P[0]), scipy.special.rel_entr(P, P[0]).sum(-1))
    assert js.policies.kl_divergence(P, P[::-1], keepdims=True).shape == (4, 1)


def test_kl_of_softmax_policies_is_a_fenchel_young_loss():
    near(js.policies.kl_divergence(Q, P), js.fenchel_young_loss(Z, Q), rtol=1e-11)


def test_kl_of_almost_equal_policies_is_not_rounding():
    """Σ p log(p/q) alone is right to 1e-4 here; term by term it is right to 1e-9."""
    q = P * (1 + 1e-6 * np.random.default_rng(0).standard_normal(P.shape))
    wide, wide_q = P.astype(np.longdouble), q.astype(np.longdouble)
    exact = (wide * np.log(wide / wide_q) - wide + wide_q).sum(-1)
    near(js.policies.kl_divergence(P, q), exact.astype(float), rtol=1e-6)
    assert (np.asarray(js.policies.kl_divergence(P, q)) > 0).all()


def test_kl_differentiates_and_leaves_out_what_is_infinite():
    kl = jax.jit(js.policies.kl_divergence)
    checked(kl, (jnp.asarray(P), jnp.asarray(P[::-1])))
    checked(
        jax.jit(jax.grad(lambda p, q: kl(p, q).sum(), (0, 1))),
        (jnp.asarray(P), jnp.asarray(P[::-1])),
    )
    loss = jax.value_and_grad(lambda z: js.policies.kl_divergence(P[0], js.sparsemax(z)))
    value, gradient = loss(jnp.asarray(Z[0]))
    assert value == INF and np.isfinite(gradient).all()
    gradient = jax.grad(lambda z: js.policies.kl_divergence(js.sparsemax(z), P[0]))(
        jnp.asarray(Z[0])
    )
    inside = Q[0] > 0
    slope = np.where(inside, np.log(np.where(inside, Q[0], 1) / P[0]), 0)
    near(gradient, inside * (slope - slope[inside].mean()))


def test_kl_ignores_what_is_masked_and_answers_nan_with_nan():
    mask = np.array([True, True, False])
    p, q = jnp.array([0.5, 0.5, NAN]), jnp.array([0.25, 0.75, 0.0])
    near(js.policies.kl_divergence(p, q, where=mask), 0.5 * np.log(4 / 3))
    for argument in (0, 1):
        gradient = jax.grad(functools.partial(js.policies.kl_divergence, where=mask), argument)(
            p, q
        )
        assert gradient[2] == 0 and np.isfinite(gradient).all()
    assert np.isnan(js.policies.kl_divergence(p, q)) and np.isnan(js.policies.kl_divergence(q, p))
    assert js.policies.kl_divergence(p, q, where=np.zeros(3, bool)) == 0
    with pytest.raises(ValueError, match=r"jsoftmax.kl_divergence: `q`.*\(2,\).*`p`.*\(3,\)"):
        js.policies.kl_divergence(p, q[:2])


LOG_PI = np.array([-0.5, -INF, -INF, -1.0, -2.0, -900.0, -0.1])
LOG_MU = np.array([-1.5, -INF, -1.0, -INF, -2.0, -0.5, -900.0])


def test_importance_ratios_and_their_limits():
    log_ratio = np.array([1.0, -INF, -INF, INF, 0, -899.5, 899.9])
    near(js.policies.log_importance_ratio(LOG_PI, LOG_MU), log_ratio)
    near(js.policies.importance_ratio(LOG_PI, LOG_MU), [np.e, 0, 0, INF, 1, 0, INF])
    near(js.policies.importance_ratio(LOG_PI, LOG_MU, high=1), [1, 0, 0, 1, 1, 0, 1])
    near(
        js.policies.importance_ratio(LOG_PI, LOG_MU, low=0.8, high=1.2),
        [1.2, 0.8, 0.8, 1.2, 1, 0.8, 1.2],
    )
    assert np.isnan(js.policies.importance_ratio(NAN, -INF)) and np.isnan(
        js.policies.importance_ratio(-INF, NAN)
    )
    near(js.policies.importance_ratio(np.zeros((2, 3)), np.zeros(3)), np.ones((2, 3)))


def test_a_clipped_ratio_has_gradient_zero_where_the_exponential_would_overflow():
    """jnp.minimum(jnp.exp(x), c) has NaN there."""
    gradient = jax.grad(lambda x: js.policies.importance_ratio(x, LOG_MU, low=1e-3, high=10).sum())(
        LOG_PI
    )
    near(gradient, [np.e, 0, 0, 0, 1, 0, 0])
    assert np.isnan(jax.grad(lambda x: jnp.minimum(jnp.exp(x), 10.0))(1000.0))


def test_what_importance_ratios_cannot_use_is_explained():
    with pytest.raises(ValueError, match=r"jsoftmax.importance_ratio: .*\(2,\).*\(3,\).*broadcast"):
        js.policies.importance_ratio(np.zeros(2), np.zeros(3))
    for low, high in ((-1, 1), (2, 1), (NAN, 1), (0, NAN)):
        with pytest.raises(ValueError, match="0 ≤ low ≤ high"):
            js.policies.importance_ratio(np.zeros(2), np.zeros(2), low=low, high=high)


def test_off_policy_estimates_are_unbiased():
    """Σ_a μ(a) ρ(a) r(a) = Σ_a π(a) r(a) for a sparse π and an ε-greedy μ, by enumeration."""
    z, reward, actions = Z[0], np.arange(5.0), jnp.arange(5)
    rows = np.broadcast_to(z, (5, 5))
    log_pi = js.policies.log_prob(rows, actions, alpha=2.0)
    log_mu = js.policies.log_prob(rows, actions, temperature=0.0, epsilon=0.3)
    mu = js.policies.epsilon_mixture(js.hardmax(z), 0.3)
    ratio = js.policies.importance_ratio(log_pi, log_mu)
    near((mu * ratio * reward).sum(), (js.sparsemax(z) * reward).sum())


# JAX's transformations

FUNCTIONS = {
    "log_prob": lambda z: js.policies.log_prob(z, jnp.zeros(z.shape[:-1], jnp.int32)),
    "log_prob 1.5": lambda z: js.policies.log_prob(
        z, jnp.zeros(z.shape[:-1], jnp.int32), alpha=1.5, temperature=jnp.asarray([2.0], z.dtype)
    ),
    "log_prob mixed": lambda z: js.policies.log_prob(
        z, jnp.zeros(z.shape[:-1], jnp.int32), alpha=2.0, epsilon=jnp.asarray([0.1], z.dtype)
    ),
    "epsilon_mixture": lambda z: js.policies.epsilon_mixture(
        js.softmax(z), jnp.asarray(0.1, z.dtype)
    ),
    "kl_divergence": lambda z: js.policies.kl_divergence(js.sparsemax(z), js.softmax(z)),
    "kl_divergence ∞": lambda z: js.policies.kl_divergence(js.softmax(z), js.sparsemax(z)),
    "importance_ratio": lambda z: js.policies.importance_ratio(
        js.log_softmax(z), js.log_softmax(z, temperature=2.0), high=2.0
    ),
    "mellowmax": lambda z: js.mellowmax(z, jnp.asarray([2.0], z.dtype)),
    "mellowmax mean": lambda z: js.mellowmax(z, 0.0),
    "mellowmax -inf": lambda z: js.mellowmax(z, -jnp.inf),
    "mellowmax_temperature": lambda z: js.mellowmax_temperature(z, 3.0),
}
EDGES = [[1.0, -INF, 0.5, 3], [-INF] * 4, [5.0] * 4, [1e30, 0, 1, 2], [INF, 2.0, -INF, INF]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_nan_is_formed_on_the_way(name):
    """Under jax_debug_nans, eagerly, and back."""
    function, z = FUNCTIONS[name], jnp.asarray(EDGES)
    gradient = jax.grad(lambda z: jnp.where(jnp.isfinite(y := function(z)), y, 0).sum())
    with jax.debug_nans(True):
        assert not np.isnan(function(z)).any()
        assert not np.isnan(jax.jit(gradient)(z)).any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_strict_promotion_of_dtypes_and_ranks_finds_nothing(name):
    total = jax.checkpoint(lambda z: FUNCTIONS[name](z).sum())
    z = jnp.asarray(Z, jnp.float32)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert jax.eval_shape(jax.grad(total), z).dtype == jnp.float32


@pytest.mark.parametrize("name", ["log_prob mixed", "kl_divergence", "mellowmax_temperature"])
def test_nothing_leaks(name):
    with jax.checking_leaks():
        jax.eval_shape(jax.grad(lambda z: FUNCTIONS[name](z).sum()), jnp.asarray(Z))


@pytest.mark.slow
def test_actions_may_be_split_over_an_axis():
    """Two parts of a row, under vmap(axis_name)."""

    def everything(z, **options):
        p, q = js.softmax(z, **options), js.sparsemax(z, **options)
        zero = jnp.zeros(4, jnp.int32)
        return {
            "sample_action": js.sample_action(KEY, z, alpha=1.5, epsilon=0.1, **options),
            "log_prob": js.policies.log_prob(z, zero, **options),
            "log_prob 1.5": js.policies.log_prob(z, zero, alpha=1.5, temperature=2.0, **options),
            "log_prob mixed": js.policies.log_prob(z, zero, alpha=2.0, epsilon=0.1, **options),
            "kl_divergence": js.policies.kl_divergence(q, p, **options),
            "kl_divergence ∞": js.policies.kl_divergence(p, q, **options),
            "mellowmax": js.mellowmax(z, 2.0, **options),
            "mellowmax mean": js.mellowmax(z, 0.0, **options),
            "mellowmax_temperature": js.mellowmax_temperature(z, 3.0, **options)[:, 0],
        }, js.policies.epsilon_mixture(p, 0.1, where=z > -1, **options)

    z = jnp.asarray(Z[:, :4])
    whole, mixture = jax.jit(everything)(z)
    split = functools.partial(everything, axis_name="parts")
    rows, mixtures = jax.jit(jax.vmap(split, 1, (0, 1), axis_name="parts"))(z.reshape(4, 2, 2))
    near(mixtures.reshape(4, 4), mixture)
    for name, parts in rows.items():
        near(parts, np.stack([whole[name]] * 2), rtol=1e-11, err_msg=name)


def test_every_option_of_a_policy_maps():
    z, actions, epsilon = jnp.asarray(Z), jnp.asarray([0, 2, 1, 4]), jnp.full(4, 1 / 3)
    alpha, t = jnp.array([1, 1.5, 2, 3]), jnp.arange(4.0)
    rows = jax.vmap(
        lambda z, a, alpha, t, e, m: js.policies.log_prob(
            z, a, alpha=alpha, temperature=t, epsilon=e, where=m
        )
    )(z, actions, alpha, t, epsilon, MASK)
    for i, action in enumerate(actions):
        row = slice(i, i + 1)
        p = policy(Z[row], float(alpha[i]), MASK[row], float(t[i]), 1 / 3)[0, action]
        near(rows[i], np.log(p))
