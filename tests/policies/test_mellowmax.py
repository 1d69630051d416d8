"""Mellowmax: its limits, its averages, and the temperature of its policy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests import oracles

INF, NAN = np.inf, np.nan
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
X = np.random.default_rng(2).standard_normal((4, 5)) * 2
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
OMEGAS = [-20.0, -1.0, 1e-6, 0.3, 8.0, 500.0]
mellow = jax.jit(js.mellowmax)
temperature = jax.jit(js.mellowmax_temperature)
slopes = jax.jit(jax.grad(lambda x, omega: js.mellowmax(x, omega).sum(), (0, 1)))
checked = functools.partial(check_grads, order=1, eps=1e-5, rtol=1e-5, atol=1e-6)


def oracle(x, omega):
    """(log mean exp ωx)/ω of a row, in wide floats."""
    x = np.asarray(x, np.longdouble)
    return oracles.logsumexp(omega * x - np.log(np.longdouble(x.shape[-1]))) / omega


@pytest.mark.parametrize("omega", OMEGAS)
def test_it_is_the_logarithm_of_a_mean_of_exponentials(omega):
    near(mellow(X, omega), oracle(X, omega).astype(float), atol=2e-12)
    masked = [float(oracle(x[m], omega)) for x, m in zip(X, MASK, strict=True)]
    near(mellow(np.where(MASK, X, NAN), omega, where=MASK), masked, atol=2e-12)


def test_it_is_logsumexp_less_what_equal_values_have_too_much():
    near(js.mellowmax(X, 4.0), js.logsumexp(X, temperature=0.25) - np.log(5) / 4)
    near(js.mellowmax(np.full((2, 7), 3.25), 0.7), [3.25, 3.25], rtol=1e-16)


def test_its_limits_are_minimum_mean_and_maximum():
    near(js.mellowmax(X, 0), X.mean(-1))
    for infinite in (INF, jnp.inf, jnp.full((4, 1), jnp.inf)):
        near(js.mellowmax(X, infinite), X.max(-1))
        near(js.mellowmax(X, -infinite), X.min(-1))
    near(js.mellowmax(X, 1e-40), X.mean(-1))
    near(mellow(X.astype(np.float32), np.float32(1e-30)), X.mean(-1), atol=1e-6)
    rows = js.mellowmax(X, np.array([[0.0], [INF], [-INF], [1.0]]))
    near(rows, [X[0].mean(), X[1].max(), X[2].min(), oracle(X[3], 1.0)])


def test_it_is_the_average_of_boltzmann_values_up_to_omega():
    """By Gauss and Legendre's rule with 40 points."""
    point, weight = np.polynomial.legendre.leggauss(40)
    for omega in (-1.0, 2.0):
        beta = omega * (point + 1) / 2
        p = js.softmax(beta[:, None] * X[0])
        near(js.mellowmax(X[0], omega), (weight / 2) @ (p @ X[0]))


