"""Relaxed samples, estimators, subsets and densities, against enumeration and quadrature.

Statistical tests draw with a fixed key. A mean is compared within five of its standard errors, a
sum of squares or a greatest distance with the value that one test in 10,000 would pass by chance.
"""

import functools
import itertools
import math

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jsoftmax as js
from jsoftmax.core._axis import ClassAxis
from jsoftmax.sampling import _corrected, _draw, _noise

INF, NAN = np.inf, np.nan
KEY = jax.random.key(7)
DRAWS = 10_000
KEYS = jax.random.split(KEY, DRAWS)
Z = np.array([0.5, -0.3, 1.2, 0.0])
P_Z = np.exp(Z) / np.exp(Z).sum()
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)

# All that return a sample of the shape of the logits, at some setting of their own.
ONE_HOT = {
    "straight_through_categorical": js.straight_through_categorical,
    "straight_through_gumbel": js.straight_through_gumbel,
    "gumbel_rao": functools.partial(js.gumbel_rao, samples=3),
    "reinmax": js.reinmax,
    "decoupled_straight_through": js.decoupled_straight_through,
}
RELAXED = {
    "gumbel_softmax": js.gumbel_softmax,
    "gumbel_entmax": lambda key, z, temperature=1.0, **options: js.gumbel_entmax(
        key, z, 1.5, temperature=temperature, **options
    ),
}
SAMPLERS = ONE_HOT | RELAXED


def each(table):
    return pytest.mark.parametrize("name", table)


def quadratic(x):
    """Not linear, so that biases show; quadratic, so that what is of second order is exact."""
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])[: x.shape[-1]]
    return ((x @ weights - 0.7) ** 2) + 0.3 * x[0] * x[1] - x[-1]


def cubic(x):
    return quadratic(x) * (1 + x @ jnp.arange(x.shape[-1]))


def exact_gradient(f, p):
    """∂ Σ p_i f(e_i)/∂z, by enumeration."""
    values = np.array([f(e) for e in jnp.eye(len(p))])
    return p * (values - p @ values)


# (estimator, function): the gradients of all of them are compiled, and drawn, together.
ESTIMATES = {
    "plain, T = 0.5": (
        functools.partial(js.straight_through_categorical, temperature=0.5),
        quadratic,
    ),
    "plain, T = 1": (js.straight_through_categorical, quadratic),
    "decoupled": (
        functools.partial(js.decoupled_straight_through, temperature=2.0, forward_temperature=0.5),
        quadratic,
    ),
    "reinmax, T = 1": (js.reinmax, cubic),
    "reinmax, T = 2": (functools.partial(js.reinmax, temperature=2.0), cubic),
    "gumbel": (functools.partial(js.straight_through_gumbel, temperature=0.3), quadratic),
    "rao": (functools.partial(js.gumbel_rao, temperature=0.3, samples=20), quadratic),
}


@functools.cache
def estimates():
    """(gradients, samples) of every estimate for each of the keys."""

    def gradient(key, name):
        estimator, f = ESTIMATES[name]

        def value(z):
            x = estimator(key, z)
            return f(x), x

        return jax.grad(value, has_aux=True)(jnp.asarray(Z))

    found = jax.jit(jax.vmap(lambda key: {name: gradient(key, name) for name in ESTIMATES}))(KEYS)
    return jax.tree.map(np.asarray, found)


def assert_mean(draws, mean):
    error = draws.std(0) / np.sqrt(len(draws))
    np.testing.assert_array_less(abs(draws.mean(0) - mean), 5 * error + 1e-12)


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


def jacobian(p):
    return np.diag(p) - np.outer(p, p)


def enumerated(derivative, p=P_Z, f=quadratic):
    """Σ p_D ∇f(D) · derivative(D): the mean of an estimator that knows of its noise only D."""
    slopes = jax.vmap(jax.grad(f))(jnp.eye(4))
    return sum(p[i] * derivative(np.eye(4)[i]) @ np.asarray(slopes[i]) for i in range(4))


@pytest.mark.parametrize("t", [0.5, 1.0])
def test_plain_straight_through_has_the_mean_that_enumeration_gives(t):
    mean = enumerated(lambda d: jacobian(softmax(Z / t)) / t)
    assert_mean(estimates()[f"plain, T = {t:g}"][0], mean)


