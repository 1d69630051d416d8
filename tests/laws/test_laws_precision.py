"""Precision: every dtype, wide rows in float32, orders of any size, classes at the edge."""

import functools
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles
from tests.catalogue import CAPPED, CATALOGUE, NORMMAX, SIGMOID, SOFTMAX, TOPK, each

pytestmark = pytest.mark.slow

NARROW = [
    jnp.float16,
    jnp.bfloat16,
    jnp.float8_e4m3fn,
    jnp.float8_e4m3b11fnuz,
    jnp.float8_e4m3fnuz,
    jnp.float8_e5m2,
    jnp.float8_e5m2fnuz,
]
INTEGERS = ["int2", "int4", "int8", "int16", "int32", "int64"]
INTEGERS += [f"u{name}" for name in INTEGERS] + ["bool"]
ROW = np.array([[1, 0, -2, 0.5, 1, -0.5, -1, 3]])


def by_name(dtypes):
    return {"argvalues": dtypes, "ids": lambda dtype: jnp.dtype(dtype).name}


def in_order(x):
    """Floats of any format as integers in the same order, so that neighbours differ by one."""
    x = np.asarray(x)
    bits = x.view(f"u{x.dtype.itemsize}").astype(np.int64)
    sign = 1 << (8 * x.dtype.itemsize - 1)
    return np.where(bits < sign, bits, sign - bits)


@pytest.mark.parametrize("dtype", **by_name(NARROW))
def test_narrow_floats_are_rounded_once(dtype):
    """Within one unit in the last place of the exact value, where that is a normal number."""
    rows = np.concatenate([ROW, 3 * ROW, ROW[:, ::-1] + 0.25]).astype(dtype)
    exact = rows.astype(np.float64)
    for function, right in (
        (js.softmax, oracles.softmax(exact)),
        (js.entmax, oracles.entmax15(exact)),
        (js.sparsemax, oracles.sparsemax(exact)),
        (functools.partial(js.topk_entmax, k=2), oracles.capped(exact, 1.5, 2, 1)),
    ):
        p = np.asarray(function(jnp.asarray(rows)))
        assert p.dtype == dtype
        normal = right >= float(jnp.finfo(dtype).smallest_normal)
        assert (p[right == 0] == 0).all()
        right = right.astype(np.float64).astype(dtype)
        assert np.abs(in_order(p) - in_order(right))[normal].max() <= 1


