"""Updates of a few rows: equal to the dense step, other rows unchanged, at a cost without K."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsoftmax.vocabulary import row_adagrad, row_adam, row_sgd
from tests.marks import some

SIZE, WIDTH = 7, 3
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(SIZE, WIDTH))
# Rows of three steps: some twice, some never, some no rows at all.
STEPS = [
    (np.array(rows), RNG.normal(size=(2, 3, WIDTH)))
    for rows in (
        [[5, 1, 5], [0, -1, 1]],
        [[5, 7, 2], [5, 5, 2]],
        [[0, 1, 2], [-9, 5, 2**30]],
    )
]
OPTIMIZERS = {
    "sgd": row_sgd(0.3),
    "sgd, scheduled": row_sgd(lambda count: 0.3 / (1 + count)),
    "adagrad": row_adagrad(0.3, initial_accumulator_value=0.2),
    "adam": row_adam(0.3, b1=0.8, b2=0.9),
}


def oracle(name, steps):
    """The formulas, row by row in numpy."""
    w = TABLE.copy()
    a, m, v, t = np.full(SIZE, 0.2), np.zeros_like(w), np.zeros(SIZE), np.zeros(SIZE, int)
    for count, (rows, gradients) in enumerate(steps):
        for r in set(rows.ravel()) & set(range(SIZE)):
            g = gradients[rows == r].sum(0)
            if name == "sgd":
                w[r] -= 0.3 * g
            elif name == "sgd, scheduled":
                w[r] -= 0.3 / (1 + count) * g
            elif name == "adagrad":
                a[r] += np.mean(g**2)
                w[r] -= 0.3 * g / np.sqrt(a[r] + 1e-7)
            else:
                t[r] += 1
                m[r] = 0.8 * m[r] + 0.2 * g
                v[r] = 0.9 * v[r] + 0.1 * np.mean(g**2)
                scale = np.sqrt(v[r] / (1 - 0.9 ** t[r])) + 1e-8
                w[r] -= 0.3 * m[r] / (1 - 0.8 ** t[r]) / scale
    return w


def run(optimizer, table, steps):
    state, update = optimizer.init(table), jax.jit(optimizer.update)
    for rows, gradients in steps:
        table, state = update(table, state, rows, gradients)
    return table, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_formula_on_rows_that_occur(name):
    table, state = run(OPTIMIZERS[name], TABLE, STEPS)
    chex.assert_trees_all_close(table, oracle(name, STEPS), rtol=1e-12, atol=1e-14)
    assert state.step == 3
    never = [3, 4, 6]
    np.testing.assert_array_equal(table[jnp.array(never)], TABLE[never])
    if name == "adam":
        np.testing.assert_array_equal(state.memory["steps"], [2, 2, 2, 0, 0, 3, 0])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (row_sgd(0.3), optax.sgd(0.3)),
        (row_adagrad(0.3), optax.adagrad(0.3)),
        (row_adam(0.3), optax.adam(0.3)),
    ],
    ids=["sgd", "adagrad", "adam"],
)
def test_on_a_vector_they_are_optax_on_the_dense_gradient(ours, theirs):
    """A row of one number is an entry; every row has a gradient at every step, some two."""
    bias = jnp.asarray(TABLE[:, 0])
    rows = np.r_[np.arange(SIZE), 2, 2, -1]
    steps = [(rows, RNG.normal(size=SIZE + 3)) for _ in range(3)]
    sparse, _ = run(ours, bias, steps)
    dense, state = bias, theirs.init(bias)
    for rows, gradients in steps:
        full = np.zeros(SIZE)
        np.add.at(full, rows[:-1], gradients[:-1])
        updates, state = theirs.update(jnp.asarray(full), state)
        dense = optax.apply_updates(dense, updates)
    chex.assert_trees_all_close(sparse, dense, rtol=1e-12)


def test_padding_is_ignored_whatever_its_gradient():
    """NaN included; and of no rows at all nothing comes but a count."""
    optimizer = OPTIMIZERS["adam"]
    gradients = np.where(np.array([0, 1, 1])[:, None], np.nan, np.ones(WIDTH))
    table, state = run(optimizer, TABLE, [(np.array([4, -1, SIZE]), gradients)])
    assert jnp.isfinite(table).all() and (table[4] != TABLE[4]).all()
    same, later = optimizer.update(table, state, [], np.zeros((0, WIDTH)))
    chex.assert_trees_all_equal(same, table)
    chex.assert_trees_all_equal(later.memory, state.memory)
    assert later.step == 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_that_are_said_to_be_distinct_move_as_they_do_otherwise(name):
    """Two steps, padding of either kind at their end, with gradients that are NaN."""
    optimizer, (table, state) = OPTIMIZERS[name], run(OPTIMIZERS[name], TABLE, STEPS)
    rows = np.array([0, 3, 5, SIZE, -1])
    g = np.where((np.arange(5) < 3)[:, None], RNG.normal(size=(5, WIDTH)), np.nan)
    update = jax.jit(optimizer.update, static_argnames="distinct")
    found = update(*update(table, state, rows, g, distinct=True), rows, -g, distinct=True)
    right = update(*update(table, state, rows, g), rows, -g)
    chex.assert_trees_all_close(found, right, rtol=1e-12)


def test_distinct_rows_are_rounded_by_chance_as_others_are():
    optimizer, rows, table = row_adagrad(0.1), [1, 4], jnp.asarray(TABLE, jnp.bfloat16)
    state, g, key = optimizer.init(table), np.ones((2, WIDTH)), jax.random.key(0)
    found = optimizer.update(table, state, rows, g, key=key, distinct=True)
    chex.assert_trees_all_equal(found, optimizer.update(table, state, rows, g, key=key))
    none = optimizer.update(table, state, [], g[:0], distinct=True)
    chex.assert_trees_all_equal(none[0], table)


def test_distinct_rows_are_neither_sorted_nor_summed():
    update = jax.jit(row_adagrad(0.1).update, static_argnames="distinct")
    state = row_adagrad(0.1).init(TABLE)
    for distinct in (False, True):
        text = update.lower(TABLE, state, np.arange(3), TABLE[:3], distinct=distinct).as_text()
        assert ("sort" in text.replace("indices_are_sorted", "")) is not distinct


@pytest.mark.parametrize("distinct", [30, 5_000, 20_000])
@pytest.mark.parametrize("mapped", [False, True])
def test_batches_of_many_rows_are_moved_in_blocks(distinct, mapped):
    """10,001 rows, some of them padding; the distinct ones fill one block, two or three.

    Mapped over, the blocks of another table are fewer.
    """
    rng, optimizer = np.random.default_rng(distinct), OPTIMIZERS["adagrad"]
    rows = rng.permutation(np.arange(10_001) % distinct - 1)
    table, gradients = rng.normal(size=(distinct, 2)), rng.normal(size=(10_001, 2))
    sums = np.zeros_like(table)
    np.add.at(sums, rows[rows >= 0], gradients[rows >= 0])
    right = table - 0.3 * sums / np.sqrt(0.2 + np.mean(sums**2, 1) + 1e-7)[:, None]
    if mapped:
        both = np.stack([np.minimum(rows, 3), rows])
        state = jax.vmap(optimizer.init)(np.stack([table, table]))
        update = jax.jit(jax.vmap(optimizer.update, in_axes=(None, 0, 0, None)))
        found = update(table, state, both, gradients)[0][1]
    else:
        found, _ = run(optimizer, table, [(rows, gradients)])
    np.testing.assert_allclose(found, right, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("ids", [np.int8, np.uint32, np.int64])
def test_tables_keep_their_dtype_and_are_rounded_once(dtype, ids):
    """200 gradients of 1/256 make a step that none of them would make alone in bfloat16."""
    table = jnp.ones((130, 2), dtype)
    optimizer = row_sgd(1.0)
    rows, gradients = np.full(200, 100, ids), jnp.full((200, 2), 1 / 256, dtype)
    table, _ = optimizer.update(table, optimizer.init(table), rows, gradients)
    assert table.dtype == dtype
    assert (table[100] == jnp.asarray(1 - 200 / 256, dtype)).all() and (table[99] == 1).all()


@pytest.mark.parametrize("count", some([200_000, 5_000_000], [200_000]))
@pytest.mark.parametrize("rows", ["one", "few"])
def test_gradients_of_very_many_equal_rows_are_summed_to_the_last_digits(count, rows):
    """One after another in float32, 200,000 of them lose a thousandth."""
    ids = np.full(count, 1) if rows == "one" else np.random.default_rng(0).integers(0, 3, count)
    optimizer, table = row_sgd(1.0), jnp.zeros(3, jnp.float32)
    moved, _ = optimizer.update(
        table, optimizer.init(table), ids, jnp.full(count, 1e-4, jnp.float32)
    )
    right = -np.bincount(ids, minlength=3) * np.float64(np.float32(1e-4))
    np.testing.assert_allclose(moved, right, rtol=5e-7)


def test_a_second_eager_step_compiles_nothing():
    """Also of another optimizer of the same numbers, and where rows are moved in blocks."""
    table, g = jnp.zeros((7, 2)), jnp.ones((10_001, 2))

    def step(value):
        optimizer = row_adagrad(value)
        return optimizer.update(table, optimizer.init(table), jnp.arange(10_001) % 7, value * g)

    step(0.1)
    compiled = []

    def listen(event, *_, **__):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    step(0.1)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in compiled if "backend_compile" in event]


def test_a_batch_of_tables_is_updated_table_by_table():
    optimizer = OPTIMIZERS["adagrad"]
    tables = jnp.stack([TABLE, 2 * TABLE])
    rows, gradients = STEPS[0]
    both = jnp.stack([rows, rows[::-1]])
    state = jax.vmap(optimizer.init)(tables)
    update = jax.jit(jax.vmap(optimizer.update, in_axes=(0, 0, 0, None)))
    found, _ = update(tables, state, both, gradients)
    update = jax.jit(optimizer.update)
    for k in range(2):
        alone, _ = update(tables[k], optimizer.init(tables[k]), both[k], gradients)
        chex.assert_trees_all_close(found[k], alone, rtol=1e-14)


@pytest.mark.parametrize("batch", [64, 20_000])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_a_donated_table_is_changed_in_place(name, batch):
    """Allocated memory and computation are the same for 100 times the rows."""
    optimizer, costs = OPTIMIZERS[name], []
    for size in (10_000, 1_000_000):
        table = jax.ShapeDtypeStruct((size, 8), jnp.float32)
        state = jax.eval_shape(optimizer.init, table)
        rows = jax.ShapeDtypeStruct((batch,), jnp.int32)
        gradients = jax.ShapeDtypeStruct((batch, 8), jnp.float32)
        update = jax.jit(optimizer.update, donate_argnums=(0, 1))
        compiled = update.lower(table, state, rows, gradients).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        assert memory.alias_size_in_bytes >= 32 * size
        costs.append((memory.temp_size_in_bytes, dict(compiled.cost_analysis() or {})["flops"]))
    assert costs[0] == costs[1]
    assert costs[0][0] < 1_500 * batch


MISTAKES = {
    "rate": (lambda: row_sgd(-0.1), ValueError, "`learning_rate`"),
    "rates": (lambda: row_sgd(np.ones(2)), ValueError, "`learning_rate` has shape"),
    "start": (
        lambda: row_adagrad(0.1, initial_accumulator_value=-1.0),
        ValueError,
        "`initial_accumulator_value`",
    ),
    "β": (lambda: row_adam(0.1, b1=1.0), ValueError, "`b1`"),
    "ε": (lambda: row_adam(0.1, eps=0.0), ValueError, "`eps`"),
    "no rows": (lambda: row_sgd(0.1).init(np.zeros((0, 2))), ValueError, "at least one row"),
    "integers": (lambda: row_sgd(0.1).init(np.arange(3)), TypeError, "floating-point"),
    "floats for rows": (
        lambda: row_sgd(0.1).update(TABLE, row_sgd(0.1).init(TABLE), [1.0], TABLE[:1]),
        TypeError,
        "`rows`",
    ),
    "another table's state": (
        lambda: row_adagrad(0.1).update(TABLE, row_adagrad(0.1).init(TABLE[:2]), [1], TABLE[:1]),
        ValueError,
        r"another table or optimizer: its memory is \{'sum_of_squares': \(2,\)\}",
    ),
    "another optimizer's state": (
        lambda: row_adagrad(0.1).update(TABLE, row_sgd(0.1).init(TABLE), [1], TABLE[:1]),
        ValueError,
        "another table or optimizer",
    ),
    "no state": (
        lambda: row_sgd(0.1).update(TABLE, [1], [1], TABLE[:1]),
        TypeError,
        "`state` is of type list",
    ),
    "one row twice, said to be distinct": (
        lambda: row_sgd(0.1).update(
            TABLE, row_sgd(0.1).init(TABLE), [1, 1], TABLE[:2], distinct=True
        ),
        ValueError,
        "leave `distinct` out",
    ),
    "padding before a row, said to be distinct": (
        lambda: row_sgd(0.1).update(
            TABLE, row_sgd(0.1).init(TABLE), [-1, 1], TABLE[:2], distinct=True
        ),
        ValueError,
        "`rows` do not rise",
    ),
    "gradients": (
        lambda: row_sgd(0.1).update(TABLE, row_sgd(0.1).init(TABLE), [1, 2], TABLE[:1]),
        ValueError,
        r"give \(2, 3\)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("n", [65_535, 65_536, 200_000])
def test_more_rows_than_a_digit_counts_are_summed_too(n):
    """Places are sorted digit by digit, and beyond 2¹⁶ rows have several digits."""
    rng = np.random.default_rng(0)
    ids, g = rng.integers(0, n, n), rng.standard_normal(n)
    ids[: n // 3] %= 7
    optimizer = row_sgd(1.0)
    table = jnp.zeros(n)
    found, _ = jax.jit(optimizer.update)(table, optimizer.init(table), jnp.asarray(ids), g)
    np.testing.assert_allclose(found, -np.bincount(ids, g, n), rtol=1e-12, atol=1e-11)
