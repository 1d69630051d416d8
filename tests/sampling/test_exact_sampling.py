"""Exact samplers: frequencies, classes that are never drawn, and draws of split rows."""

import functools
import inspect
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from jax.sharding import Mesh, PartitionSpec

import jsoftmax as js
from jsoftmax.sampling import _inverse, _wide_integers

INF, NAN = np.inf, np.nan
KEY = jax.random.key(5)
SAMPLERS = [js.categorical, js.gumbel_argmax]
same = np.testing.assert_array_equal


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@functools.cache
def compiled(sampler, shape, **options):
    return jax.jit(functools.partial(sampler, shape=shape, **options))


def assert_drawn_from(p, drawn):
    """Pearson's chi-square of each column of draws, at its 1 − 10⁻⁶ quantile, and no zero drawn.

    With a fixed key this holds or it does not; a new key would fail once in a million columns.
    """
    p = np.asarray(p, np.float64)
    for row, column in zip(p, np.asarray(drawn).T, strict=True):
        assert column.min() >= 0
        counts = np.bincount(column, minlength=row.size)
        assert (counts[row == 0] == 0).all()
        expected = row * column.size
        rare = expected < 5  # too few for the statistic: counted together
        observed = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
        if expected[-1] < 5:  # P(Poisson(5) > 25) is 3e-11
            assert observed[-1] <= 25
            observed, expected = observed[:-1], expected[:-1]
        if observed.size > 1:
            statistic = ((observed - expected) ** 2 / expected).sum()
            assert statistic <= scipy.stats.chi2.ppf(1 - 1e-6, observed.size - 1)


# Rows of six scores with no mass, little mass, subnormal, huge and equal scores.
HOSTILE = np.array(
    [
        [0.5, -INF, 1.5, -INF, -0.5, 0.0],
        [1e-310, -1e-310, 0.0, -INF, -800.0, -5.0],
        [1e300, 1e300, -1e300, 0.0, -INF, 1e299],
        [-INF, -INF, -INF, -INF, -INF, -3.0],
        [2.0, INF, 3.0, INF, -INF, INF],
        [7.0, 7.0, 7.0, 7.0, 7.0, -INF],
    ]
)
DRAWS = 40_000


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_many_draws_a_row_have_the_probabilities_of_softmax(sampler):
    drawn = compiled(sampler, (DRAWS, 6))(KEY, HOSTILE)
    assert_drawn_from(js.softmax(HOSTILE), drawn)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_draw_of_each_of_many_rows_has_them_too(sampler):
    rows = np.broadcast_to(HOSTILE, (DRAWS, 6, 6))
    assert_drawn_from(js.softmax(HOSTILE), compiled(sampler, None)(KEY, rows))


def test_probabilities_are_drawn_from_as_they_are():
    """Of any mapping, sparse or not, and weights that do not sum to one."""
    z = np.where(HOSTILE > 1e200, 3, HOSTILE)
    p = np.concatenate([js.sparsemax(z), js.entmax(z, 1.5), [[1e-320, 0, 3e-320, 0, 0, 5e-320]]])
    p[-2] *= 1e300
    drawn = compiled(js.sample_from, (DRAWS, 13))(KEY, p)
    assert_drawn_from(p[:-1] / p[:-1].sum(-1, keepdims=True), drawn[:, :-1])
    # Subnormal weights may count as zeros, which are never drawn.
    assert set(np.unique(drawn[:, -1])) <= {-1, 0, 2, 5}


@pytest.mark.slow
def test_the_sparse_form_is_drawn_from_as_the_dense_one():
    z = np.random.default_rng(0).standard_normal((3, 50)) * 2
    few = js.entmax_sparse(z, 20, alpha=1.5)
    assert few.certificate.all()
    drawn = compiled(js.sample_from, (DRAWS, 3))(KEY, few)
    assert_drawn_from(js.entmax(z, 1.5), drawn)
    assert js.sample_from(KEY, js.entmax_sparse(np.full(3, -INF), 2)) == -1


