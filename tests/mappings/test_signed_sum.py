"""logsumexp with weights of either sign, against direct sums of long doubles."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests import oracles

INF, NAN = np.inf, np.nan
rng = np.random.default_rng(0)
ROWS = rng.standard_normal((10_000, 7)) * 5
B = rng.standard_normal(ROWS.shape) * 10.0 ** rng.integers(-3, 4, ROWS.shape)
B[rng.random(B.shape) < 0.2] = 0
signed = functools.partial(js.logsumexp, return_sign=True)
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)


def right(z, b):
    """log |Σ b eᶻ|, its sign, and by how much rounding of the terms may count in it."""
    terms = np.asarray(b, oracles.WIDE) * np.exp(np.asarray(z, oracles.WIDE))
    total = terms.sum(-1)
    with np.errstate(divide="ignore"):
        return np.log(abs(total)), np.sign(total), abs(terms).sum(-1) / abs(total)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_is_the_logarithm_of_the_sum_and_its_sign(dtype):
    z, b = ROWS.astype(dtype), B.astype(dtype)
    value, sign = map(np.asarray, signed(z, b=b))
    wanted, direction, condition = right(z, b)
    # Each term has an exponent z + log |b| − level that is rounded three times, at up to 64: its
    # relative error is at most 128 eps or so, and that of the sum larger by its condition. While
    # that is below one half, the logarithm has at most twice the error of the sum.
    error = 128 * np.finfo(dtype).eps * condition
    sure = error < 0.5
    assert (abs(value - wanted) <= 2 * error + np.finfo(dtype).eps * abs(wanted))[sure].all()
    np.testing.assert_array_equal(sign[sure], direction[sure])
    assert value.dtype == sign.dtype == dtype and sure.mean() > 0.99


def test_it_is_that_of_jax():
    z, b = ROWS[:100], B[:100]
    chex.assert_trees_all_close(signed(z, b=b), jax.nn.logsumexp(z, -1, b, return_sign=True))
    chex.assert_trees_all_close(js.logsumexp(z, b=b), jax.nn.logsumexp(z, -1, b))
    chex.assert_trees_all_close(
        signed(z, 0, b=b, keepdims=True),
        jax.nn.logsumexp(z, 0, b, return_sign=True, keepdims=True),
    )
    chex.assert_trees_all_close(signed(z), (js.logsumexp(z), jnp.ones(100)))


def test_weights_that_are_not_negative_are_a_prior_and_join_one():
    q, b = abs(B[:50]) + 0.1, B[:50]
    near(js.logsumexp(ROWS[:50], b=q), js.logsumexp(ROWS[:50], prior=q))
    chex.assert_trees_all_close(signed(ROWS[:50], b=b, prior=q), signed(ROWS[:50], b=b * q))


@pytest.mark.parametrize("temperature", [0.3, 2.0, -0.7])
def test_a_temperature_divides_the_scores_and_multiplies_the_logarithm(temperature):
    value, sign = signed(ROWS[:100], b=B[:100], temperature=temperature)
    wanted, direction, condition = right(ROWS[:100] / temperature, B[:100])
    np.testing.assert_allclose(value, temperature * wanted, rtol=1e-14 * condition.max())
    np.testing.assert_array_equal(sign, direction)


def test_at_temperature_zero_it_is_the_largest_score_unless_ties_cancel():
    z, b = np.array([1.0, 3.0, 3.0, 9.0]), np.array([5.0, -2.0, 1.0, 0.0])
    for zero in (0.0, jnp.zeros(())):
        chex.assert_trees_all_close(signed(z, b=b, temperature=zero), (3.0, -1.0))
        cancelled = signed(z, b=np.array([5, -1, 1, 0]), temperature=zero)
        chex.assert_trees_all_close(cancelled, (-INF, 0.0))
    slope = jax.grad(lambda z: signed(z, b=b, temperature=0.0)[0])(z)
    near(slope, [0, 2, -1, 0])


def test_at_infinite_temperature_the_sum_of_the_weights_decides_and_then_the_mean():
    z = np.array([1.0, 2.0, 4.0])
    assert signed(z, b=np.array([1, -3, 4]), temperature=INF) == (INF, 1)
    assert signed(z, b=np.array([0.1, -0.3, 0.4]), temperature=INF) == (-INF, 1)
    chex.assert_trees_all_close(signed(z, b=np.array([1, -1, -1]), temperature=INF), (5.0, -1.0))


@pytest.mark.parametrize("temperature", [None, 0.8, -1.3])
def test_derivatives_in_scores_weights_and_temperature_also_where_a_weight_is_zero(temperature):
    z, b = jnp.array([1.0, 2.0, -3.0, 0.5]), jnp.array([1.0, -2.0, 0.0, 6.0])
    if temperature is None:
        check_grads(lambda z, b: signed(z, b=b)[0], (z, b), 2, eps=1e-5)
    else:
        t = jnp.asarray(temperature)
        check_grads(lambda z, b, t: signed(z, b=b, temperature=t)[0], (z, b, t), 2, eps=1e-5)


def test_a_weight_of_zero_hides_whatever_score_it_has():
    b = jnp.array([2.0, 0, 0, 0, 0])
    for t in (1.0, 0.5, jnp.asarray(0.5)):
        function = functools.partial(js.logsumexp, temperature=t)
        z = jnp.array([1.0, NAN, INF, -INF, 1e300])
        near(function(z, b=b), 1 + t * np.log(2))
        d_z, d_b = jax.grad(lambda z, b, f=function: f(z, b=b), (0, 1))(z, b)
        near(d_z, [1, 0, 0, 0, 0])
        assert np.isfinite(d_b).all() and (d_b[1:4] == 0).all()
    near(js.logsumexp(jnp.array([NAN, 3.0]), b=jnp.array([0, 1])), 3)


def test_limits_are_those_of_the_sum():
    cases = [
        ([INF, 1], [1, -1], (INF, 1)), ([INF, 1], [-1, 1], (INF, -1)),
        ([INF, 1], [0, 1], (1, 1)), ([INF, INF], [2, -1], (NAN, NAN)),
        ([1, 1], [3, -3], (-INF, 0)), ([-INF, -INF], [1, -1], (-INF, 0)),
        ([1, NAN], [1, 1], (NAN, NAN)), ([1, 2], [0, 0], (-INF, 0)), ([1, 2], [NAN, 0], (NAN, NAN)),
    ]  # fmt: skip
    for z, b, wanted in cases:
        for t in (1.0, 1.5):
            found = signed(jnp.array(z, float), b=jnp.array(b, float), temperature=t)
            near(found[1], wanted[1])
            if np.isfinite(wanted[0]):
                near(found[0], wanted[0])
            else:
                np.testing.assert_array_equal(found[0], wanted[0])
    slope = jax.grad(lambda z, b: signed(z, b=b)[0], (0, 1))(jnp.ones(2), jnp.array([3.0, -3]))
    assert np.isfinite(slope).all()
    assert np.isnan(js.logsumexp(np.ones(2), b=np.array([1, -2])))  # a negative sum
    near(jax.grad(lambda z: signed(z, b=-1)[0])(jnp.array([INF, 1.0])), [1, 0])


def test_a_mask_is_a_weight_of_zero_and_an_empty_batch_is_empty():
    z, b, mask = ROWS[:30], B[:30], B[:30] > -0.5
    hidden = np.where(mask, z, NAN)
    chex.assert_trees_all_close(
        signed(hidden, b=b, where=mask), signed(z, b=np.where(mask, b, 0)), rtol=1e-12
    )
    assert [x.shape for x in signed(np.zeros((0, 3)), b=np.ones(3))] == [(0,), (0,)]


def test_weights_neither_overflow_nor_vanish():
    z = np.array([0.0, -200.0], np.float32)
    b = np.array([1e-30, 1e38], np.float32)
    near(js.logsumexp(z, b=b), right(z, b)[0], rtol=1e-6)
    z = np.array([1000.0, 1001.0])
    near(signed(z, b=np.array([1, -1]))[0], 1000 + np.log(np.e - 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8])
def test_narrow_scores_are_computed_in_float32_at_least(dtype):
    z = jnp.array([1, 2, 250], dtype)
    value, sign = signed(z, b=jnp.array([1, -1, -2], jnp.int8))
    assert value.dtype == sign.dtype and value.dtype.itemsize >= 4 and sign == -1
    near(value, 250 + np.log(2), rtol=1e-6)


def test_split_classes_give_the_same_with_their_gradients():
    z, b = jnp.asarray(ROWS[:5, :6]), jnp.asarray(B[:5, :6])

    found = jax.vmap(
        lambda z, b: signed(z, b=b, axis_name="parts"), (1, 1), axis_name="parts", out_axes=0
    )(z.reshape(5, 3, 2), b.reshape(5, 3, 2))
    for part in range(3):
        chex.assert_trees_all_close([x[part] for x in found], list(signed(z, b=b)), rtol=1e-12)


def test_mistakes_are_named():
    z = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"logsumexp: `b` has shape \(2,\)"):
        js.logsumexp(z, b=np.ones(2))
    with pytest.raises(ValueError, match="logsumexp: `b` must be finite"):
        js.logsumexp(z, b=np.array([1, INF, 1]))
    with pytest.raises(TypeError, match="logsumexp: `b` has dtype complex"):
        js.logsumexp(z, b=np.ones(3) * 1j)
    with pytest.raises(NotImplementedError, match="does not take `b`"):
        js.logsumexp(np.zeros((2, 3), np.float32), b=np.ones(3), implementation="pallas")
    with pytest.raises(NotImplementedError, match="does not take `return_sign`"):
        signed(np.zeros((2, 3), np.float32), implementation="pallas")
