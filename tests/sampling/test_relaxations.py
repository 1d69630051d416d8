"""Samples and their noise: limits, masks, dtypes, keys, and rows that are split."""

import functools
import math

import chex
import jax
import jax.export
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
import scipy.stats
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax as js
from jsoftmax.core._axis import ClassAxis
from jsoftmax.sampling import _noise
from tests.draws import KEY, KEYS, ONE_HOT, P_Z, SAMPLERS, Z, assert_frequencies, each, near

INF, NAN = np.inf, np.nan


def test_one_key_draws_one_sample_whatever_the_function():
    """One-hot in value; the limit of the relaxed ones; classes as frequent as softmax says."""

    @jax.jit
    @jax.vmap
    def samples(key):
        z = jnp.asarray(Z)
        return (
            [sampler(key, z) for sampler in ONE_HOT.values()],
            [js.gumbel_softmax(key, z, t) for t in (0.0, jnp.array(0.0), 1e-9)],
            [js.gumbel_entmax(key, z, 0.0, alpha=alpha) for alpha in (1.5, 2.0)],
            js.gumbel_entmax(key, z, alpha=INF),
            js.hardmax(js.gumbel_entmax(key, z, alpha=2.0)),
            jnp.exp(js.gumbel_log_softmax(key, z, 0.0)),
            js.relaxed_topk(key, z, 1, temperature=0.0),
            jax.nn.one_hot(js.gumbel_topk(key, z, 1).indices[0], 4),
        )

    first, *others = jax.tree.leaves(samples(KEYS))
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert ((first == 0) | (first == 1)).all() and (first.sum(-1) == 1).all()
    assert_frequencies(np.asarray(first).sum(0), P_Z)


def test_relaxed_samples_are_the_mapping_of_scores_with_noise():
    """Differentiable in z, T and α."""
    noise = _noise.gumbel_like(KEY, jnp.asarray(Z), ClassAxis((-1,)))

    @jax.jit
    def both(*arguments):
        def sample(z, t, alpha):
            x = js.gumbel_entmax(KEY, z, t, alpha=alpha)
            return x, x

        def mapping(z, t, alpha):
            x = js.entmax(z + noise, alpha, temperature=t)
            return x, x

        return [jax.jacobian(f, (0, 1, 2), has_aux=True)(*arguments) for f in (sample, mapping)]

    for alpha in (1.0, 1.5, 2.0):
        one, other = both(jnp.asarray(Z), jnp.asarray(0.8), jnp.asarray(alpha))
        chex.assert_trees_all_close(one, other, atol=1e-11)


def test_noise_is_gumbel_and_its_largest_values_are_resolved():
    """In float32: no ties at the top, where jax.random.gumbel has steps of log 2."""
    gumbel = jax.jit(_noise.gumbel, static_argnums=(1, 2))
    for dtype in (jnp.float32, jnp.float64):
        noise = np.asarray(gumbel(KEY, (100_000,), dtype))
        assert noise.dtype == dtype and np.isfinite(noise).all()
        assert scipy.stats.kstest(noise, "gumbel_r").pvalue > 1e-4
    noise = np.asarray(gumbel(KEY, (1 << 21,), jnp.float32))
    top = np.sort(noise)[-200:]
    assert len(np.unique(top)) == 200
    assert 10 < top[-1] < 24