def test_plain_straight_through_is_exact_for_linear_functions():
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])
    gradient = jax.grad(lambda z: js.straight_through_categorical(KEY, z) @ weights)(Z)
    near(gradient, exact_gradient(lambda x: x @ weights, P_Z))


def test_decoupled_straight_through_draws_at_one_temperature_and_differentiates_at_another():
    gradients, samples = estimates()["decoupled"]
    p = softmax(Z / 0.5)
    assert_mean(gradients, enumerated(lambda d: jacobian(softmax(Z / 2)) / 2, p))
    assert_frequencies(samples.sum(0), p)


def test_reinmax_is_exact_for_quadratic_functions():
    """To the digits, not only in the limit of many draws."""

    @jax.jit
    @jax.vmap
    def both(key):
        return jax.jacobian(lambda z: (js.reinmax(key, z),) * 2, has_aux=True)(jnp.asarray(Z))

    jacobians, samples = map(np.asarray, both(KEYS[:100]))
    assert set(samples.argmax(-1)) == {0, 1, 2, 3}

    def derivative(d):
        return jacobians[(samples == d).all(-1).argmax()].T

    near(enumerated(derivative), exact_gradient(quadratic, P_Z))


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_reinmax_has_the_mean_that_enumeration_gives(t):
    """Also where it is not exact: of a cubic function, and at another temperature."""
    found = estimates()[f"reinmax, T = {t:g}"][0]
    mean = enumerated(lambda d: 2 * jacobian((softmax(Z / t) + d) / 2) - jacobian(P_Z) / 2, f=cubic)
    assert_mean(found, mean)
    assert abs(mean - exact_gradient(cubic, P_Z)).max() > 0.01


def test_leave_one_out_is_unbiased_for_any_function():
    def gradient(key):
        return jax.grad(lambda z: js.reinforce_leave_one_out(key, z, cubic, 3))(Z)

    assert_mean(np.asarray(jax.jit(jax.vmap(gradient))(KEYS)), exact_gradient(cubic, P_Z))


def test_leave_one_out_of_two_is_half_the_difference_times_that_of_the_scores():
    """(f₁ − f₂)(∂log p₁ − ∂log p₂)/2 with ∂log p(e_i) = e_i − p, by hand."""
    pairs = jax.vmap(jax.random.split)(KEYS[:20])
    pairs = np.asarray(
        jax.jit(jax.vmap(jax.vmap(lambda key: js.gumbel_softmax(key, Z, 0.0))))(pairs)
    )
    different = (pairs[:, 0] != pairs[:, 1]).any(-1).argmax()
    first, second = pairs[different]
    assert (first != second).any()
    estimate = jax.jit(jax.value_and_grad(lambda z, key: js.reinforce_leave_one_out(key, z, cubic)))
    value, gradient = estimate(Z, KEYS[different])
    near(value, (cubic(first) + cubic(second)) / 2)
    near(gradient, (cubic(first) - cubic(second)) * (first - second) / 2)


def test_leave_one_out_rewards_rows_or_groups_of_rows_and_differentiates_the_function():
    z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)))
    weights = jnp.arange(4.0)

    @jax.jit
    def jacobians(key):
        def rowwise(z, w):
            return js.reinforce_leave_one_out(key, z, lambda x: (x @ w) ** 2, 3)

        def grouped(z, w):
            return js.reinforce_leave_one_out(key, z, lambda x: ((x @ w) ** 2).sum(-1), 3)

        return [jax.jacobian(f, (0, 1))(z, weights) for f in (rowwise, grouped)]

    (rows, of_weights), (groups, of_weights_too) = jacobians(KEY)
    assert rows.shape == (2, 3, 2, 3, 4) and groups.shape == (2, 2, 3, 4)
    for i, j in itertools.product(range(2), range(3)):
        assert (np.delete(rows[i, j].reshape(6, 4), 3 * i + j, axis=0) == 0).all()
        assert (groups[i, 1 - i] == 0).all() and (groups[i, i] != 0).any()
    near(of_weights.sum(1), of_weights_too)
    assert (of_weights[..., 1:].sum((0, 1)) > 0).all()


