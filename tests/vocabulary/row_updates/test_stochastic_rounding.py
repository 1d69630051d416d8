"""Stochastic rounding: right in the mean, where rounding to nearest loses small steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax.vocabulary import row_adagrad, row_adam, row_sgd
from jsoftmax.vocabulary.row_updates._stochastic_rounding import rounded

KEY = jax.random.key(0)


def test_a_number_becomes_one_of_its_neighbours_and_keeps_its_mean():
    x = jnp.array([1 + 2**-9, -3.1415927, 1e-30, 65537.0, -0.3], jnp.float32)
    keys = jax.random.split(KEY, 20_000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: rounded(key, x)))(keys), np.float64)
    for value, draws in zip(np.asarray(x, np.float64), found.T, strict=True):
        low, high = np.unique(draws)
        assert low < value < high
        assert (high - low) / abs(value) <= 2**-7 * (1 + 2**-7)
        # A Bernoulli variable between them; five standard errors.
        share = (value - low) / (high - low)
        error = (high - low) * np.sqrt(share * (1 - share) / len(draws))
        assert abs(draws.mean() - value) < 5 * error


def test_what_bfloat16_holds_stays_and_so_does_what_is_not_finite():
    x = jnp.array([0.0, -0.0, 1.5, -384.0, jnp.inf, -jnp.inf, jnp.nan, 2.0**-120], jnp.float32)
    for key in jax.random.split(KEY, 50):
        np.testing.assert_array_equal(rounded(key, x).astype(jnp.float32), x)
        assert np.signbit(np.asarray(rounded(key, x), np.float32))[1]
    # All bits of a NaN may be set.
    full = jax.lax.bitcast_convert_type(jnp.uint32(0x7FFFFFFF), jnp.float32)
    assert np.isnan(rounded(KEY, full[None]).astype(jnp.float32)).all()


def test_the_mean_of_many_small_steps_is_unbiased_where_the_nearest_loses_them():
    """200 steps of 2⁻¹² from 1; the last digit of 1 in bfloat16 is 2⁻⁷."""
    rows, steps, size = 1000, 200, 2.0**-12
    optimizer = row_sgd(size)
    ids = jnp.arange(rows)
    g = jnp.full((rows, 8), -1, jnp.float32)
    start = jnp.ones((rows, 8), jnp.bfloat16)

    def after(step_key):
        def step(i, both):
            table, state = both
            return optimizer.update(table, state, ids, g, key=step_key(i))

        return jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))[0]

    nearest = jax.jit(lambda: after(lambda i: None))()
    assert (nearest == 1).all()
    table = np.asarray(jax.jit(lambda: after(lambda i: jax.random.fold_in(KEY, i)))(), np.float64)
    # Each entry is binomial: 200 chances of 2⁻⁵ to move by 2⁻⁷.
    deviation = 2.0**-7 * np.sqrt(steps * 2.0**-5 * (1 - 2.0**-5) / table.size)
    assert abs(table.mean() - (1 + steps * size)) < 5 * deviation
    assert len(np.unique(table)) > 5


def test_blocks_of_rows_are_rounded_by_chances_of_their_own():
    optimizer = row_adam(2.0**-9)
    table = jnp.ones((9000, 1), jnp.bfloat16)
    g = jnp.full((9000, 1), -1, jnp.float32)
    found, _ = optimizer.update(table, optimizer.init(table), jnp.arange(9000), g, key=KEY)
    moved = np.asarray(found[:, 0] > 1)  # by 2⁻⁷, one time in four
    assert abs(moved.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 9000)
    assert (moved[:4096] != moved[4096:8192]).any()


@pytest.mark.parametrize("make", [row_adagrad, row_adam])
def test_memory_is_exact_and_other_rows_stay(make):
    optimizer = make(1e-3)
    table = jnp.ones((6, 3), jnp.bfloat16)
    ids, g = jnp.array([4, 1, 4, -1]), jnp.ones((4, 3))
    plain, memory = optimizer.update(table, optimizer.init(table), ids, g)
    chance, same = optimizer.update(table, optimizer.init(table), ids, g, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, memory, same)
    untouched = np.array([0, 2, 3, 5])
    np.testing.assert_array_equal(chance[untouched], table[untouched])
    assert chance.dtype == plain.dtype == jnp.bfloat16
    assert abs(np.asarray(chance, float) - 1).max() <= 2.0**-7


def test_a_table_that_is_not_rounded_needs_no_key_and_float16_has_no_rule():
    optimizer = row_sgd(0.1)
    table = jnp.ones((3, 2), jnp.float32)
    state = optimizer.init(table)
    found = optimizer.update(table, state, [1], [[1.0, 2.0]], key=KEY)
    jax.tree.map(
        np.testing.assert_array_equal, found, optimizer.update(table, state, [1], [[1.0, 2.0]])
    )
    with pytest.raises(TypeError, match="row_sgd: `key` rounds tables of bfloat16"):
        optimizer.update(table.astype(jnp.float16), state, [1], [[1.0, 2.0]], key=KEY)
    with pytest.raises(TypeError, match=r"jsoftmax.row_sgd: "):
        optimizer.update(table.astype(jnp.bfloat16), state, [1], [[1.0, 2.0]], key=1.5)


def test_the_derivative_is_that_of_the_number():
    x = jnp.array([1.01, 2.03], jnp.float32)
    _, tangent = jax.jvp(lambda x: rounded(KEY, x), (x,), (jnp.ones(2, jnp.float32),))
    np.testing.assert_array_equal(tangent.astype(jnp.float32), [1, 1])