@pytest.mark.parametrize("dtype", **by_name(NARROW))
def test_what_narrow_floats_cannot_hold_comes_back_in_float32(dtype):
    """Log-partition functions and entropies always, log-probabilities if there is no infinity."""
    row = jnp.asarray(ROW.astype(dtype))
    exact = np.asarray(row, np.float64)
    assert js.logsumexp(row).dtype == js.entropy(js.softmax(row)).dtype == jnp.float32
    assert js.smoothmax(row, 1.5).dtype == js.mean_energy(row).dtype == jnp.float32
    np.testing.assert_allclose(js.logsumexp(row), oracles.logsumexp(exact).astype(float), rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, on giving a format an infinity it lacks
        infinite = np.isinf(np.array(np.inf).astype(dtype))
    log_p = js.log_softmax(row)
    assert log_p.dtype == (dtype if infinite else jnp.float32)
    masked = js.log_softmax(row, where=jnp.arange(8) < 4)
    assert np.isneginf(np.asarray(masked, np.float64)[0, 4:]).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_promoted_before_anything_else(dtype):
    """Of any width: jax.nn.softmax subtracts the maximum first, and wraps."""
    if not hasattr(jnp, dtype):
        dtype = "bool"  # an older JAX without the narrowest integers
    if dtype == "bool":
        row = np.array([True, False, True])
    else:
        info = jnp.iinfo(dtype)
        row = np.array([min(int(info.max), 250), int(info.min) % -250, 0, 1])
    x = jnp.asarray(row).astype(dtype)
    right = oracles.softmax(np.asarray(row, np.float64)).astype(float)
    p = js.softmax(x)
    assert p.dtype == jnp.zeros(()).dtype
    np.testing.assert_allclose(p, right, rtol=1e-14)
    np.testing.assert_allclose(js.entmax(x), oracles.entmax15(row).astype(float), atol=1e-15)
    assert js.logsumexp(x).dtype == p.dtype


@pytest.mark.parametrize("name", ["float4_e2m1fn", "float8_e8m0fnu", "complex64"])
def test_formats_that_cannot_hold_probabilities_are_refused(name):
    dtype = getattr(ml_dtypes, name, np.complex64)
    x = np.ones(3).astype(dtype)
    for function in (js.softmax, js.entmax, js.normmax, js.logsumexp, js.soft_argmax):
        with pytest.raises(TypeError, match=rf"jsoftmax.{function.__name__}.*{name}"):
            function(x)


@pytest.mark.parametrize("dtype", **by_name([jnp.float16, jnp.bfloat16, jnp.float32]))
def test_gradients_come_back_in_the_dtype_of_each_argument(dtype):
    z, t = jnp.asarray(ROW[0], dtype), jnp.asarray(1.5, jnp.float32)
    alpha = jnp.asarray(1.25, jnp.bfloat16)

    def first(z, alpha, t):
        return js.entmax(z, alpha, temperature=t)[0].astype(jnp.float32)

    gradients = jax.jit(jax.grad(first, argnums=(0, 1, 2)))(z, alpha, t)
    assert [g.dtype for g in gradients] == [dtype, jnp.bfloat16, jnp.float32]


SPREADS = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
WIDE = 1_000_000


@functools.cache
def wide_rows():
    noise = np.random.default_rng(5).standard_normal(WIDE).astype(np.float32)
    return np.stack([np.float32(spread) * noise for spread in SPREADS])


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_float32_rows_of_a_million_sum_to_one_and_every_probability_is_right(alpha):
    """To 1e-6 summed in float64, and to 2e-6 of the largest; renormalising would hide errors."""
    solve = jax.jit(functools.partial(js.entmax, alpha=alpha))
    oracle = {1.0: oracles.softmax, 1.5: oracles.entmax15, 2.0: oracles.sparsemax}[alpha]
    for row in wide_rows():
        p = np.asarray(solve(row), np.float64)
        right = np.asarray(oracle(row), np.float64)
        assert abs(p.sum() - 1) < 1e-6
        assert np.abs(p - right).max() < 2e-6 * right.max()


@pytest.mark.parametrize("offset", [10.0, 100.0, 1e7])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_an_offset_and_a_narrow_spread_do_not_spoil_a_wide_row(alpha, offset):
    """Where optax sums to 1.154 and entmax_bisect is 3.6 % off."""
    noise = 1e-4 * np.random.default_rng(6).standard_normal(32_000)
    row = (offset + noise).astype(np.float32)
    oracle = {1.0: oracles.softmax, 1.5: oracles.entmax15, 2.0: oracles.sparsemax}[alpha]
    p = np.asarray(jax.jit(functools.partial(js.entmax, alpha=alpha))(row), np.float64)
    right = np.asarray(oracle(row), np.float64)
    assert abs(p.sum() - 1) < 1e-6
    assert np.abs(p - right).max() < 2e-6 * right.max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_million_and_one_more(dtype):
    """[10⁷, 10⁷ + 1], where optax gives (0.5, 1.5) and entmax_bisect (0.2, 0.8)."""
    z = np.array([1e7, 1e7 + 1], dtype)
    for function, oracle in (
        (js.softmax, oracles.softmax),
        (js.entmax, oracles.entmax15),
        (js.sparsemax, oracles.sparsemax),
    ):
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(function(z), oracle(z).astype(float), atol=4 * eps)


ORDERS = [0.01, 0.1, 0.5, 0.9, 0.999, 1.0, 1.001, 1.1, 1.5, 2.0, 2.5, 4.0]
ORDERS += [6.0, 10.0, 25.0, 100.0, 1e3, 1e6]


@jax.jit
def traced_entmax(z, alpha):
    return js.entmax(z, alpha)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha", ORDERS)
def test_orders_of_any_size_are_right(alpha, dtype):
    """Also where p^(α−1) leaves the range of floats."""
    generator = np.random.default_rng(7)
    rows = generator.standard_normal((60, 7)) * np.repeat([1e-3, 0.1, 1.0], 20)[:, None]
    rows[::5, 2] = rows[::5, 4]
    rows = rows.astype(dtype)
    right = oracles.entmax(rows, dtype(alpha)).astype(float)
    p = traced_entmax(rows, np.full((60, 1), alpha, dtype))
    np.testing.assert_allclose(p, right, rtol=0, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("classes", [257, 600, 2100, 5003])
def test_rows_long_enough_to_be_solved_in_two_levels(classes):
    """At lengths that no block divides: the coarse search only chooses where to start."""
    rows = np.random.default_rng(8).standard_normal((3, classes)) * np.array([[0.1], [1], [10]])
    rows[1, ::7] = rows[1, 3]
    rows[2, 5:9] = -np.inf
    for alpha, oracle in ((1.5, oracles.entmax15), (2.0, oracles.sparsemax)):
        p = jax.jit(functools.partial(js.entmax, alpha=alpha))(rows)
        np.testing.assert_allclose(p, oracle(rows).astype(float), rtol=0, atol=1e-14)
    p = traced_entmax(rows, np.full((3, 1), 1.3))
    np.testing.assert_allclose(p, oracles.entmax(rows, 1.3).astype(float), rtol=0, atol=1e-14)


def test_float32_softmax_is_nowhere_worse_than_that_of_jax_nn():
    rows = np.random.default_rng(9).standard_normal((50, 40)) * np.geomspace(0.1, 30, 50)[:, None]
    rows = rows.astype(np.float32)
    right = oracles.softmax(rows)
    mine, theirs = (
        np.abs(np.asarray(softmax(rows)) / right - 1).max(-1)
        for softmax in (js.softmax, jax.nn.softmax)
    )
    assert (mine <= theirs + np.finfo(np.float32).eps).all()


@pytest.mark.parametrize(**each([m for m in CATALOGUE if m.kind != "hard" and m.alpha <= 3]))
def test_float32_is_as_right_as_float32_can_be(mapping):
    rows = np.random.default_rng(10).standard_normal((16, 9)).astype(np.float32)
    p = compiled(mapping)(rows)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, mapping.oracle(rows).astype(float), rtol=0, atol=1e-6)


@functools.cache
def compiled(mapping):
    return jax.jit(mapping)


@pytest.mark.parametrize(**each([SOFTMAX, NORMMAX, TOPK, SIGMOID, CAPPED]))
def test_bfloat16_rows_sum_to_their_mass(mapping):
    """As far as the rounding of each entry lets them: the peers are off by up to 17 %."""
    row = jnp.asarray(np.random.default_rng(11).standard_normal(8), jnp.bfloat16)
    p = np.asarray(mapping(row), np.float64)
    assert abs(p.sum() - mapping.mass) <= 2.0**-9 * mapping.mass * 2