def logistic_mean(d, t, slopes):
    """E of straight-through Gumbel for two classes, by quadrature over the logistic G₁ − G₂."""

    def integrand(noise, side):
        share = 1 / (1 + math.exp(-(d + noise) / t))
        return scipy.stats.logistic.pdf(noise) * share * (1 - share) / t * side

    difference = slopes[:, 0] - slopes[:, 1]  # for D = e₁ and D = e₂
    wins = scipy.integrate.quad(integrand, -d, 60, args=(difference[0],))[0]
    loses = scipy.integrate.quad(integrand, -60, -d, args=(difference[1],))[0]
    return wins + loses


def test_straight_through_gumbel_has_the_mean_that_quadrature_gives():
    """And Gumbel-Rao the same."""
    t, z = 0.5, jnp.array([0.4, -0.3])
    slopes = np.asarray(jax.vmap(jax.grad(quadratic))(jnp.eye(2)))
    mean = logistic_mean(0.7, t, slopes)

    @jax.jit
    @jax.vmap
    def gradients(key):
        estimators = (js.straight_through_gumbel, ONE_HOT["gumbel_rao"])
        return [jax.grad(lambda z, f=f: quadratic(f(key, z, t)))(z) for f in estimators]

    for found in gradients(KEYS):
        assert_mean(np.asarray(found), np.array([mean, -mean]))


def test_rao_and_blackwell_keep_the_mean_and_lower_the_variance():
    (plain, samples), (better, samples_too) = estimates()["gumbel"], estimates()["rao"]
    np.testing.assert_array_equal(samples, samples_too)
    assert_mean(plain - better, 0)
    assert (better.var(0) < 0.7 * plain.var(0)).all()


def test_conditional_noise_is_noise_and_draws_what_it_is_given():
    """Drawn first D, then z + G given D, each score is that of a Gumbel variable at z."""

    @jax.jit
    @jax.vmap
    def scores(key):
        drawn = _draw.draw("test", key, Z, 1.0, -1, None, None)
        hard = drawn.hard()
        given = _corrected._scores_given(hard, drawn, _noise.another_key(key))
        return hard, given, (given == given.max()) == (hard > 0)

    hard, given, same = scores(KEYS)
    assert np.asarray(same).all()
    for j in range(4):
        distance = scipy.stats.kstest(np.asarray(given)[:, j], "gumbel_r", (Z[j] - Z.max(), 1))
        assert distance.pvalue > 1e-4
    # Of D independent noise would be: its largest is Gumbel at log Σ exp z whatever D is.
    for i in range(4):
        largest = np.asarray(given).max(-1)[np.asarray(hard)[:, i] > 0]
        at = np.log(np.exp(Z).sum()) - Z.max()
        assert scipy.stats.kstest(largest, "gumbel_r", (at, 1)).pvalue > 1e-4


def assert_frequencies(counts, p):
    """Pearson's χ², against its quantile at 1 − 1e-4."""
    expected = np.asarray(p) * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-4, len(p) - 1)


def test_one_key_draws_one_sample_whatever_the_function():
    """One-hot in value; the limit of the relaxed ones; classes as frequent as softmax says."""

    @jax.jit
    @jax.vmap
    def samples(key):
        z = jnp.asarray(Z)
        return (
            [sampler(key, z) for sampler in ONE_HOT.values()],
            [js.gumbel_softmax(key, z, t) for t in (0.0, jnp.array(0.0), 1e-9)],
            [js.gumbel_entmax(key, z, alpha, temperature=0.0) for alpha in (1.5, 2.0)],
            js.gumbel_entmax(key, z, INF),
            (js.gumbel_entmax(key, z, 2.0) == js.gumbel_entmax(key, z, 2.0).max()).astype(z.dtype),
            jnp.exp(js.gumbel_log_softmax(key, z, 0.0)),
            js.relaxed_topk(key, z, 1, 0.0),
            jax.nn.one_hot(js.gumbel_topk(key, z, 1).indices[0], 4),
        )

    first, *others = jax.tree.leaves(samples(KEYS))
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert ((first == 0) | (first == 1)).all() and (first.sum(-1) == 1).all()
    assert_frequencies(np.asarray(first).sum(0), P_Z)