def test_half_precision_draws_from_all_classes_alike():
    """Of uniform draws over 4096 classes in bfloat16 jax.random.categorical favours the first."""
    z = jnp.zeros((400, 4096), jnp.bfloat16)
    drawn = np.asarray(jax.jit(lambda z: jnp.argmax(js.gumbel_softmax(KEY, z, 0.0), -1))(z))
    assert_frequencies(np.bincount(drawn // 1024, minlength=4), np.full(4, 0.25))


def test_huge_scores_do_not_swallow_the_noise():
    """Ties at 1e30, differences at an offset of 1e7 in float32, and several +∞: one is drawn."""
    keys, sample = KEYS[:4000], jax.jit(jax.vmap(js.straight_through_gumbel, (0, None)))
    for z, p in (
        ([1e30, 1e30, 1e30, -1e30], [1 / 3, 1 / 3, 1 / 3, 0]),
        ([1e7, 1e7 + 1, 1e7, -INF], [*np.exp([0, 1, 0]) / (2 + math.e), 0]),
        ([INF, 5, INF, -INF], [0.5, 0, 0.5, 0]),
    ):
        counts = np.asarray(sample(keys, jnp.array(z, jnp.float32))).sum(0)
        p = np.array(p)
        assert (counts[p == 0] == 0).all() and counts.sum() == 4000
        assert_frequencies(counts[p > 0], p[p > 0])


EDGES = np.array(
    [
        [0.3, -INF, 1.0, -0.5],
        [-INF, -INF, -INF, -INF],
        [0.3, NAN, 1.0, -0.5],
        [INF, 1.0, INF, -INF],
        [0.3, 0.1, 1.0, -0.5],
        [NAN, 0.1, INF, -0.5],
    ]
)
MASK = np.ones((6, 4), bool)
MASK[4, 2], MASK[5] = False, [False, True, False, True]


@jax.jit
def with_gradients(z, where, t):
    """For every sampler the sample and the gradient of ⟨w, sample⟩."""

    def both(sampler):
        def weighed(z):
            x = sampler(KEY, z, temperature=t, where=where)
            return (x * jnp.arange(1.0, 5.0)).sum(), x

        gradient, x = jax.grad(weighed, has_aux=True)(z)
        return x, gradient

    return {name: both(sampler) for name, sampler in SAMPLERS.items()}


@each(SAMPLERS)
def test_what_is_excluded_is_never_drawn_and_has_gradient_zero(name):
    for t in (2.0, 0.0):
        x, gradient = map(np.asarray, with_gradients(EDGES, MASK, t)[name])
        excluded = (EDGES == -INF) | ~MASK
        assert (x[excluded] == 0).all() and (gradient[excluded] == 0).all()
        assert (x[1] == 0).all() and (gradient[1] == 0).all()
        assert np.isnan(x[2]).all()
        assert x[3, 1] == x[3, 3] == 0 and (gradient[3] == 0).all()
        near(x[[0, 3, 4, 5]].sum(-1), 1)
        assert np.isfinite(gradient[[0, 4, 5]]).all()
        if t > 0:
            assert (gradient[[0, 4, 5]] != 0).any(-1).all()
        elif not name.startswith("reinmax"):  # half of its gradient is not at T
            assert (gradient[[0, 4, 5]] == 0).all()
    # Bitwise the same whatever stands behind the mask.
    other = np.where(MASK, EDGES, 1e30)
    for one, same in zip(
        with_gradients(EDGES, MASK, 0.5)[name], with_gradients(other, MASK, 0.5)[name], strict=True
    ):
        np.testing.assert_array_equal(one, same)


@each(SAMPLERS)
def test_a_temperature_below_zero_is_an_error_where_it_is_known_and_nan_where_not(name):
    for t in (-1.0, np.array([[-0.5]])):
        with pytest.raises(ValueError, match=r"jsoftmax.\w+: `temperature` must be at least 0"):
            SAMPLERS[name](KEY, EDGES, temperature=t)
    x, gradient = with_gradients(EDGES, MASK, -1.0)[name]
    assert np.isnan(x[0, 0]) or np.isnan(gradient[0, 0])


def test_dtypes_are_those_of_the_logits_rounded_once():
    z = jnp.asarray(np.random.default_rng(1).standard_normal((3, 5)), jnp.bfloat16)

    def samples(z):
        return {name: sampler(KEY, z, 0.7) for name, sampler in SAMPLERS.items()}

    @jax.jit
    def relaxed(z):
        return [sample(KEY, z, 0.7) for sample in (js.gumbel_softmax, js.gumbel_log_softmax)]

    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), relaxed(z.astype(jnp.float32)))
    chex.assert_trees_all_equal(relaxed(z), rounded)
    for given, returned in ((jnp.float8_e4m3fn, None), (jnp.float64, None), (jnp.int8, float)):
        for x in jax.eval_shape(samples, jax.ShapeDtypeStruct((3, 5), given)).values():
            assert x.dtype == (returned or given)


def test_a_draw_is_the_same_under_jit_and_vmap_and_along_any_axis():
    """Whether compiled or not, for one key or many, of either kind, and over several axes."""
    rows = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4)))

    def samples(key, z, **options):
        names = ("gumbel_softmax", "gumbel_rao")
        return {name: SAMPLERS[name](key, z, 0.7, **options) for name in names}

    @jax.jit
    def all_ways(keys, old_key, rows):
        in_two = rows.reshape(3, 2, 2).swapaxes(0, 1)
        return (
            samples(jax.random.wrap_key_data(old_key), rows),
            samples(old_key, rows),
            jax.tree.map(lambda x: x[1], jax.vmap(samples, (0, None))(keys, rows)),
            jax.tree.map(jnp.transpose, samples(keys[1], rows.T, axis=0)),
            jax.tree.map(
                lambda x: x.swapaxes(0, 1).reshape(3, 4), samples(keys[1], in_two, axis=(0, 2))
            ),
        )

    first, *others = all_ways(jnp.stack([KEYS[0], KEY]), jax.random.key_data(KEY), rows)
    others.append({"gumbel_softmax": js.gumbel_softmax(KEY, rows, 0.7)})
    for other in others:
        for name, x in other.items():
            near(x, first[name])
    for x in first.values():
        assert (x[0] != x[1]).any()