def test_it_is_a_non_expansion():
    """|mm(x) − mm(y)| ≤ max |x − y|, which the expected value under softmax is not."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 200, 3)) * 5
    for omega in (0.5, 16.55):
        gap = abs(np.asarray(mellow(x, omega) - mellow(y, omega)))
        assert (gap <= abs(x - y).max(-1) * (1 + 1e-12)).all()
    values = [(js.softmax(16.55 * v) * v).sum(-1) for v in (x / 5, y / 5)]
    assert (abs(values[0] - values[1]) > abs(x - y).max(-1) / 5).any()


@pytest.mark.parametrize("omega", [-2.0, 0.0, 1e-3, 3.0])
def test_it_differentiates_in_values_and_in_omega(omega):
    """In both modes and twice; across ω = 0, where the derivative in ω is half of the variance."""
    checked(mellow, (jnp.asarray(X), omega))
    checked(slopes, (jnp.asarray(X), omega))
    if omega == 0:
        near(slopes(X, 0.0)[1], X.var(-1).sum() / 2)


def test_its_gradient_is_right_where_difference_quotients_are_not():
    """To a few eps for ω near 0, from the series var/2 + ω κ₃/3; and 0 at ω = ±∞."""
    third = ((X - X.mean(-1, keepdims=True)) ** 3).mean(-1)
    for omega in (1e-12, -1e-9, 1e-6):
        near(slopes(X, omega)[1], (X.var(-1) / 2 + omega * third / 3).sum(), rtol=1e-11)
    assert slopes(X, INF)[1] == 0
    ties = np.tile([1.0, 1, 3, 5, 5], (4, 1))
    near(slopes(ties, INF)[0], np.tile([0, 0, 0, 0.5, 0.5], (4, 1)))
    near(slopes(ties, -INF)[0], np.tile([0.5, 0.5, 0, 0, 0], (4, 1)))


def test_infinite_and_missing_values():
    """−∞ is a value and counted in the mean; a masked action is not."""
    assert js.mellowmax(np.array([1.0, INF])) == INF
    near(js.mellowmax(np.array([1.0, -INF]), 1.0), 1 - np.log(2))
    near(js.mellowmax(np.array([1.0, -INF]), 1.0, where=np.array([True, False])), 1)
    assert js.mellowmax(np.array([1.0, -INF]), 0.0) == -INF
    assert js.mellowmax(np.array([1.0, -INF]), -1.0) == -INF
    near(js.mellowmax(np.array([1.0, INF]), -1.0), 1 + np.log(2))
    nobody = np.zeros(2, bool)
    assert js.mellowmax(np.ones(2), where=nobody) == -INF
    assert js.mellowmax(np.ones(2), -1.0, where=nobody) == INF
    assert np.isnan(js.mellowmax(np.array([1.0, NAN]))) and np.isnan(js.mellowmax(np.ones(2), NAN))
    for row, omega in (([INF, 1.0, INF], 1.0), ([-INF, 1.0, 2.0], 1.0), ([-INF] * 3, 1.0)):
        gradient = jax.grad(js.mellowmax)(jnp.array(row), omega)
        with np.errstate(invalid="ignore"):
            near(gradient, js.softmax(np.array(row)))
    gradient = jax.grad(lambda x: js.mellowmax(x, where=nobody))(jnp.ones(2))
    np.testing.assert_array_equal(gradient, [0, 0])


def test_what_it_cannot_use_is_explained():
    with pytest.raises(ValueError, match=r"jsoftmax.mellowmax: `omega` of shape \(1, 5\).*size 1"):
        js.mellowmax(X, np.ones(5))
    with pytest.raises(ValueError, match=r"jsoftmax.mellowmax.*`values`.*no classes"):
        js.mellowmax(np.ones((2, 0)))
    assert js.mellowmax(np.ones((0, 2))).shape == (0,)
    assert js.mellowmax(X, 1.0, (0, 1), keepdims=True).shape == (1, 1)


# Its policy


@pytest.mark.parametrize("omega", [-3.0, 0.01, 1.0, 8.0, 500.0])
def test_the_expected_value_at_its_temperature_is_the_mellowmax(omega):
    t = temperature(X, omega, where=MASK)
    p = js.softmax(X, temperature=t, where=MASK)
    near((p * X).sum(-1), js.mellowmax(X, omega, where=MASK), rtol=1e-11)
    many = MASK.sum(-1) > 1
    beta = 1 / np.asarray(t)[many, 0]
    assert (beta / omega > 0).all() and (beta / omega < 1).all()
    near(1 / np.asarray(t)[~many, 0], omega / 2)  # one action: any temperature would do


def test_its_policy_has_the_largest_entropy_of_all_with_that_value():
    """Moves that keep Σ p and Σ p x lose entropy: of both signs, in random directions."""
    x = jnp.asarray(X[0])
    p = js.softmax(x, temperature=js.mellowmax_temperature(x, 2.0))
    kept = np.linalg.qr(np.stack([np.ones(5), X[0]], 1))[0]
    moves = np.random.default_rng(0).standard_normal((20, 5))
    moves -= moves @ kept @ kept.T
    for size in (-1e-3, 1e-3):
        assert (js.entropy(p + size * moves) < js.entropy(p)).all()


def test_its_limits():
    assert (np.asarray(js.mellowmax_temperature(X, 0.0)) == INF).all()
    assert (np.asarray(js.mellowmax_temperature(X, INF)) == 0).all()
    assert (np.asarray(js.mellowmax_temperature(X, -INF)) == 0).all()
    near(js.mellowmax_temperature(np.full(4, 2.5), 3.0), [2 / 3])
    # β = ω/2 + ω² κ₃/(24 κ₂) + … for values that are close together.
    x = 1e-4 * X[0]
    k2, k3 = x.var(), ((x - x.mean()) ** 3).mean()
    near(js.mellowmax_temperature(x, 2.0), [1 / (1 + 4 * k3 / (24 * k2))], rtol=1e-8)
    # Two actions L apart: (1 + e^−βL)^−1 ≈ 1 − log 2/(ωL), so β ≈ log(ωL/log 2)/L.
    far = js.mellowmax_temperature(np.array([0.0, 1e6]), 2.0)
    near(1 / far[0], np.log(2e6 / np.log(2)) / 1e6, rtol=1e-6)
    assert js.mellowmax_temperature(X, 1.0, axis=0).shape == (1, 5)


def test_edges_of_its_policy_are_those_of_softmax():
    """+∞ takes all, −∞ nothing, nobody has nothing; NaN stays in its row."""
    x = np.array([[1.0, INF, INF], [-INF, 1.0, 2.0], [-INF, -INF, -INF], [NAN, 1.0, 2.0]])
    p = np.asarray(js.softmax(x, temperature=js.mellowmax_temperature(x, 2.0)))
    near(p[::2], [[0, 0.5, 0.5], [0, 0, 0]])
    assert p[1, 0] == 0
    near(p[1, 1:] @ x[1, 1:], js.mellowmax(x[1], 2.0))
    assert np.isnan(p[3]).all()


inverse = jax.jit(lambda x, omega: 1 / js.mellowmax_temperature(x, omega))


@pytest.mark.parametrize("omega", [-1.0, 4.0])
def test_its_temperature_differentiates(omega):
    checked(inverse, (jnp.asarray(X), omega))
    if omega > 0:
        checked(
            jax.jit(jax.grad(lambda x, omega: inverse(x, omega).sum())), (jnp.asarray(X), omega)
        )


def test_its_policy_differentiates_also_at_ties():
    @jax.jit
    def p(x):
        return js.softmax(x, temperature=js.mellowmax_temperature(x, 2.0))

    near(jax.jacobian(p)(jnp.full(5, 1.5)), np.eye(5) / 5 - 1 / 25)
    checked(p, (jnp.asarray(X[0]),))