def test_a_relaxed_sample_of_two_is_a_logistic_function_of_logistic_noise():
    x, t = np.asarray(relaxed_pairs(0.7)), 0.7
    noise = t * np.log(x / (1 - x)) - (Z[0] - Z[1])
    assert scipy.stats.kstest(noise, "logistic").pvalue > 1e-4


def test_relaxed_samples_are_the_mapping_of_scores_with_noise():
    """Differentiable in z, T and α."""
    noise = _noise.gumbel_like(KEY, jnp.asarray(Z), ClassAxis((-1,)))

    @jax.jit
    def both(*arguments):
        def sample(z, t, alpha):
            x = js.gumbel_entmax(KEY, z, alpha, temperature=t)
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
    """Ties at 1e30, differences at an offset of 1e7 in float32, and +∞, of which one is drawn."""
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
        elif name != "reinmax":  # of which half is not at T
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

    @jax.jit
    def samples(z):
        return {name: sampler(KEY, z, 0.7) for name, sampler in SAMPLERS.items()}

    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), samples(z.astype(jnp.float32)))
    chex.assert_trees_all_equal(samples(z), rounded)
    for given, returned in ((jnp.float8_e4m3fn, None), (jnp.float64, None), (jnp.int8, float)):
        for x in jax.eval_shape(samples, jax.ShapeDtypeStruct((3, 5), given)).values():
            assert x.dtype == (returned or given)


def test_a_draw_is_the_same_under_jit_and_vmap_and_along_any_axis():
    """Whether compiled or not, for one key or many, of either kind, and over several axes."""
    rows = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4)))

    def samples(key, z, **options):
        return {name: sampler(key, z, 0.7, **options) for name, sampler in SAMPLERS.items()}

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
    others.append({name: SAMPLERS[name](KEY, rows, 0.7) for name in ("gumbel_rao",)})
    for other in others:
        for name, x in other.items():
            near(x, first[name])
    for x in first.values():
        assert (x[0] != x[1]).any()


def mesh(kind):
    return jax.make_mesh((8,), ("classes",), axis_types=(kind,))


@pytest.mark.parametrize("classes", [8, 264, 1024])
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
    **{name: SAMPLERS[name] for name in ("gumbel_softmax", "gumbel_entmax", "gumbel_rao")},
    "reinmax": js.reinmax,
    "relaxed_topk": lambda key, z, t, **options: js.relaxed_topk(key, z, 2.5, t, **options),
    "gumbel_log_softmax": lambda key, z, t, **options: jnp.maximum(
        js.gumbel_log_softmax(key, z, t, **options), -50
    ),
}


def test_samples_of_split_rows_are_those_of_whole_ones():
    """Inside shard_map, and under jit on Auto and Explicit meshes: value and gradient."""
    z, weights = np.random.default_rng(2).standard_normal((2, 2, 16))
    z[1, 3] = -INF
    spec = P(None, "classes")

    def samples(z, **options):
        return {name: sampler(KEY, z, 0.5, **options) for name, sampler in SPLIT.items()}

    def both(samples):
        """All samples, and the gradient of their sum, each with a weight of its own."""

        def weighed(z):
            x = samples(z)
            return sum(i * (weights * value).sum() for i, value in enumerate(x.values(), 1)), x

        return jax.jit(jax.grad(weighed, has_aux=True))

    whole = both(samples)(z)
    auto, explicit = mesh(AxisType.Auto), mesh(AxisType.Explicit)
    split = jax.shard_map(
        functools.partial(samples, axis_name="classes"), mesh=auto, in_specs=spec, out_specs=spec
    )
    chex.assert_trees_all_close(both(split)(z), whole, atol=1e-12)
    placed = jax.device_put(z, NamedSharding(auto, spec))
    chex.assert_trees_all_close(both(samples)(placed), whole, atol=1e-12)
    with jax.set_mesh(explicit):
        placed = jax.device_put(z, NamedSharding(explicit, spec))
        found = jax.tree.map(np.asarray, jax.jit(samples)(placed))
    chex.assert_trees_all_close(found, whole[1], atol=1e-12)


