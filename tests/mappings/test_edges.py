"""Behaviour at the edges: each row of that table of promises, then the faults of the peers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles
from tests.catalogue import CATALOGUE, each, p_and_jacobian, p_of
from tests.marks import some

INF, NAN = np.inf, np.nan
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
ALL = each()
SIMPLEX = each([m for m in CATALOGUE if m.upper == INF])


def rows(*values):
    """Rows of five scores, filled up with −∞."""
    return np.array([[*row, *[-INF] * (5 - len(row))] for row in values], float)


@pytest.mark.parametrize(**ALL)
def test_a_score_of_minus_infinity_has_probability_and_gradient_zero(mapping):
    p, *jacobians = p_and_jacobian(mapping, rows([1, 0.5, -0.5, 0]))
    assert (p[:, 4] == 0).all()
    near(p[:, :4], mapping.oracle(np.array([[1, 0.5, -0.5, 0]])).astype(float))
    for jacobian in jacobians:
        assert (jacobian[0, 4] == 0).all()
        assert (jacobian[0, :, 4] == 0).all()


@pytest.mark.parametrize(**SIMPLEX)
def test_scores_of_plus_infinity_share_all_of_the_mass(mapping):
    """And no finite change of any score alters that."""
    p, *jacobians = p_and_jacobian(mapping, [[1, INF, 2, INF, -INF], [INF, 0, 0, 0, 0]])
    near(p, [[0, 0.5, 0, 0.5, 0], [1, 0, 0, 0, 0]])
    for jacobian in jacobians:
        assert (jacobian == 0).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 1e30])
@pytest.mark.parametrize("k", [1.0, 1.5, 2.0, 3.0])
def test_of_a_larger_mass_plus_infinity_takes_its_cap_and_the_rest_is_shared_as_ever(
    k, temperature
):
    z = np.array([1.0, INF, 2.0, 0.5])
    p = np.asarray(js.topk_entmax(z, k, alpha=2.0, temperature=temperature))
    rest = oracles.capped(z[None, [0, 2, 3]] / temperature, 2.0, k - 1, 1)[0].astype(float)
    near(p, [rest[0], 1, rest[1], rest[2]] if k > 1 else [0, 1, 0, 0])


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 1.5])
def test_plus_infinity_takes_all_at_any_temperature_above_zero(alpha):
    """Even where the tail is heavy and the temperature is huge."""
    for t in (1e-30, 1.0, 1e20, 1e37):
        z, t = np.array([1.0, INF], np.float32), np.float32(t)
        np.testing.assert_array_equal(js.entmax(z, alpha, temperature=t), [0, 1])


def test_log_softmax_of_infinities_is_the_logarithm_of_the_limit():
    np.testing.assert_array_equal(js.log_softmax(np.array([1.0, INF])), [-INF, 0])
    np.testing.assert_array_equal(js.log_softmax(np.array([1.7e308, INF])), [-INF, 0])
    np.testing.assert_array_equal(js.log_softmax(np.array([1.0, -INF])), [0, -INF])
    near(js.log_softmax(np.array([INF, 0, INF])), [-np.log(2), -INF, -np.log(2)])
    np.testing.assert_array_equal(js.log_softmax(np.full(3, -INF)), [-INF] * 3)


def test_what_is_one_number_a_row_takes_infinities_to_their_limits():
    for function in (js.logsumexp, js.smoothmax, functools.partial(js.smoothmax, alpha=1.5)):
        assert function(np.array([1.0, INF])) == INF
        assert function(np.array([-INF, -INF])) == -INF
        near(function(np.array([1.0, -INF])), 1)
        near(jax.grad(function)(jnp.array([INF, 1.0, INF])), [0.5, 0, 0.5])
        near(jax.grad(function)(jnp.array([-INF, -INF])), [0, 0])


@pytest.mark.parametrize(**ALL)
def test_a_negative_temperature_makes_minus_infinity_the_winner(mapping):
    if mapping.upper == INF:
        p = p_of(mapping, [[1, -INF, 2, INF, 0]], temperature=-1.0)
        near(p, [[0, 1, 0, 0, 0]])
    finite = [[1, 0.5, 2, 0.3, 0]]
    near(p_of(mapping, finite, temperature=-1.0), p_of(mapping, np.negative(finite)))


@pytest.mark.parametrize(**ALL)
def test_a_row_without_any_class_is_zeros_and_its_neighbours_are_as_ever(mapping):
    logits = np.array([[-INF] * 5, [1, 2, 0.5, 0, 1.5], [1, 2, 3, 4, 5]])
    mask = np.array([[True] * 5, [True] * 5, [False] * 5])
    p, *jacobians = p_and_jacobian(mapping, logits, mask)
    assert (p[[0, 2]] == 0).all()
    near(p[1], mapping.oracle(logits[1:2])[0].astype(float))
    for jacobian in jacobians:
        assert (jacobian[[0, 2]] == 0).all()


def test_without_any_class_the_maximum_is_minus_infinity_and_the_minimum_plus_infinity():
    z, nobody = np.array([1.0, 2.0]), np.array([False, False])
    for function in (js.logsumexp, functools.partial(js.smoothmax, alpha=2.0)):
        assert function(z, where=nobody) == -INF
        assert function(z, where=nobody, temperature=-1.0) == INF
        near(jax.grad(lambda z, f=function: f(z, where=nobody))(z), [0, 0])
    np.testing.assert_array_equal(js.log_softmax(z, where=nobody), [-INF, -INF])
    near(jax.jacrev(lambda z: js.softmax(z, where=nobody))(z), np.zeros((2, 2)))


@pytest.mark.parametrize(**ALL)
def test_nan_stays_in_its_row(mapping):
    p = p_of(mapping, [[1, NAN, 2, 0, 1], [1, 2, 0.5, 0, 1.5], [INF, NAN, -INF, 0, 1]])
    assert np.isnan(p[[0, 2]]).all()
    near(p[1], mapping.oracle(np.array([[1, 2, 0.5, 0, 1.5]]))[0].astype(float))


def test_nan_reaches_every_kind_of_result():
    z = np.array([1.0, NAN])
    for function in (js.logsumexp, js.smoothmax, js.log_softmax, js.hardmax, js.softmin):
        assert np.isnan(function(z)).all()
    for function in (js.soft_argmax, js.free_energy, js.mean_energy, js.heat_capacity):
        assert np.isnan(function(z)).all()
    assert np.isnan(js.entmax_sparse(z, 2).values).all()
    assert np.isnan(js.smoothmax(z, 1.5))
    assert np.isnan(js.softmax(np.ones(3), temperature=NAN)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_are_shared_equally(dtype):
    z = np.array([1, 5, 5, 5], dtype)
    for function in (js.hardmax, functools.partial(js.softmax, temperature=0.0)):
        np.testing.assert_array_equal(function(z), np.array([0, 1, 1, 1], dtype) / dtype(3))
    for function in (
        js.softmax,
        js.entmax,
        js.sparsemax,
        js.normmax,
        functools.partial(js.entmax, alpha=9.0),
    ):
        p = np.asarray(function(z))
        assert p[1] == p[2] == p[3]


@pytest.mark.parametrize(**ALL)
def test_at_temperature_zero_the_mapping_is_flat(mapping):
    _, *jacobians = p_and_jacobian(mapping, [[1, 5, 5, 2, 0], [5, 4, 3, 2, 1]], temperature=0.0)
    for jacobian in jacobians:
        assert (jacobian == 0).all()


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, INF])
def test_at_temperature_zero_the_smooth_maximum_is_the_maximum(alpha):
    """And its gradient the limiting p; a temperature given as an array behaves the same."""
    z = jnp.array([1.0, 5.0, 5.0])
    for t in (0.0, 0, jnp.array(0.0), -0.0):
        function = functools.partial(js.smoothmax, alpha=alpha, temperature=t)
        near(function(z), 5)
        near(jax.grad(function)(z), [0, 0.5, 0.5])
        near(js.entmax(z, alpha, temperature=t), [0, 0.5, 0.5])


def test_at_infinite_temperature_the_smooth_maximum_is_infinite_unless_one_class_is_left():
    assert js.logsumexp(np.array([1.0, 2.0]), temperature=INF) == INF
    assert js.logsumexp(np.array([1.0, 2.0]), temperature=-INF) == -INF
    near(js.logsumexp(np.array([1.0, -INF]), temperature=INF), 1)
    near(js.logsumexp(np.array([1.0, 2.0]), where=np.array([True, False]), temperature=INF), 1)


@pytest.mark.parametrize("function", [js.topk_entmax, js.topk_sigmoid])
def test_a_mass_of_all_unmasked_classes_gives_ones(function):
    z = np.array([1.0, -3.0, 0.0])
    near(function(z, 3), [1, 1, 1])
    near(function(z, 2, where=np.array([True, False, True])), [1, 0, 1])
    near(function(z, jnp.array(2.0), where=np.array([True, False, True])), [1, 0, 1])
    assert np.isnan(np.asarray(function(z, 2, where=np.array([True, False, False])))[0])


def test_an_empty_class_axis_is_an_error_and_an_empty_batch_is_empty():
    for function in (js.softmax, js.entmax, js.normmax, js.logsumexp, js.hardmax):
        with pytest.raises(ValueError, match=rf"jsoftmax.{function.__name__}.*has no classes"):
            function(np.ones((2, 0)))
        assert function(np.ones((0, 3))).shape[0] == 0
    assert js.topk_entmax(np.ones((0, 3)), 2).shape == (0, 3)


@pytest.mark.parametrize(**ALL)
def test_a_single_class_has_all_of_the_mass(mapping):
    if mapping.fewest == 1:
        near(jax.jit(mapping)(np.array([[-3.0], [7.0]])), [[1], [1]])


NANS = {
    "hardmax": js.hardmax,
    "entmax traced": lambda z: js.entmax(z, jnp.array(1.5)),
    "entmax traced 3": lambda z: js.entmax(z, jnp.array(3.0)),
    "entmax traced ∞": lambda z: js.entmax(z, jnp.array(INF)),
    "normmax ∞": lambda z: js.normmax(z, INF),
    "topk traced": lambda z: js.topk_entmax(
        z, jnp.array(1.5), alpha=2.0, temperature=jnp.array(2.0)
    ),
    "capped, T = 0": lambda z: js.capped_entmax(z, 0.6, temperature=0.0),
    "softmax, T traced 0": lambda z: js.softmax(z, temperature=jnp.array(0.0)),
    "smoothmax": lambda z: js.smoothmax(z, 1.5, temperature=jnp.array(2.0))[None],
    "log_softmax, T = 0": lambda z: js.log_softmax(z, temperature=0.0),
    "softmin": js.softmin,
    "soft_argmax": lambda z: js.soft_argmax(z, np.array([1, -INF, 2, INF]), alpha=2.0)[None],
    "entmax_sparse": lambda z: js.entmax_sparse(z, 2).values,
    "binary_entmax": js.binary_entmax,
    "log_partition": lambda z: js.log_partition(z, 2.0)[None],
    "log_partition, T = 0": lambda z: js.log_partition(z, 0.0)[None],
    "mean_energy": lambda z: js.mean_energy(z, 2.0)[None],
    "heat_capacity": lambda z: js.heat_capacity(z, 2.0)[None],
    "partial": lambda z: js.PartialLogSumExp.of(z).merge(js.PartialLogSumExp.of(z)).value()[None],
}
FREE_OF_NAN = [
    [1.0, -INF, 0.5, 3.0],
    [-INF, -INF, -INF, -INF],
    [INF, 2.0, -INF, INF],
    [1e300, -1e300, 0.0, 0.0],
]


@pytest.mark.parametrize("name", some(NANS, list(NANS)[::3]))
def test_no_nan_is_formed_on_the_way_from_scores_without_nan(name):
    """Under jax_debug_nans, eagerly and compiled, in the value and, of finite results, back."""
    function = NANS[name]
    back = jax.grad(lambda z: jnp.where(jnp.isfinite(function(z)), function(z), 0).sum())
    with jax.debug_nans(True):
        for row in FREE_OF_NAN:
            z = jnp.array(row)
            assert not np.isnan(function(z)).any()
            assert not np.isnan(jax.jit(function)(z)).any()
            assert not np.isnan(back(z)).any()


@pytest.mark.slow
@pytest.mark.parametrize("mapping", [js.softmax, js.entmax, js.sparsemax, js.normmax])
def test_one_bad_row_does_not_cost_the_batch(mapping):
    """Where entmax on torch raises IndexError for the whole batch."""
    good = [1.0, 2.0, 3.0]
    batch = jnp.array([good, [-INF] * 3, [NAN, 0, 0], [INF, 0, 0], good])
    p = np.asarray(mapping(batch))
    near(p[[0, 4]], [mapping(jnp.array(good))] * 2)
    near(p[[1, 3]], [[0, 0, 0], [1, 0, 0]])
    gradient = np.asarray(jax.grad(lambda z: (mapping(z) * jnp.arange(3.0)).sum())(batch))
    assert np.isfinite(gradient[[0, 1, 3, 4]]).all()
    assert (gradient[[1, 3]] == 0).all()


def test_unsigned_bytes_do_not_wrap():
    """jax.nn.softmax gives (0.27, 0.73, 0.0002)."""
    near(js.softmax(jnp.array([1, 2, 250], jnp.uint8)), [0, 0, 1], atol=1e-100)
    near(js.sparsemax(jnp.array([1, 2, 250], jnp.uint8)), [0, 0, 1])
    near(js.softmin(jnp.array([1, 2, 250], jnp.uint8))[:2], js.softmax(np.array([1.0, 0])))


def test_the_gradient_of_logsumexp_of_an_empty_row_is_zero():
    """Where jax.nn.logsumexp gives NaN."""
    near(jax.grad(js.logsumexp)(jnp.full(3, -INF)), np.zeros(3))


def test_a_masked_row_of_an_all_false_mask_passes_under_debug_nans():
    with jax.debug_nans(True):
        z, nobody = jnp.ones((1, 3)), np.zeros((1, 3), bool)
        for mapping in (js.softmax, js.entmax, js.sparsemax):
            np.testing.assert_array_equal(mapping(z, where=nobody), np.zeros((1, 3)))


@pytest.mark.slow
def test_hessians_of_the_mappings_are_neither_zero_nor_nan():
    """As those of the torch packages are."""
    z = jnp.array([0.1, 0.2, -0.1])
    for mapping in (js.softmax, js.entmax, js.normmax):
        hessian = jax.hessian(lambda z, m=mapping: (m(z) * jnp.arange(3.0)).sum())(z)
        assert np.isfinite(hessian).all()
        assert abs(hessian).max() > 1e-3
    hessian = jax.hessian(lambda z: js.smoothmax(z, 2.0))(z)
    near(hessian, np.eye(3) - 1 / 3)
