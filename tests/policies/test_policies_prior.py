"""A policy near a reference policy, by any regularizer: draws and log-probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

import jsoftmax as js
from tests.a_regularizer_of_a_stranger import Blend

near = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
RNG = np.random.default_rng(11)
Z = jnp.asarray(RNG.standard_normal((3, 4)))
PRIOR = np.array([[0.7, 1.3, 0.0, 0.9], [0.4, 0.8, 0.9, 0.6], [1.1, 0.0, 0.5, 2.0]])
KEY = jax.random.key(7)
T = 0.8
REGULARIZERS = {
    "softmax": js.Tsallis(1.0),
    "sparse": js.Tsallis(1.5),
    "elastic": js.Elastic(jnp.array(2.0)),
    "Fermi–Dirac": js.FermiDirac(),
    "a stranger's": Blend(jnp.array([[1.0], [1.5], [2.0]])),
}
EACH = pytest.mark.parametrize("name", REGULARIZERS)


@functools.cache
def program(epsilon=0.0):
    """One function of scores, prior and regularizer to the log-probability of every action."""

    @jax.jit
    def every(z, prior, regularizer):
        options = {"prior": prior, "regularizer": regularizer, "temperature": T}
        return jax.vmap(
            lambda a: js.policies.log_prob(
                z, jnp.full(z.shape[:-1], a), epsilon=epsilon, **options
            ),
            out_axes=-1,
        )(jnp.arange(z.shape[-1]))

    return every


def test_the_improvement_regularised_by_kl_has_a_closed_form():
    """π ∝ π₀ exp(z/T), whatever π₀ sums to, and where it underflows."""
    weights = PRIOR * np.exp(np.asarray(Z) / T)
    with np.errstate(divide="ignore"):
        expected = np.log(weights / weights.sum(-1, keepdims=True))
    near(program()(Z, PRIOR, js.Tsallis(1.0)), expected)
    near(program()(Z, 1e-200 * PRIOR, js.Tsallis(1.0)), expected)


@EACH
def test_log_prob_is_the_logarithm_of_the_nearest_policy(name):
    regularizer = REGULARIZERS[name]
    found = program()(Z, PRIOR, regularizer)
    p = js.regularized_argmax(Z, regularizer, prior=PRIOR, temperature=T)
    near(np.exp(found), p)
    assert (found[PRIOR == 0] == -np.inf).all()
    # A share ε goes to the actions that the reference policy knows.
    allowed = PRIOR > 0
    mixed = 0.9 * p + 0.1 * allowed / allowed.sum(-1, keepdims=True)
    if name == "elastic":
        near(np.exp(program(0.1)(Z, PRIOR, regularizer)), mixed)


@pytest.mark.parametrize(
    ("name", "epsilon"), [*((name, 0.0) for name in REGULARIZERS), ("elastic", 0.1)]
)
def test_actions_are_drawn_as_log_prob_says(name, epsilon):
    """χ² with a fixed key; an action of prior 0 is never drawn."""
    n, regularizer = 2000, REGULARIZERS[name]
    options = {"regularizer": regularizer, "temperature": T, "epsilon": epsilon}
    draw = jax.jit(lambda z: js.policies.sample_action(KEY, z, prior=PRIOR, **options))
    draws = np.asarray(draw(jnp.broadcast_to(Z, (n, *Z.shape))))
    for p, drawn in zip(np.exp(program(epsilon)(Z, PRIOR, regularizer)), draws.T, strict=True):
        counts, some = np.bincount(drawn, minlength=4), p > 0
        assert (counts[~some] == 0).all()
        assert scipy.stats.chisquare(counts[some], n * p[some] / p[some].sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", ["softmax", "elastic", "a stranger's"])
def test_gradients_in_preferences_and_in_the_prior(name):
    regularizer = REGULARIZERS[name]
    rows = 1  # the row without a prior of 0
    one = jax.tree.map(lambda x: x[rows] if x.ndim else x, regularizer)

    def score(z, prior):
        value = program()(z, prior, one)
        return jnp.where(value > -jnp.inf, value, 0).sum()

    arguments = Z[rows : rows + 1] / 4, jnp.asarray(PRIOR[rows : rows + 1])
    check_grads(score, arguments, order=1, modes=["rev"], eps=1e-6, rtol=1e-5, atol=1e-6)


def test_at_temperature_0_the_best_actions_share_as_the_reference_does():
    z, prior = jnp.array([1.0, 2.0, 2.0, 2.0]), np.array([5.0, 1.0, 3.0, 0.0])
    for regularizer in (js.Tsallis(1.0), js.Tsallis(2.0)):
        options = {"prior": prior, "regularizer": regularizer, "temperature": 0.0}
        found = js.policies.log_prob(jnp.tile(z, (4, 1)), jnp.arange(4), **options)
        near(np.exp(found), [0, 0.25, 0.75, 0])


@pytest.mark.parametrize("function", ["sample_action", "log_prob"])
def test_mistakes_are_named(function):
    arguments = (KEY, Z) if function == "sample_action" else (Z, np.zeros(3, int))
    call = functools.partial(getattr(js.policies, function), *arguments)
    with pytest.raises(ValueError, match=rf"^jsoftmax.{function}: both `alpha` and `regularizer`"):
        call(alpha=1.5, regularizer=js.Elastic())
    with pytest.raises(ValueError, match=rf"^jsoftmax.{function}: `prior` must be finite"):
        call(prior=np.array([1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=rf"^jsoftmax.{function}: `prior` has shape \(3,\)"):
        call(prior=np.ones(3))