def enumerated_draws(z, k):
    """Ordered draws without replacement and their probabilities."""
    table = {}
    for order in itertools.permutations(np.flatnonzero(np.isfinite(z)), k):
        left, p = np.exp(z).sum(), 1.0
        for i in order:
            p, left = p * np.exp(z[i]) / left, left - np.exp(z[i])
        table[order] = p
    return table


def test_draws_without_replacement_are_as_frequent_as_enumeration_says():
    z = np.array([0.5, -0.3, -INF, 1.2, 0.0])
    table = enumerated_draws(z, 2)
    near(sum(table.values()), 1)
    draw = jax.jit(jax.vmap(lambda key: js.gumbel_topk(key, z, 2)))(KEYS)
    found = [tuple(pair) for pair in np.asarray(draw.indices)]
    near(np.exp(draw.log_prob), [table[pair] for pair in found])
    assert_frequencies(np.array([found.count(pair) for pair in table]), list(table.values()))


@pytest.mark.parametrize("k", [3, 5])
def test_the_probability_of_a_draw_is_differentiable(k):
    """Against finite differences, and against the formula with sums over who was left."""
    z = jnp.array([0.5, -0.3, 0.8, 1.2, 0.0])
    draw = jax.jit(lambda z: js.gumbel_topk(KEY, z, k))

    def log_prob(z):
        return draw(z).log_prob

    check_grads(log_prob, (z,), order=1, modes=("rev",), eps=1e-6, rtol=1e-6)
    order = np.asarray(draw(z).indices)
    near(log_prob(z), sum(
        z[i] - jax.nn.logsumexp(np.delete(np.asarray(z), order[:t])) for t, i in enumerate(order)
    ))  # fmt: skip


def test_probabilities_of_draws_do_not_cancel():
    """A class with all of the mass leaves e⁻²⁰⁰ for the second draw, and that is shared right."""
    z = jnp.array([200.0, 0.0, 1.0, 0.0], jnp.float32)
    draw = jax.jit(lambda z: js.gumbel_topk(KEY, z, 2))(z)
    shares = [0.0, *np.log(softmax(np.array([0.0, 1, 0])))]
    np.testing.assert_allclose(draw.log_prob, shares[draw.indices[1]], rtol=1e-6)


def test_a_row_with_too_few_classes_says_so():
    z = jnp.array([[0.0, -INF, 1.0], [-INF, -INF, -INF], [0.0, 1.0, 2.0]])

    def drawn(z):
        draw = js.gumbel_topk(KEY, z.T, 3, axis=0)
        return draw.log_prob[2], draw

    gradient, draw = jax.jit(jax.grad(drawn, has_aux=True))(z)
    assert draw.indices.shape == (3, 3)
    assert sorted(draw.indices[:, 0].tolist()) == [-1, 0, 2]
    assert (draw.indices[:, 1] == -1).all()
    assert (draw.log_prob[:2] == -INF).all() and np.isfinite(draw.log_prob[2])
    assert np.isfinite(gradient).all() and (gradient[2] != 0).any()
    masked = js.gumbel_topk(
        KEY, jnp.array([0.0, NAN, 1.0]), 2, where=jnp.array([True, False, True])
    )
    assert sorted(masked.indices.tolist()) == [0, 2]


@pytest.mark.parametrize("alpha", [1.0, 2.0, None])
def test_relaxed_subsets_become_those_drawn_without_replacement(alpha):
    z = jnp.asarray(np.random.default_rng(3).standard_normal((20, 6)))

    @jax.jit
    def samples(t):
        return js.relaxed_topk(KEY, z, 2, t, alpha=alpha)

    hot = jax.nn.one_hot(jax.jit(lambda z: js.gumbel_topk(KEY, z, 2).indices)(z), 6).sum(-2)
    near(samples(0.0), hot, atol=1e-7 if alpha is None else 0)
    soft = samples(0.7)
    near(soft.sum(-1), 2)
    assert (soft >= 0).all() and (soft <= 1).all() and ((soft > 0) & (soft < 1)).any()
    near(samples(1e-6), hot, atol=1e-6)