def oracle(weights, shape, classes_bits):
    """Inversion with the integers of Python."""
    bits = np.asarray(jax.random.bits(KEY, (2, *shape), jnp.uint32)).astype(object)
    fraction = bits[0] * 2**32 + bits[1]
    scale = min(49, 63 - classes_bits)
    sums = np.cumsum([math.floor(float(w) * 2**scale + 0.5) for w in weights], dtype=object)
    return [int(np.argmax(sums > (int(f) * int(sums[-1])) // 2**64)) for f in np.ravel(fraction)]


@pytest.mark.parametrize("classes", [1, 5, 131, 300, 20_000])
def test_inversion_is_that_of_whole_numbers_of_unlimited_size(classes):
    """Draw for draw, at sizes that blocks divide and that they do not."""
    weights = np.random.default_rng(classes).random(classes) ** 8
    weights[classes // 2] = 1  # the largest, the divisor of the others
    weights[: classes // 3] = 0
    drawn = compiled(js.sample_from, (200,))(KEY, weights)
    same(drawn, oracle(weights, (200,), (classes - 1).bit_length()))
    one = compiled(js.sample_from, None)(KEY, weights)
    same(one, oracle(weights, (), (classes - 1).bit_length())[0])


def test_summing_by_chunks_changes_nothing(monkeypatch):
    z = np.random.default_rng(1).standard_normal((5, 1000))
    whole = js.categorical(KEY, z)
    monkeypatch.setattr(_inverse, "_CHUNK", 4)
    same(jax.jit(lambda z: js.categorical(KEY, z, temperature=jnp.array(1.0)))(z), whole)


@pytest.mark.slow
def test_summing_by_chunks_changes_nothing_in_parts(monkeypatch):
    z = np.random.default_rng(8).standard_normal((30, 48))
    whole = js.categorical(KEY, z)
    monkeypatch.setattr(_inverse, "_CHUNK", 1)
    split = jax.shard_map(
        functools.partial(js.categorical, axis_name="classes"),
        mesh=Mesh(np.array(jax.devices()), ("classes",)),
        in_specs=(PartitionSpec(), PartitionSpec(None, "classes")),
        out_specs=PartitionSpec(),
    )
    same(jax.jit(split)(KEY, z), whole)


words = st.integers(0, 2**64 - 1)


@hypothesis.given(hnp.arrays(np.uint64, (2, 8), elements=words))
def test_words_are_whole_numbers(numbers):
    x, y = (
        _wide_integers.Words(
            jnp.asarray(n >> np.uint64(32), jnp.uint32), jnp.asarray(n, jnp.uint32)
        )
        for n in (numbers & np.uint64(2**64 - 1))
    )
    a, b = ([int(n) for n in row] for row in numbers)

    def check(words, expected):
        assert [(int(h) << 32) + int(w) for h, w in zip(*words, strict=True)] == expected

    check(x.plus(y), [(m + n) % 2**64 for m, n in zip(a, b, strict=True)])
    check(x.minus(y), [(m - n) % 2**64 for m, n in zip(a, b, strict=True)])
    check(_wide_integers.product_high(x, y), [(m * n) >> 64 for m, n in zip(a, b, strict=True)])
    assert x.below(y).tolist() == [m < n for m, n in zip(a, b, strict=True)]


def test_the_perturbed_arg_max_is_the_one_hot_sample_of_the_same_key():
    """Streamed in three blocks, with the noise that `gumbel_softmax` makes at once."""
    z = np.broadcast_to(np.random.default_rng(2).standard_normal(300), (2100, 300))
    one_hot = jax.jit(js.gumbel_softmax)(KEY, z, 0.0)
    same(compiled(js.gumbel_argmax, (2100,))(KEY, z[0]), np.argmax(one_hot, -1))


def parts_of(sampler, classes, parts, kind, **options):
    """The sampler of rows [2, classes] in parts, compiled, and results of all parts."""
    sampler = functools.partial(sampler, shape=(5, 2), axis_name="classes", **options)
    if kind == "vmap":
        many = jax.vmap(sampler, in_axes=(None, 1), axis_name="classes")
        return jax.jit(lambda key, z: many(key, z.reshape(2, parts, classes // parts)))
    mesh = Mesh(np.array(jax.devices()[:parts]), ("classes",))
    spec = PartitionSpec(None, "classes")
    return jax.jit(
        jax.shard_map(
            lambda key, z: sampler(key, z)[None],
            mesh=mesh,
            in_specs=(PartitionSpec(), spec),
            out_specs=PartitionSpec(),
        )
    )


def rows_to_split(classes):
    z = 2 * np.random.default_rng(3).standard_normal((2, classes))
    z[1, : classes // 2] = -INF
    return z


SPLITS = [(1000, parts, "shard_map") for parts in (1, 2, 4, 8)]
SPLITS += [(1024, 8, "shard_map"), (40, 4, "vmap")]


@pytest.mark.parametrize(("classes", "parts", "kind"), SPLITS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_draw_is_the_same_however_the_classes_are_split(sampler, classes, parts, kind):
    """Bit for bit, on blocks that the parts respect and that they cut."""
    z = rows_to_split(classes)
    whole = compiled(sampler, (5, 2))(KEY, z)
    for part in parts_of(sampler, classes, parts, kind)(KEY, z):
        same(part, whole)
    assert len(np.unique(whole)) > 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_split_rows_have_their_edges_too(sampler):
    z = rows_to_split(16)
    z[0, [3, 9]] = 9.0
    z[1, 2] = NAN
    drawn = np.asarray(parts_of(sampler, 16, 8, "shard_map", temperature=0.0)(KEY, z))[0]
    assert set(drawn[:, 0]) <= {3, 9}
    assert (drawn[:, 1] == -1).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_cannot_be_drawn_is_minus_one(sampler):
    """A row without any class, and one with NaN; its neighbours are as ever."""
    z = np.array([[-INF] * 3, [1, NAN, 2], [-INF, 4, -INF], [1, NAN, 2]])
    mask = np.array([[True] * 3, [True] * 3, [True] * 3, [True, False, False]])
    same(compiled(sampler, None)(KEY, z, where=mask), [-1, -1, 1, 0])
    same(compiled(sampler, (2, 4))(KEY, z, where=mask), [[-1, -1, 1, 0]] * 2)
    assert (compiled(sampler, None)(KEY, z, where=mask, temperature=NAN) == -1).all()


def test_weights_that_are_none_are_minus_one():
    p = np.array([[0.0, 0, 0], [1, NAN, 0], [1, -0.5, 0], [INF, 1, 0], [0, 0, 2], [NAN, 1, NAN]])
    mask = np.array([[True] * 3] * 5 + [[False, True, False]])
    same(js.sample_from(KEY, p, where=mask), [-1, -1, -1, -1, 2, 1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_temperatures_at_their_limits(sampler):
    z = np.tile([5.0, -INF, 5.0, 1.0, 5.0, -2.0], (6, 1))
    t = np.array([0.0, INF, -1e-3, 2.0, -0.0, 1e-30])[:, None]
    z[2, 1] = 3.0  # at T < 0 it would be the minimum
    p = [
        [1 / 3, 0, 1 / 3, 0, 1 / 3, 0],
        [1 / 5, 0, 1 / 5, 1 / 5, 1 / 5, 1 / 5],
        [0, 0, 0, 0, 0, 1],
        js.softmax(z[3] / 2),
        [1 / 3, 0, 1 / 3, 0, 1 / 3, 0],
        [1 / 3, 0, 1 / 3, 0, 1 / 3, 0],
    ]
    drawn = jax.jit(lambda t: sampler(KEY, z, shape=(5000, 6), temperature=t))(t)
    assert_drawn_from(p, drawn)
    assert_drawn_from(p[:1], sampler(KEY, z[0], shape=(5000, 1), temperature=0.0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_a_mask_hides_cannot_change_the_draw(sampler):
    z = np.random.default_rng(4).standard_normal((6, 6))
    mask = np.array([True, False, True, True, False, True])
    draw = jax.jit(lambda z: sampler(KEY, z, where=mask, shape=(500, 6)))
    expected = draw(z)
    assert set(np.unique(expected)) <= {0, 2, 3, 5}
    for hidden in (NAN, INF, 1e300, -INF):
        same(draw(np.where(mask, z, hidden)), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_are_the_same_under_jit_and_vmap(sampler):
    z = np.random.default_rng(6).standard_normal((4, 200))
    keys = jax.random.split(KEY, 4)
    one_by_one = [sampler(key, row) for key, row in zip(keys, z, strict=True)]
    same(jax.jit(jax.vmap(sampler))(keys, z), one_by_one)
    same(sampler(jax.random.key_data(keys[1]), z[1]), one_by_one[1])


def test_coupled_draws_stay_unless_another_class_overtakes():
    """The virtue of noise for each class: a smaller rival changes nothing, a larger one can win."""
    z = np.random.default_rng(7).standard_normal(6)
    draw = compiled(js.gumbel_argmax, (2000,))
    before, after = draw(KEY, z), draw(KEY, z + np.array([0, 0, 0.5, 0, 0, 0]))
    moved = np.asarray(before != after)
    assert 0 < moved.sum() < 500
    assert (np.asarray(after)[moved] == 2).all()


@pytest.mark.slow
def test_many_draws_take_a_hundredth_of_the_memory():
    """M = K = 10,000; and one draw a row, or noise for a long one, takes less than the logits."""

    def temporaries(function, shape):
        executable = jax.jit(function).lower(KEY, jnp.zeros(shape, jnp.float32)).compile()
        return executable.memory_analysis().temp_size_in_bytes

    n = 10_000
    theirs = temporaries(lambda k, z: jax.random.categorical(k, z, shape=(n,)), (n,))
    assert theirs >= 4 * n * n
    assert temporaries(lambda k, z: js.categorical(k, z, shape=(n,)), (n,)) <= theirs / 100
    many = (256, 32_000)
    assert temporaries(js.categorical, many) <= 4 * math.prod(many) / 4
    assert temporaries(js.gumbel_argmax, many) <= 4 * math.prod(many) / 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_is_not_drawn_in_a_narrow_dtype(sampler):
    """Of 2000 uniform draws over 4096 classes in bfloat16 jax put 1998 into the first quarter.

    A quarter is 500 in the mean with a standard deviation of 19.4: within 5 of those.
    """
    draw = compiled(sampler, (2000,))
    drawn = np.asarray(draw(KEY, jnp.zeros(4096, jnp.bfloat16)))
    assert (np.abs(np.bincount(drawn // 1024, minlength=4) - 500) < 97).all()


@pytest.mark.slow
def test_results_are_of_the_default_integer_dtype():
    default = jnp.zeros((), int).dtype
    for sampler in (*SAMPLERS, js.sample_from):
        for dtype in (jnp.float32, jnp.uint8, jnp.bfloat16):
            assert sampler(KEY, jnp.ones(3, dtype)).dtype == default
    assert js.AliasTable.of([1, 2]).sample(KEY).dtype == default
    same(js.categorical(KEY, np.array([1, 2, 250], np.uint8), shape=(50,)), np.full(50, 2))


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=6)
@pytest.mark.slow
def test_shapes(data):
    """Any axis or two of them; one draw a row, many, and rows that broadcast."""
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    n = len(sizes)
    axes = data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=2))
    axes = tuple({a % n: a for a in axes}.values())
    rows = tuple(size for a, size in enumerate(sizes) if a not in {b % n for b in axes})
    ahead = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2)))
    spread = tuple(2 if size == 1 else size for size in rows)
    classes = math.prod(sizes[a] for a in axes)
    # One class of each row has the mass: its row-major number must come out.
    winners = np.random.default_rng(len(ahead)).integers(0, classes, rows)
    hot = np.where(np.arange(classes) == winners[..., None], 0.0, -INF)
    ordered = sorted(a % n for a in axes)
    z = np.moveaxis(hot.reshape(*rows, *(sizes[a] for a in ordered)), range(len(rows), n), ordered)
    axis = axes if len(axes) > 1 or data.draw(st.booleans()) else axes[0]
    sampler = data.draw(st.sampled_from(SAMPLERS))
    same(sampler(KEY, z, axis), winners)
    shape = (*ahead, *spread)
    same(sampler(KEY, z, axis, shape=shape), np.broadcast_to(winners, shape))


def test_an_empty_batch_is_empty():
    for sampler in SAMPLERS:
        assert sampler(KEY, np.ones((0, 3))).shape == (0,)
        assert sampler(KEY, np.ones(3), shape=(0,)).shape == (0,)
        assert sampler(KEY, np.ones((0, 3)), shape=(2, 0)).shape == (2, 0)


CALLS = {
    "categorical": js.categorical,
    "gumbel_argmax": js.gumbel_argmax,
    "sample_from": js.sample_from,
    "AliasTable.sample": lambda key, p, **options: js.AliasTable.of(p).sample(key, **options),
    "Categorical.sample": lambda key, p, **options: js.Categorical(p).sample(key, **options),
    "RelaxedCategorical.sample": lambda key, p, **options: js.RelaxedCategorical(p, 1.0).sample(
        key, **options
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_key_is_answered_with_how_to_make_one(name, unchecked):
    call, p = CALLS[name], np.ones(3)
    for wrong, kind in ((None, "None"), (0, "0")):
        with pytest.raises(TypeError, match=rf"jsoftmax.{name}: `key` is {kind}.*random.key\("):
            call(wrong, p)
    with pytest.raises(TypeError, match=rf"jsoftmax.{name}: `key` is an array of dtype float"):
        call(jnp.zeros(2), p)
    for several in (jax.random.split(KEY, 3), jax.random.key_data(jax.random.split(KEY, 3))):
        with pytest.raises(ValueError, match=rf"jsoftmax.{name}: `key` of shape .*vmap"):
            call(several, p)
    for shape in (3, (2.0,), (-1,), "3", (True,)):
        with pytest.raises(TypeError, match=rf"jsoftmax.{name}: `shape` must be a tuple of sizes"):
            call(KEY, p, shape=shape)


@pytest.mark.parametrize("name", ["categorical", "gumbel_argmax", "sample_from"])
def test_a_shape_that_does_not_end_in_the_rows_is_an_error(name):
    for shape in ((3,), (2, 5), (4, 2), ()):
        with pytest.raises(ValueError, match=rf"jsoftmax.{name}: `shape`.*\(2, 3\).*\('n', 2, 3\)"):
            CALLS[name](KEY, np.ones((2, 3, 4)), shape=shape)
    with pytest.raises(ValueError, match=rf"jsoftmax.{name}.*has no classes"):
        CALLS[name](KEY, np.ones((2, 0)))


def test_a_sparse_form_takes_no_mask_of_its_own():
    few = js.entmax_sparse(np.ones(3), 2)
    for options in ({"where": np.ones(2, bool)}, {"axis": 1}, {"axis_name": "x"}):
        with pytest.raises(ValueError, match=r"jsoftmax.sample_from: a `SparseEntmax`"):
            js.sample_from(KEY, few, **options)


@pytest.mark.slow
def test_samplers_keep_the_rules_that_jax_can_enforce():
    """Ranks spelled out, no dtype promoted silently, no tracer leaked, no NaN on the way."""
    with np.errstate(over="ignore"):
        z = jnp.asarray(np.concatenate([HOSTILE, np.full((1, 6), -INF)]), jnp.float32)
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.checking_leaks(),
        jax.debug_nans(True),
    ):
        for sampler in SAMPLERS:
            for shape in (None, (3, 7)):
                jax.jit(functools.partial(sampler, shape=shape, temperature=0.5))(KEY, z)
        jax.jit(js.sample_from)(KEY, jnp.ones((2, 3)))
        jax.jit(lambda key, table: table.sample(key, (3,)))(KEY, js.AliasTable.of([1, 0, 2.5]))


@hypothesis.given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1e300)))
@hypothesis.settings(max_examples=200)
def test_an_alias_table_holds_its_weights_to_the_last_unit(weights):
    """The mass of each class in its columns, against the weights; zeros stay zeros."""
    hypothesis.assume(weights.any())
    p = js.AliasTable.of(weights).probabilities()
    right = weights / weights.max()
    right = right / right.sum()
    assert (p[weights == 0] == 0).all()
    assert abs(p.sum() - 1) < 1e-15
    assert np.abs(p - right).max() <= 2.0**-31 / weights.size + 4e-16


def test_alias_tables_draw_from_their_weights():
    weights = np.array([[3, 0, 1, 0.5, 1e-3, 7], [1, 1, 1, 1, 1, 1], [0, 0, 0, 2, 0, 0]])
    tables = jax.tree.map(lambda *x: jnp.stack(x), *map(js.AliasTable.of, weights))
    draw = jax.jit(jax.vmap(lambda table, key: table.sample(key, (DRAWS,)), out_axes=1))
    drawn = draw(tables, jax.random.split(KEY, 3))
    assert_drawn_from(weights / weights.sum(-1, keepdims=True), drawn)
    table = js.AliasTable.of(weights[0])
    assert table.classes == 6
    _, scanned = jax.lax.scan(lambda t, key: (t, t.sample(key)), table, jax.random.split(KEY, 9))
    assert scanned.shape == (9,)


def test_weights_of_which_no_table_can_be_made_are_named(unchecked):
    of = js.AliasTable.of
    for weights, words in (
        ([], r"shape \(0,\).*at least one"),
        ([[1.0]], r"shape \(1, 1\)"),
        (1.0, r"shape \(\)"),
        ([1, 2, -3.0], r"weight 2 is -3.0, which is negative"),
        ([1, NAN], r"weight 1 is nan"),
        ([1, INF], r"weight 1 is inf, which is infinite"),
        ([0.0, 0], "all 2 weights are zero"),
    ):
        with pytest.raises(ValueError, match=rf"jsoftmax.AliasTable.of: .*{words}"):
            of(weights)
    with pytest.raises(TypeError, match=r"jsoftmax.AliasTable.of: `weights` have dtype complex"):
        of(np.ones(3) * 1j)
    with pytest.raises(TypeError, match=r"jsoftmax.AliasTable.of: `weights` are traced.*sample_fr"):
        jax.jit(of)(jnp.ones(3))


def test_the_key_comes_first_and_options_by_name():
    for sampler in (*SAMPLERS, js.sample_from):
        names = list(inspect.signature(sampler).parameters.values())
        assert [p.name for p in names[:3]][0::2] == ["key", "axis"]
        assert all(p.kind is p.KEYWORD_ONLY for p in names[3:])