def mesh(kind):
    return jax.make_mesh((8,), ("classes",), axis_types=(kind,))


@pytest.mark.parametrize("classes", [264, 1024])
def test_noise_does_not_depend_on_how_the_classes_are_split(classes):
    """Whole, over a vmap axis and over devices, whether or not blocks fit the parts."""
    split = ClassAxis((-1,), "classes")

    def part(z):
        return _noise.gumbel_like(KEY, z, split)

    @jax.jit
    def all_ways(z):
        over = jax.vmap(part, 1, 1, axis_name="classes")(z.reshape(3, 2, -1))
        spec = P(None, "classes")
        return (
            _noise.gumbel_like(KEY, z, ClassAxis((-1,))),
            over.reshape(3, classes),
            jax.shard_map(part, mesh=mesh(AxisType.Auto), in_specs=spec, out_specs=spec)(z),
        )

    whole, *others = map(np.asarray, all_ways(jnp.zeros((3, classes))))
    for other in others:
        np.testing.assert_array_equal(other, whole)
    assert len(np.unique(whole)) == whole.size
    blocks = -(-classes // 128)
    assert 0 <= blocks * _noise.block_size(classes) - classes < blocks


SPLIT = {
    "gumbel_softmax": js.gumbel_softmax,
    "gumbel_rao": SAMPLERS["gumbel_rao"],
    "reinmax": js.reinmax,
    "reinmax_rao": SAMPLERS["reinmax_rao"],
    "gumbel_log_softmax": lambda key, z, t, **options: jnp.maximum(
        js.gumbel_log_softmax(key, z, t, **options), -50
    ),
}


@pytest.mark.slow
def test_samples_of_split_rows_are_those_of_whole_ones():
    """Value and gradient inside shard_map; under jit on Auto and Explicit meshes the value."""
    z, weights = np.random.default_rng(2).standard_normal((2, 2, 16))
    z[1, 3] = -INF
    spec = P(None, "classes")

    def samples(z, **options):
        return {name: sampler(KEY, z, 0.5, **options) for name, sampler in SPLIT.items()}

    def both(samples):
        """All samples, and the gradient of their sum, each with a weight of its own."""

        def weighed(z):
            x = samples(z)
            return sum(i * (weights * x[name]).sum() for i, name in enumerate(SPLIT, 1)), x

        return jax.jit(jax.grad(weighed, has_aux=True))

    whole = both(samples)(z)
    auto, explicit = mesh(AxisType.Auto), mesh(AxisType.Explicit)
    split = jax.shard_map(
        functools.partial(samples, axis_name="classes"), mesh=auto, in_specs=spec, out_specs=spec
    )
    chex.assert_trees_all_close(both(split)(z), whole, atol=1e-12)
    for kind in (auto, explicit):
        with jax.set_mesh(kind):
            placed = jax.device_put(z, NamedSharding(kind, spec))
            x = jax.jit(functools.partial(js.straight_through_gumbel, KEY))(placed)
        near(np.asarray(x), whole[1]["gumbel_rao"])


def test_the_schedule_of_the_paper_is_one_of_optax():
    """max(0.5, e^(−rt)), renewed every N steps."""
    r, n = 1e-4, 500
    schedule = optax.exponential_decay(1.0, n, math.exp(-r * n), staircase=True, end_value=0.5)
    for t in (0, 1, 499, 500, 3700, 6999, 7000, 10**5):
        np.testing.assert_allclose(schedule(t), max(0.5, math.exp(-r * (t // n * n))), rtol=1e-6)


KEYED = {
    **SAMPLERS,
    "gumbel_log_softmax": js.gumbel_log_softmax,
    "gumbel_topk": lambda key, z: js.gumbel_topk(key, z, 2),
    "relaxed_topk": lambda key, z: js.relaxed_topk(key, z, 2),
    "reinforce_leave_one_out": lambda key, z: js.reinforce_leave_one_out(key, z, jnp.sum),
}


@pytest.fixture
def unchecked():
    """Without the check of annotations, which would answer first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@each(KEYED)
def test_what_is_no_key_is_answered_with_a_remedy(name, unchecked):
    known = rf"jsoftmax.{name}: `key` "
    for key, error, remedy in (
        (None, TypeError, r"is None; give it one key"),
        (42, TypeError, r"is 42 of type int.*jax.random.key\(42\)"),
        (np.zeros(3, np.uint32), ValueError, r"of shape \(3,\) is not a key of the default"),
        (
            jnp.asarray(Z),
            TypeError,
            r"is an array of dtype float64 and shape \(4,\).*before `logits`",
        ),
        (KEYS[:3], ValueError, r"of shape \(3,\) is not one key.*jax.vmap"),
        (jnp.zeros((3, 2), jnp.uint32), ValueError, r"of shape \(3, 2\) is not one key"),
    ):
        with pytest.raises(error, match=known + remedy):
            KEYED[name](key, jnp.asarray(Z))


def test_other_mistakes_are_answered_with_function_argument_and_remedy(unchecked):
    for call, error, message in (
        (lambda: js.gumbel_topk(KEY, Z, 5), ValueError, r"`k` is 5.*\(4,\).*only 4 classes"),
        (lambda: js.gumbel_topk(KEY, Z, 0), ValueError, "`k` must be at least 1"),
        (lambda: js.gumbel_topk(KEY, Z, 2.0), TypeError, "`k` must be an integer"),
        (lambda: js.gumbel_topk(KEY, Z, 2, axis=(0,)), TypeError, "`axis` must be a single"),
        (lambda: js.relaxed_topk(KEY, Z, 5), ValueError, "`k` must be above 0 and at most"),
        (lambda: js.gumbel_rao(KEY, Z, samples=0), ValueError, "`samples` must be at least 1"),
        (lambda: js.gumbel_entmax(KEY, Z, alpha=-1), ValueError, "Did you mean axis=-1"),
        (
            lambda: js.decoupled_straight_through(KEY, Z, forward_temperature=-1.0),
            ValueError,
            "`forward_temperature` must be at least 0",
        ),
        (
            lambda: js.reinforce_leave_one_out(KEY, Z, jnp.sum, 1),
            ValueError,
            "`samples` must be at least 2",
        ),
        (
            lambda: js.reinforce_leave_one_out(KEY, Z, lambda x: x),
            ValueError,
            r"`fn` returns an array of shape \(4,\).*rows of `logits`, \(\)",
        ),
        (lambda: js.concrete_log_prob(Z, Z, 0.0), ValueError, "`temperature` must be above 0"),
        (
            lambda: js.concrete_log_prob(Z, np.zeros(3)),
            ValueError,
            r"`logits` has shape \(3,\).*`sample` of shape \(4,\)",
        ),
        (
            lambda: js.gumbel_softmax(KEY, Z, where=np.ones(3, bool)),
            ValueError,
            "`where` has shape",
        ),
    ):
        with pytest.raises(error, match=r"jsoftmax\.\w+: .*" + message):
            call()


def everything(key, z):
    """One sample of each kind; the mappings themselves have tests of their own."""
    t = jnp.full((1,), 0.5, z.dtype)
    where = jnp.array([True, True, False, True])
    x = [sampler(key, z, t, where=where) for sampler in ONE_HOT.values()]
    x.append(js.gumbel_log_softmax(key, z, t))
    x.append(js.gumbel_topk(key, z, 2, where=where).log_prob)
    x.append(js.reinforce_leave_one_out(key, z, lambda x: x.sum(-1), where=where))
    x.append(js.concrete_log_prob(js.gumbel_softmax(key, z, t), z, t))
    x.append(js.decoupled_straight_through(key, z, t, forward_temperature=t))
    return sum(jnp.where(jnp.isfinite(y), y, 0).sum() for y in x)


@pytest.mark.slow
def test_strict_promotion_and_the_search_for_leaks_find_nothing():
    gradient = jax.grad(everything, argnums=1)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.checking_leaks(),
    ):
        shape = jax.eval_shape(gradient, KEY, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    assert shape.dtype == jnp.float32


@pytest.mark.slow
def test_no_nan_is_formed_on_the_way():
    """For rows with −∞, of −∞ alone, of ties and of huge gaps, in no operation, forth or back."""
    rows = jnp.array([[1, -INF, 0.5, 3], [-INF] * 4, [5] * 4, [1e30, 0, 1, 2]], jnp.float32)

    def delicate(z):
        x = [js.gumbel_rao(KEY, z, 0.5, samples=2), js.reinmax(KEY, z)]
        x += [js.gumbel_topk(KEY, z, 2).log_prob]
        x += [js.concrete_log_prob(jax.lax.stop_gradient(x[0]), z, 0.5)]
        return sum(jnp.where(jnp.isfinite(y), y, 0).sum() for y in x)

    function = checkify.checkify(jax.grad(delicate), errors=checkify.nan_checks)
    error, gradient = jax.jit(function)(rows)
    error.throw()
    assert np.isfinite(gradient).all()


def test_every_function_and_gradient_is_exported_for_every_platform():
    def function(data, z):
        return jax.grad(everything, argnums=1)(jax.random.wrap_key_data(data), z)

    arguments = jax.random.key_data(KEY), jnp.ones((2, 4), jnp.float32)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(function), platforms=platforms)(*arguments)
    assert exported.platforms == platforms