def concrete(x, z, t):
    """The density of the paper, written down factor by factor."""
    n = len(z)
    weighed = np.exp(z) * x ** (-t)
    return math.factorial(n - 1) * t ** (n - 1) * np.prod(weighed / x) / weighed.sum() ** n


@jax.jit
def relaxed_pairs(t):
    """The first of two classes, for each key."""
    return jax.vmap(lambda key: js.gumbel_softmax(key, Z[:2], t)[0])(KEYS)


@jax.jit
def density(x, z, t):
    return jnp.exp(js.concrete_log_prob(x, z, t))


@pytest.mark.parametrize("t", [0.4, 1.0, 3.0])
def test_the_concrete_density_is_that_of_the_paper_and_integrates_to_one(t):
    x = np.random.default_rng(5).dirichlet(np.ones(4), 50)
    near(density(x, Z, t), [concrete(row, Z, t) for row in x], rtol=1e-10)
    # Over u with x = u³(10 − 15u + 6u²), which takes the poles at the ends away.
    u, weight = np.polynomial.legendre.leggauss(400)
    u, weight = (u + 1) / 2, weight / 2
    first = u**3 * (10 - 15 * u + 6 * u**2)
    jacobian = 30 * u**2 * (1 - u) ** 2
    pair = np.stack([first, 1 - first], -1)
    total = (density(pair, Z[:2], t) * jacobian * weight).sum()
    np.testing.assert_allclose(total, 1, atol=1e-4)
    # And its mean is that of the samples.
    mean = (density(pair, Z[:2], t) * first * jacobian * weight).sum()
    samples = relaxed_pairs(t)
    assert abs(samples.mean() - mean) < 5 * samples.std() / np.sqrt(DRAWS) + 1e-4


def test_the_density_of_the_logarithm_holds_where_samples_underflow():
    x = np.random.default_rng(5).dirichlet(np.ones(4), 50)
    near(
        js.exp_concrete_log_prob(np.log(x), Z, 0.4),
        js.concrete_log_prob(x, Z, 0.4) + np.log(x).sum(-1),
    )
    z = jnp.asarray(Z, jnp.float32)
    y = js.gumbel_log_softmax(KEY, z, 1e-3)
    assert (jnp.exp(y) == 0).any() and y.dtype == jnp.float32
    exact = js.exp_concrete_log_prob(np.asarray(y, np.float64), Z, 1e-3)
    np.testing.assert_allclose(js.exp_concrete_log_prob(y, z, 1e-3), exact, rtol=1e-5)
    near(np.exp(js.gumbel_log_softmax(KEY, Z, 0.5)), js.gumbel_softmax(KEY, Z, 0.5))
    check_grads(
        lambda y, z, t: js.exp_concrete_log_prob(y, z, t), (np.log(x[:2]), Z, 0.7), order=2,
        modes=("rev",), eps=1e-5, rtol=1e-5,
    )  # fmt: skip


def test_classes_that_cannot_be_drawn_do_not_count_in_the_density():
    z = np.array([0.5, -INF, 1.2, 3.0])
    x, where = np.array([0.3, 0.0, 0.7, NAN]), np.array([True, True, True, False])

    def density(z, x):
        return js.concrete_log_prob(x, z, 0.5, where=where)

    near(density(z, x), np.log(concrete(x[[0, 2]], z[[0, 2]], 0.5)))
    gradient = np.asarray(jax.grad(density)(z, x))
    assert (gradient[[1, 3]] == 0).all() and (gradient[[0, 2]] != 0).all()
    assert density(z, np.array([0.3, 0.1, 0.6, 0.0])) == -INF
    assert js.concrete_log_prob(np.zeros(2), np.full(2, -INF)) == 0
    assert np.isfinite(js.concrete_log_prob(np.array([0.0, 1.0]), np.zeros(2), 0.01))
    assert js.concrete_log_prob(np.full((5, 4), 0.25), Z, np.full((5, 1), 0.5)).shape == (5,)
    assert np.isnan(js.concrete_log_prob(np.full(2, 0.5), np.zeros(2), jnp.array(0.0)))
    split = jax.vmap(
        lambda x, z: js.concrete_log_prob(x, z, 0.5, axis_name="parts"), axis_name="parts"
    )(x[[0, 2]].reshape(2, 1), z[[0, 2]].reshape(2, 1))
    near(split, np.log(concrete(x[[0, 2]], z[[0, 2]], 0.5)))


