"""Categorical and RelaxedCategorical: against scipy, integrals and enumeration; as pytrees."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from jax.test_util import check_grads

import jsoftmax as js

INF, NAN = np.inf, np.nan
KEY = jax.random.key(11)
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
same = np.testing.assert_array_equal
Z = np.array([[0.3, -1.2, 2.0, 0.1], [1.0, 1.5, -0.5, 0.7]])
W = np.array([[0.1, 0.4, -0.9, 1.1], [-1.0, 0.2, 0.3, 0.0]])
ALPHAS = [1.0, 1.5, 2.0, 0.7]


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("alpha", [*ALPHAS, jnp.array(1.5), INF])
@pytest.mark.slow
def test_it_agrees_with_scipy(alpha):
    """Probabilities, log-probabilities, mode, entropies, divergence; one scipy object a row."""
    d, flat = js.Categorical(Z, alpha=alpha), js.Categorical(W)
    p, q = np.asarray(js.entmax(Z, alpha)), np.asarray(js.softmax(W))
    near(d.probabilities(), p)
    kl, code, shannon = d.kl_divergence(flat), d.cross_entropy(flat), d.entropy()
    for row in range(2):
        scipys = scipy.stats.rv_discrete(values=(np.arange(4), p[row]))
        each = js.Categorical(Z[row], alpha=alpha)
        near(each.prob(np.arange(4)), scipys.pmf(np.arange(4)))
        with np.errstate(divide="ignore"):
            near(each.log_prob(np.arange(4)), np.log(p[row]), rtol=1e-9)
        near(shannon[row], scipys.entropy())
        near(kl[row], scipy.stats.entropy(p[row], q[row]))
        near(code[row], scipy.stats.entropy(p[row], q[row]) + scipys.entropy())
        assert d.mode()[row] == p[row].argmax()
    near(d.entropy(2.0), (1 - (p**2).sum(-1)) / 2)
    near(d.entropy(0.5), (1 - np.where(p > 0, p, 0) ** 0.5 @ np.ones(4)) / (0.5 * -0.5))


@pytest.mark.slow
def test_temperature_and_mask_are_those_of_the_mapping():
    mask = np.array([True, True, False, True])
    t = jnp.array([[0.5], [-2.0]])
    d = js.Categorical(Z, alpha=1.5, temperature=t, where=mask)
    p = js.entmax(Z, 1.5, where=mask, temperature=t)
    near(d.probabilities(), p)
    same(d.mode(), np.asarray(p).argmax(-1))
    assert (d.log_prob(2) == -INF).all()
    drawn = np.asarray(d.sample(KEY, (4000,)))
    for row in range(2):  # each share within 5 standard deviations
        share = np.bincount(drawn[:, row], minlength=4) / 4000
        bound = 5 * np.sqrt(np.asarray(p[row]) * (1 - np.asarray(p[row])) / 4000)
        assert (np.abs(share - np.asarray(p[row])) <= bound).all()


@pytest.mark.slow
def test_its_draws_are_those_of_the_samplers():
    for sampler, d in (
        (lambda shape: js.categorical(KEY, Z, shape=shape), js.Categorical(Z)),
        (
            lambda shape: js.sample_from(KEY, js.sparsemax(Z), shape=shape),
            js.Categorical(Z, alpha=2),
        ),
    ):
        same(d.sample(KEY, (3, 5)), sampler((3, 5, 2)))
        assert d.sample(KEY).shape == d.batch_shape == (2,)
        assert d.classes == 4


@pytest.mark.slow
def test_a_narrow_dtype_does_not_lose_small_probabilities():
    d = js.Categorical(jnp.asarray(Z, jnp.bfloat16), alpha=1.5)
    assert d.probabilities().dtype == d.log_probabilities().dtype == jnp.bfloat16
    for number in (d.log_prob(0), d.prob(0), d.entropy(), d.kl_divergence(d), d.cross_entropy(d)):
        assert number.dtype == jnp.float32
    assert js.RelaxedCategorical(d.logits, 1.0).sample(KEY).dtype == jnp.bfloat16


@pytest.mark.slow
def test_zeros_count_nothing_here_and_cost_everything_there():
    """0 log 0 = 0, p log(p/0) = ∞, and every gradient is finite."""
    sparse, dense = js.Categorical(4 * Z, alpha=2.0), js.Categorical(W)
    holes = np.asarray(sparse.probabilities()) == 0
    assert holes.any(-1).all()
    assert np.isfinite(sparse.kl_divergence(dense)).all()
    near(sparse.kl_divergence(sparse), 0)
    for method in ("kl_divergence", "cross_entropy"):
        assert (getattr(dense, method)(sparse) == INF).all()

        def total(z, w, method=method):
            one, other = js.Categorical(z, alpha=2.0), js.Categorical(w)
            back = getattr(other, method)(one)
            forth = getattr(one, method)(other)
            return (forth + jnp.where(jnp.isfinite(back), 0, back)).sum()

        for gradient in jax.grad(total, (0, 1))(4 * Z, W):
            assert np.isfinite(gradient).all()
    masked = js.Categorical(Z, where=np.array([True, False, True, True]))
    near(masked.kl_divergence(js.Categorical(Z)), -np.log(1 - np.asarray(js.softmax(Z))[:, 1]))
    assert (js.Categorical(Z).kl_divergence(masked) == INF).all()


def test_a_small_divergence_is_not_lost_nor_negative():
    """In float32, two distributions an eps apart; the right value is Σ p (d − ⟨d⟩)²/2."""
    z = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    step = np.float32(1e-3) * np.random.default_rng(1).standard_normal((50, 30)).astype(np.float32)
    kl = np.asarray(js.Categorical(z).kl_divergence(js.Categorical(z + step)))
    p, q = (scipy.special.softmax(x.astype(np.float64), -1) for x in (z, z + step))
    np.testing.assert_allclose(kl, (p * np.log(p / q)).sum(-1), rtol=2e-2)
    assert (kl >= 0).all()
    assert (np.asarray(js.Categorical(z).kl_divergence(js.Categorical(z))) == 0).all()


@pytest.mark.slow
def test_rows_without_any_class_and_with_nan_stay_where_they_are():
    z = np.array([[-INF] * 4, [NAN, 0, 1, 2], Z[0]])
    d, other = js.Categorical(z), js.Categorical(W[0])
    same(d.mode(), [-1, -1, 2])
    same(np.asarray(d.sample(KEY, (5,)))[:, :2], np.full((5, 2), -1))
    for number, empty in (
        (d.entropy(), 0),
        (d.kl_divergence(other), 0),
        (d.cross_entropy(other), 0),
        (d.log_prob(2), -INF),
        (d.prob(2), 0),
    ):
        assert number[0] == empty
        assert np.isnan(number[1])
        assert np.isfinite(number[2])


@pytest.mark.slow
def test_values_broadcast_with_the_batch():
    d = js.Categorical(Z)
    log_p = np.asarray(js.log_softmax(Z))
    near(d.log_prob(np.array([[0], [3], [1]])), log_p[:, [0, 3, 1]].T)
    near(d.log_prob(jnp.array([1, 2])), log_p[[0, 1], [1, 2]])
    near(js.Categorical(Z[0]).prob(np.zeros((2, 3), int)), np.full((2, 3), np.exp(log_p[0, 0])))
    assert np.isnan(d.prob(jnp.array([-1, 4]))).all()
    assert np.isnan(jax.jit(d.log_prob)(4)).all()


METHODS = {
    "log_prob": lambda d, other: d.log_prob(np.array([2, 1])),
    "prob": lambda d, other: d.prob(np.array([2, 1])),
    "entropy": lambda d, other: d.entropy(),
    "entropy 2": lambda d, other: d.entropy(2.0),
    "entropy 0.5": lambda d, other: d.entropy(0.5),
    "kl_divergence": lambda d, other: d.kl_divergence(other),
    "cross_entropy": lambda d, other: d.cross_entropy(other),
}


@pytest.mark.slow
def test_derivatives_of_what_is_one_number():
    """All of them at once, both modes, of first order and for softmax of second."""

    def everything(z, w):
        d, other = js.Categorical(z), js.Categorical(w)
        return [method(d, other) for method in METHODS.values()]

    check_grads(jax.jit(everything), (Z, W), order=2, modes=["fwd", "rev"], rtol=1e-4)


@pytest.mark.slow
def test_derivatives_of_sparse_ones_in_all_their_arguments():
    """α and T as arrays; at these every class has mass, so that nothing has a kink."""

    def everything(z, w, alpha, t):
        d, other = js.Categorical(z, alpha=1.5), js.Categorical(w, alpha=alpha, temperature=t)
        return [method(other, d) for method in METHODS.values()]

    arguments = (Z / 4, W / 4, jnp.array(1.25), jnp.array(1.5))
    assert (np.asarray(js.entmax(Z / 4, 1.5)) > 0).all()
    check_grads(jax.jit(everything), arguments, order=1, modes=["fwd", "rev"], rtol=1e-4)


@pytest.mark.slow
def test_a_distribution_is_a_pytree():
    """An argument, a result, a carry; batched by vmap, taken apart by scan and by tree.map."""
    d = js.Categorical(Z, alpha=1.5, temperature=jnp.array(2.0), where=np.array([1, 0, 1, 1]) > 0)
    p = np.asarray(d.probabilities())
    back = jax.jit(lambda d: d)(d)
    assert isinstance(back, js.Categorical)
    assert back.regularizer == js.Tsallis(1.5)
    assert not jax.tree.leaves(back.regularizer)  # structure: the fast path stays
    near(jax.jit(lambda d: d.probabilities())(d), p)
    near(jax.vmap(lambda d: d.probabilities())(d), p)
    near(jax.tree.map(lambda x: x[1], d).probabilities(), p[1])
    carry, rows = jax.lax.scan(lambda c, d: (c, d.probabilities()), d, d)
    near(rows, p)
    near(carry.probabilities(), p)
    keys = jax.random.split(KEY, 2)
    drawn = jax.jit(jax.vmap(lambda d, key: d.sample(key, (3,))))(d, keys)
    same(drawn[1], jax.tree.map(lambda x: x[1], d).sample(keys[1], (3,)))
    made = jax.vmap(js.Categorical)(Z)
    near(made.probabilities(), js.softmax(Z))
    gradient = jax.grad(lambda d: d.entropy().sum())(js.Categorical(Z))
    assert isinstance(gradient, js.Categorical)
    near(gradient.logits, jax.grad(lambda z: js.entropy(js.softmax(z)).sum())(Z))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(d)]
    assert names == [".logits", ".temperature", ".where"]
    assert "float64[2, 4]" in repr(d)


def test_mistakes_are_answered(unchecked):
    d = js.Categorical(Z)
    with pytest.raises(ValueError, match=r"jsoftmax.Categorical: `alpha` must be positive"):
        js.Categorical(Z, alpha=-1.0)
    with pytest.raises(TypeError, match=r"jsoftmax.Categorical: `where` has dtype float64"):
        js.Categorical(Z, where=np.ones(4))
    with pytest.raises(ValueError, match=r"jsoftmax.Categorical.*single number"):
        js.Categorical(1.0)
    with pytest.raises(TypeError, match=r"jsoftmax.Categorical.log_prob: `value` has dtype float"):
        d.log_prob(np.ones(2))
    with pytest.raises(ValueError, match=r"jsoftmax.Categorical.prob: a `value` is out of range"):
        d.prob(4)
    with pytest.raises(ValueError, match=r"Categorical.log_prob: `value` of shape \(3,\).*\(2,\)"):
        d.log_prob(np.zeros(3, int))
    with pytest.raises(TypeError, match=r"jsoftmax.Categorical.kl_divergence: `other` must be"):
        d.kl_divergence(Z)
    with pytest.raises(ValueError, match=r"Categorical.cross_entropy.*\(2, 4\).*\(2, 3\).*number"):
        d.cross_entropy(js.Categorical(Z[:, :3]))
    with pytest.raises(ValueError, match=r"RelaxedCategorical: `temperature` must be at least 0"):
        js.RelaxedCategorical(Z, -1.0)
    with pytest.raises(ValueError, match=r"RelaxedCategorical.log_prob: at `temperature` 0"):
        js.RelaxedCategorical(Z, 0.0).log_prob(Z)
    with pytest.raises(ValueError, match=r"RelaxedCategorical.log_prob: `value` of shape \(3,\)"):
        js.RelaxedCategorical(Z, 1.0).log_prob(np.ones(3))


@pytest.mark.slow
def test_the_relaxed_density_is_that_of_the_paper():
    """Maddison et al., definition 1, written out; a mask makes it that of fewer classes."""
    t = 0.7
    x = scipy.special.softmax(W, -1)
    a = np.exp(Z)
    density = 6 * t**3 * (a * x ** (-t - 1)).prod(-1) / (a * x**-t).sum(-1) ** 4
    near(js.RelaxedCategorical(Z, t).log_prob(x), np.log(density))
    wide = js.RelaxedCategorical(np.insert(Z, 1, 5.0, -1), t, where=np.arange(5) != 1)
    near(wide.log_prob(np.insert(x, 1, 0.0, -1)), np.log(density))
    near(wide.log_prob(np.insert(x, 1, 0.1, -1)), np.log(density))  # whatever stands there
    absent = js.RelaxedCategorical(np.insert(Z, 1, -INF, -1), t)
    assert (np.asarray(absent.log_prob(np.insert(x, 1, 0.1, -1))) == -INF).all()
    # At a corner the density is infinite for T < K − 1, and taken as near it as floats go.
    assert 700 < js.RelaxedCategorical(Z[0], t).log_prob(np.array([1.0, 0, 0, 0])) < INF
    near(js.RelaxedCategorical(Z, t).log_prob(x[:1])[0], np.log(density[0]))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_relaxed_density_integrates_to_one(temperature):
    """Over the simplex of three classes, in coordinates log(x₁/x₃), log(x₂/x₃)."""
    grid = np.linspace(-60, 60, 601)
    scores = np.stack([*np.meshgrid(grid, grid), np.zeros((601, 601))], -1)
    x = scipy.special.softmax(scores, -1)
    log_density = js.RelaxedCategorical(np.array([0.3, -0.4, 1.0]), temperature).log_prob(x)
    # |∂(x₁, x₂)/∂(scores)| = x₁ x₂ x₃
    weights = np.exp(np.asarray(log_density) + np.log(x).sum(-1))
    integral = scipy.integrate.trapezoid(scipy.integrate.trapezoid(weights, grid), grid)
    near(integral, 1, rtol=1e-6)


def test_relaxed_draws_have_the_probabilities_of_the_classes_at_their_tops():
    """For every temperature; and at 0 they are the draws of `gumbel_argmax`."""
    n = 20_000
    z = jnp.asarray(np.insert(Z[0], 2, -INF))
    p = np.asarray(js.softmax(z))
    tops = []
    for t in (2.0, 0.3, 0.0):
        x = np.asarray(js.RelaxedCategorical(z, t).sample(KEY, (n,)))
        near(x.sum(-1), 1)
        assert (x[:, 2] == 0).all()
        tops.append(x.argmax(-1))
    counts = np.bincount(tops[0], minlength=5)[p > 0]
    # Pearson's statistic at its 1 − 10⁻⁶ quantile
    statistic = ((counts - n * p[p > 0]) ** 2 / (n * p[p > 0])).sum()
    assert statistic <= scipy.stats.chi2.ppf(1 - 1e-6, 3)
    same(tops[0], tops[1])
    same(tops[2], tops[0])
    same(tops[2], js.gumbel_argmax(KEY, z, shape=(n,)))
    assert set(np.unique(x)) == {0, 1}


def test_a_relaxed_draw_of_two_classes_is_logistic():
    """log(x₁/x₂) = (z₁ − z₂ + L)/τ with L logistic: Kolmogorov–Smirnov, p above 10⁻⁶."""
    x = np.asarray(js.RelaxedCategorical(np.array([0.7, 0.0]), 0.5).sample(KEY, (5000,)))
    logistic = 0.5 * np.log(x[:, 0] / x[:, 1]) - 0.7
    assert scipy.stats.kstest(logistic, "logistic").pvalue > 1e-6


@pytest.mark.slow
def test_relaxed_draws_and_densities_differentiate():
    def draw_and_density(z, t):
        d = js.RelaxedCategorical(z, t)
        x = d.sample(KEY)
        return x, d.log_prob(x), d.log_prob(scipy.special.softmax(W, -1))

    check_grads(jax.jit(draw_and_density), (Z, jnp.array(0.8)), order=1, modes=["fwd", "rev"])
    d = js.RelaxedCategorical(Z, jnp.array(0.8), where=np.array([True, True, False, True]))
    leaves, structure = jax.tree.flatten(d)
    assert len(leaves) == 3
    again = jax.jit(lambda d: d)(jax.tree.unflatten(structure, leaves))
    near(again.sample(KEY), d.sample(KEY))
    same(np.asarray(d.sample(KEY, (7,)))[..., 2], np.zeros((7, 2)))
    empty = js.RelaxedCategorical(np.full(3, -INF), 1.0)
    same(empty.sample(KEY), np.zeros(3))
    assert empty.log_prob(np.zeros(3)) == 0


@pytest.mark.slow
def test_distributions_keep_the_rules_that_jax_can_enforce():
    z = jnp.asarray(np.concatenate([Z, [[0, -INF, 1, 0]], np.full((1, 4), -INF)]), jnp.float32)
    w = jnp.asarray(W[:1], jnp.float32)

    def everything(z, w):
        d, other = js.Categorical(z, temperature=jnp.float32(2)), js.Categorical(w, alpha=1.5)
        relaxed = js.RelaxedCategorical(z, jnp.float32(0.5))
        return (
            [d.entropy(order) for order in (1.0, 2.0, 0.5)],
            (d.kl_divergence(other), d.cross_entropy(other), d.prob(1)),
            (d.mode(), d.log_prob(2), other.kl_divergence(d), relaxed.sample(KEY, (3,))),
            relaxed.log_prob(relaxed.sample(KEY)),
        )

    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.checking_leaks(),
        jax.debug_nans(True),
    ):
        jax.jit(everything)(z, w)