def test_straight_through_has_one_value_and_the_other_derivative():
    """To the bit, where soft + (hard − soft) is not; and to second order."""
    z = jnp.array([0.1, 1e-9, 3.0])

    def hard(z):
        return js.straight_through(jnp.round(z), z**3)

    np.testing.assert_array_equal(hard(z), jnp.round(z))
    near(jax.jacobian(hard)(z), np.diag(3 * z**2))
    near(jax.jacfwd(jax.jacrev(hard))(z)[2, 2, 2], 18)
    soft = jnp.array([0.3, 0.7], jnp.float32)
    assert js.straight_through(np.array([0, 1]), soft).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"jsoftmax.straight_through.*\(3,\).*\(2,\)"):
        js.straight_through(np.zeros(3), soft)
    with pytest.raises(TypeError, match="`soft` has dtype int"):
        js.straight_through(soft, np.array([0, 1]))


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
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@each(KEYED)
def test_what_is_no_key_is_answered_with_a_remedy(name, unchecked):
    known = rf"jsoftmax.{name}: `key` "
    for key, error, remedy in (
        (None, TypeError, r"is None; give it one key"),
        (42, TypeError, r"is 42 of type int.*jax.random.key\(42\)"),
        (np.zeros(2, np.uint32), TypeError, "is a numpy array"),
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
        (lambda: js.gumbel_topk(KEY, Z, 2.0), TypeError, "`k` must be a Python int"),
        (lambda: js.gumbel_topk(KEY, Z, 2, axis=(0,)), TypeError, "`axis` must be a single"),
        (lambda: js.relaxed_topk(KEY, Z, 5), ValueError, "`k` must be above 0 and at most"),
        (lambda: js.gumbel_rao(KEY, Z, samples=0), ValueError, "`samples` must be at least 1"),
        (lambda: js.gumbel_entmax(KEY, Z, -1), ValueError, "Did you mean axis=-1"),
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
    """Every function of the folder once, in the dtype of the logits."""
    t = jnp.full((1,), 0.5, z.dtype)
    where = jnp.array([True, True, False, True])
    x = [sampler(key, z, t, where=where) for sampler in SAMPLERS.values()]
    x.append(js.gumbel_log_softmax(key, z, t))
    x.append(js.relaxed_topk(key, z, 2, t))
    x.append(js.gumbel_topk(key, z, 2, where=where).log_prob)
    x.append(js.reinforce_leave_one_out(key, z, lambda x: x.sum(-1), where=where))
    x.append(js.concrete_log_prob(js.gumbel_softmax(key, z, t), z, t))
    x.append(js.decoupled_straight_through(key, z, t, forward_temperature=t))
    return sum(jnp.where(jnp.isfinite(y), y, 0).sum() for y in x)


def test_strict_promotion_and_the_search_for_leaks_find_nothing():
    gradient = jax.jit(jax.grad(everything, argnums=1))
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.checking_leaks(),
    ):
        found = gradient(KEY, jnp.ones((2, 4), jnp.float32))
    assert np.isfinite(found).all()


def test_no_nan_is_formed_on_the_way():
    """For rows with −∞, of −∞ alone, of ties and of huge gaps, in no operation, forth or back."""
    rows = jnp.array([[1, -INF, 0.5, 3], [-INF] * 4, [5] * 4, [1e30, 0, 1, 2]], jnp.float32)
    function = checkify.checkify(jax.grad(everything, argnums=1), errors=checkify.nan_checks)
    error, gradient = jax.jit(function)(KEY, rows)
    error.throw()
    assert np.isfinite(gradient).all()


def test_every_function_and_gradient_is_exported_for_every_platform():
    def function(data, z):
        return jax.grad(everything, argnums=1)(jax.random.wrap_key_data(data), z)

    arguments = jax.random.key_data(KEY), jnp.ones((2, 4), jnp.float32)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(function), platforms=platforms)(*arguments)
    assert exported.platforms == platforms
