"""Properties of single mappings: worked values, relations between members, special cases."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles

near = functools.partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-14)
LOGITS = np.random.default_rng(12).standard_normal((3, 6))
ALPHAS = [0.5, 1.0, 1.5, 2.0, 3.0]


@pytest.mark.parametrize(
    ("logits", "temperature", "right", "digits"),
    [
        ([1, 2, 8], 1, [0.001, 0.002, 0.997], 3),
        ([0, 10], 1, [0.00005, 0.99995], 5),
        ([0, 10], 100, [0.475, 0.525], 3),
        ([1, 2, 3, 4, 1, 2, 3], 1, [0.0236, 0.0643, 0.1747, 0.4748, 0.0236, 0.0643, 0.1747], 4),
    ],
)
def test_worked_values_of_softmax(logits, temperature, right, digits):
    p = js.softmax(jnp.array(logits, float), temperature=temperature)
    np.testing.assert_allclose(p, right, rtol=0, atol=0.5 * 10.0**-digits)


def test_worked_values_of_its_sparse_relatives():
    """By hand: sparsemax of (1, ½, −1) has τ = ¼; entmax-1.5 of (1, 0) has √p₁ − √p₂ = ½."""
    near(js.sparsemax(jnp.array([1.0, 0.5, -1.0])), [0.75, 0.25, 0])
    p = js.entmax(jnp.array([1.0, 0.0]))
    near(np.sqrt(p[0]) - np.sqrt(p[1]), 0.5)
    near(js.hardmax(jnp.array([1.0, 5.0, 5.0])), [0, 0.5, 0.5])
    near(js.topk_entmax(jnp.array([5.0, 4.0, 0.0, -1.0]), 2, alpha=2.0), [1, 1, 0, 0])
    near(js.topk_entmax(jnp.array([2.0, 1.0, 0.5, -1.0]), 2, alpha=2.0), [1, 0.75, 0.25, 0])
    near(js.capped_entmax(jnp.array([2.0, 1.0, 0.5, -1.0]), 0.5, alpha=2.0), [0.5, 0.5, 0, 0])


def test_softmax_has_a_base():
    """p ∝ bᶻ at temperature 1/log b, towards the minimum for b < 1."""
    for base in (10.0, 2.0, 0.5):
        right = base**LOGITS / (base**LOGITS).sum(-1, keepdims=True)
        near(js.softmax(LOGITS, temperature=1 / np.log(base)), right)


def test_softmax_obeys_the_choice_axiom_of_luce():
    """p_i/p_j does not depend on the other classes; for sparsemax it does."""
    few = jnp.arange(6) < 3
    all_of_them, some = js.softmax(LOGITS), js.softmax(LOGITS, where=few)
    near(some[:, 0] / some[:, 1], all_of_them[:, 0] / all_of_them[:, 1])
    near(some[:, :3], all_of_them[:, :3] / all_of_them[:, :3].sum(-1, keepdims=True))
    z = jnp.array([0.5, 0.2, 0.4])
    two, three = js.sparsemax(z[:2]), js.sparsemax(z)
    assert abs(two[0] / two[1] - three[0] / three[1]) > 0.1


def test_softmax_lies_in_the_interior_and_is_not_scale_invariant():
    assert (js.softmax(10 * LOGITS) > 0).all()
    assert abs(js.softmax(2 * LOGITS) - js.softmax(LOGITS)).max() > 0.01


def test_the_logistic_function_is_softmax_of_two():
    z = np.linspace(-30, 30, 13)
    pairs = np.stack([z, np.zeros_like(z)], -1)
    near(js.softmax(pairs)[:, 0], 1 / (1 + np.exp(-z)))
    near(js.binary_entmax(z, 1.0), 1 / (1 + np.exp(-z)))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_binary_entmax_is_entmax_against_a_zero(alpha):
    z = np.linspace(-3, 3, 7)
    pairs = np.stack([z, np.zeros_like(z)], -1)
    near(js.binary_entmax(z, alpha), oracles.entmax(pairs, alpha)[:, 0].astype(float))
    near(js.binary_entmax(z, alpha, temperature=2.0), js.binary_entmax(z / 2, alpha))
    near(js.binary_entmax(z, alpha) + js.binary_entmax(-z, alpha), np.ones(7))


def test_binary_entmax_takes_an_order_and_a_temperature_per_number():
    z, alpha, t = np.array([0.3, -0.2, 0.9]), np.array([1.0, 1.5, 2.0]), np.array([1.0, 2.0, 0.5])
    right = [
        float(js.binary_entmax(*item, temperature=s)) for *item, s in zip(z, alpha, t, strict=True)
    ]
    near(js.binary_entmax(z, alpha, temperature=t), right)
    near(js.binary_entmax(z, 2.0), np.clip((z + 1) / 2, 0, 1))


def test_softmin_is_softmax_of_the_negated_scores():
    near(js.softmin(LOGITS), js.softmax(-LOGITS))
    near(js.softmin(LOGITS, temperature=0.5), js.softmax(LOGITS, temperature=-0.5))
    near(js.softmin(np.array([1.0, np.inf, 2.0]))[1], 0)


@pytest.mark.slow
def test_members_of_the_family_are_each_other():
    near(js.entmax(LOGITS, 1), js.softmax(LOGITS))
    near(js.entmax(LOGITS, 2), js.sparsemax(LOGITS))
    near(js.entmax(LOGITS, np.inf), js.hardmax(LOGITS))
    near(js.topk_entmax(LOGITS, 1, alpha=1.5), js.entmax(LOGITS))
    near(js.capped_entmax(LOGITS, 1.0, alpha=2.0), js.sparsemax(LOGITS))
    near(js.capped_entmax(LOGITS, np.inf, alpha=1.0), js.softmax(LOGITS))
    near(js.normmax(LOGITS, 1e9), js.normmax(LOGITS, np.inf), atol=1e-7)


def test_normmax_prefers_equal_shares():
    """At α = ∞ the mass is shared equally by the support; as T → 0 by the largest."""
    p = np.asarray(js.normmax(LOGITS, np.inf))
    for row in p:
        near(row[row > 0], 1 / (row > 0).sum())
    near(js.normmax(np.array([1.0, 5.0, 5.0]), temperature=0), [0, 0.5, 0.5])


@pytest.mark.slow
def test_every_axis_will_do():
    z = np.random.default_rng(13).standard_normal((2, 3, 4))
    for function in (js.softmax, js.entmax, functools.partial(js.topk_entmax, k=2)):
        last = function(z, axis=-1)
        near(function(np.moveaxis(z, -1, 0), axis=0), np.moveaxis(last, -1, 0))
        near(function(np.moveaxis(z, -1, 1), axis=1), np.moveaxis(last, -1, 1))
        both = function(z, axis=(0, -1))
        flat = function(np.moveaxis(z, 1, 0).reshape(3, 8), axis=-1)
        near(np.moveaxis(both, 1, 0).reshape(3, 8), flat)
    near(js.logsumexp(z, axis=(0, 2)), js.logsumexp(np.moveaxis(z, 1, 0).reshape(3, 8)))
    assert js.logsumexp(z, axis=(0, 2), keepdims=True).shape == (1, 3, 1)
    assert js.smoothmax(z, 1.5, axis=1, keepdims=True).shape == (2, 1, 4)


@pytest.mark.slow
def test_parameters_may_differ_from_row_to_row():
    """α, T, k and caps align as in numpy, and vmap over any of them gives the same."""
    z = np.random.default_rng(14).standard_normal((2, 3, 4))
    alpha = np.array([[1.0], [1.5], [2.5]])
    t = np.array([[[0.5]], [[2.0]]])
    p = js.entmax(z, alpha, temperature=t)
    for i, j in itertools.product(range(2), range(3)):
        right = oracles.entmax(z[i, j] / t[i, 0, 0], alpha[j, 0]).astype(float)
        near(p[i, j], right, rtol=1e-12)
    k = np.array([[1.0], [1.5], [3.0]])
    p = js.topk_entmax(z, k, alpha=2.0)
    near(p.sum(-1), np.broadcast_to(k[:, 0], (2, 3)), rtol=1e-12)
    caps = np.array([0.3, 0.4, 0.9, 0.2])
    near(js.capped_entmax(z, caps)[1, 2], js.capped_entmax(z[1, 2], caps), rtol=1e-12)


@pytest.mark.slow
def test_vmap_over_every_argument():
    z = np.random.default_rng(15).standard_normal((3, 5))
    where = np.array([[True] * 5, [True, False] * 2 + [True], [False, True, True, True, True]])
    alpha, t = np.array([1.0, 1.4, 2.2]), np.array([0.5, 1.0, -2.0])

    def one(z, where, alpha, t):
        return js.entmax(z, alpha, where=where, temperature=t)

    together = jax.vmap(one)(z, where, alpha, t)
    for i, row in enumerate(together):
        near(row, one(z[i], where[i], alpha[i], t[i]), rtol=1e-12)
    for position, values in enumerate((z, where, alpha, t)):
        axes = [None] * 4
        axes[position] = 0
        fixed = [z[0], where[0], alpha[0], t[0]]
        fixed[position] = values
        for i, row in enumerate(jax.vmap(one, axes)(*fixed)):
            single = [z[0], where[0], alpha[0], t[0]]
            single[position] = values[i]
            near(row, one(*single), rtol=1e-12)
    outer = jax.vmap(lambda z: js.softmax(z, axis=-2), in_axes=1, out_axes=1)
    near(outer(z[:, :, None]), jax.nn.softmax(z, axis=0)[:, :, None])


ONE_ROW = {
    "entmax": lambda z, x: js.entmax(z, x)[0],
    "entmax_loss": lambda z, x: js.entmax_loss(z, 1, alpha=x),
    "topk_entmax of k": lambda z, x: js.topk_entmax(z, x, alpha=1.5)[0],
    "capped_entmax of u": lambda z, x: js.capped_entmax(z, x, alpha=1.5)[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_ROW)
def test_one_row_is_mapped_over_a_parameter_alone(name):
    """Value and derivative: the scores have no rows then, and the parameter brings them."""
    z, x = np.array([1.0, 0.7, -0.4]), np.array([0.6, 1.0, 1.4, 2.2])
    of_one = jax.value_and_grad(ONE_ROW[name], 1)
    values, slopes = jax.jit(jax.vmap(of_one, (None, 0)))(z, x)
    for i in range(len(x)):
        value, slope = of_one(z, x[i])
        near(values[i], value, rtol=1e-12)
        near(slopes[i], slope, rtol=1e-9)


def split_in(parts):
    return [js.PartialLogSumExp.of(part) for part in parts]


def test_partial_results_merge_to_logsumexp_in_any_grouping():
    z = np.array([[1.0, -2, 800, 3, -np.inf, 0.5], [-5, -np.inf, -4, -4, 2, 1], [-np.inf] * 6])
    right = np.asarray(js.logsumexp(z))
    a, b, c = split_in(np.split(z, [1, 4], axis=-1))
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        near(merged.value(), right)
    nothing = js.PartialLogSumExp.nothing((3,), float)
    near(nothing.merge(a).merge(nothing).value(), js.logsumexp(z[:, :1]))
    assert np.isneginf(nothing.merge(nothing).value()).all()
    near(js.PartialLogSumExp.of(z, where=np.arange(6) < 4).value(), js.logsumexp(z[:, :4]))


@pytest.mark.slow
def test_partial_results_stream_through_a_scan_and_a_tree_with_their_gradient():
    z = np.random.default_rng(16).standard_normal((2, 12)) * 5

    def streamed(z):
        blocks = jnp.moveaxis(z.reshape(2, 4, 3), 1, 0)
        start = js.PartialLogSumExp.nothing((2,), z.dtype)
        end, _ = jax.lax.scan(
            lambda carry, block: (carry.merge(js.PartialLogSumExp.of(block)), None), start, blocks
        )
        return end.value()

    def tree(z):
        blocks = jnp.moveaxis(z.reshape(2, 4, 3), 1, 0)
        parts = js.PartialLogSumExp.of(blocks)
        merged = jax.lax.associative_scan(js.PartialLogSumExp.merge, parts)
        return merged.value()[-1]

    for function in (streamed, tree):
        near(jax.jit(function)(z), js.logsumexp(z))
        near(jax.jit(jax.grad(lambda z, f=function: f(z).sum()))(z), js.softmax(z))
        right = jax.hessian(lambda z: js.logsumexp(z).sum())(z)
        near(jax.jit(jax.hessian(lambda z, f=function: f(z).sum()))(z), right, atol=1e-12)


def test_partial_results_survive_infinities_and_nan():
    inf, nan = np.inf, np.nan
    for left, right in itertools.product([-inf, 0.0, inf, nan], repeat=2):
        a, b = split_in(np.array([[left], [right]]))
        np.testing.assert_array_equal(a.merge(b).value(), js.logsumexp(np.array([left, right])))


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 3.0, np.inf])
@pytest.mark.parametrize("size", [1, 3, 6, 9])
def test_the_sparse_form_is_the_dense_one_wherever_it_says_so(alpha, size):
    z = np.concatenate([0.3 * LOGITS, 2 * LOGITS, np.zeros((1, 6))])
    z[0, 2] = -np.inf
    dense = np.asarray(js.entmax(z, alpha))
    sparse = js.entmax_sparse(z, size, alpha=alpha)
    assert sparse.values.shape == sparse.indices.shape == (7, min(size, 6))
    np.testing.assert_array_equal(sparse.certificate, (dense > 0).sum(-1) <= size)
    rebuilt = np.zeros_like(dense)
    np.put_along_axis(rebuilt, np.asarray(sparse.indices), np.asarray(sparse.values), -1)
    whole = np.asarray(sparse.certificate)
    near(rebuilt[whole], dense[whole], rtol=1e-12)
    assert (np.diff(sparse.values, axis=-1) <= 0).all()


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 3.0])
def test_the_threshold_of_the_sparse_form_gives_the_probabilities_back(alpha):
    """p = [1 + (α−1)((z − max z)/T − τ)]₊^(1/(α−1))."""
    z, t = LOGITS, 0.7
    sparse = js.entmax_sparse(z, 6, alpha=alpha, temperature=t)
    v = (z - z.max(-1, keepdims=True)) / t - np.asarray(sparse.tau)[:, None]
    right = np.exp(v) if alpha == 1 else np.maximum(1 + (alpha - 1) * v, 0) ** (1 / (alpha - 1))
    near(js.entmax(z, alpha, temperature=t), right, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_the_sparse_form_takes_masks_axes_and_gradients():
    z, mask = LOGITS.T, (np.arange(6) != int(LOGITS[0].argmax()))[:, None]
    sparse = js.entmax_sparse(z, 5, alpha=2.0, axis=0, where=mask)
    near(sparse.values[0].sum(), 1)
    assert (np.asarray(sparse.indices)[0] != LOGITS[0].argmax()).all()

    def largest(z):
        return js.entmax_sparse(z, 6, alpha=1.5).values[..., 0].sum()

    right = jax.grad(lambda z: js.entmax(z).max(-1).sum())(LOGITS)
    near(jax.grad(largest)(LOGITS), right, rtol=1e-10)
    empty = js.entmax_sparse(np.full(3, -np.inf), 2)
    near(empty.values, [0, 0])
    assert empty.certificate


def test_soft_arg_max_is_the_expected_coordinate():
    p = np.asarray(js.softmax(LOGITS))
    near(js.soft_argmax(LOGITS), p @ np.arange(6))
    x = np.linspace(-1, 1, 6)
    near(js.soft_argmax(LOGITS, x), p @ x)
    near(js.soft_argmax(LOGITS, x, alpha=2.0), np.asarray(js.sparsemax(LOGITS)) @ x)
    near(js.soft_argmax(np.array([0.0, 3, 3, 0]), temperature=0), 1.5)
    heat = np.zeros((4, 5))
    heat[2, 3] = 50
    near(js.soft_argmax(heat, axis=(0, 1)), [2, 3])
    near(js.soft_argmax(heat, axis=(1, 0)), [3, 2])
    near(
        jax.grad(lambda z: js.soft_argmax(z).sum())(LOGITS),
        p * (np.arange(6) - (p @ np.arange(6))[:, None]),
    )


ENERGIES = np.array([0.0, 0.3, 1.0, 2.5])
TEMPERATURES = [0.3, 1.0, 4.0, -0.8]


@pytest.mark.parametrize("t", TEMPERATURES)
def test_thermodynamics_hangs_together(t):
    """F = ⟨E⟩ − TS, dF/dT = −S, d⟨E⟩/dT = C, ∂(−log Z)/∂(1/T) = ⟨E⟩, ∂F/∂E = p."""
    e = jnp.asarray(ENERGIES)
    weights = np.exp(-ENERGIES / t)
    p = weights / weights.sum()
    near(js.boltzmann(e, t), p)
    near(js.boltzmann(e, t), js.softmin(e, temperature=t))
    near(js.log_partition(e, t), np.log(weights.sum()))
    near(js.mean_energy(e, t), p @ ENERGIES)
    near(js.free_energy(e, t), js.mean_energy(e, t) - t * js.entropy(p))
    near(js.free_energy(e, t), -t * js.log_partition(e, t))
    near(jax.grad(js.free_energy)(e, t), p)
    near(jax.grad(js.free_energy, argnums=1)(e, t), -js.entropy(p), rtol=1e-12)
    near(js.heat_capacity(e, t), (p @ ENERGIES**2 - (p @ ENERGIES) ** 2) / t**2, rtol=1e-12)
    near(jax.grad(js.mean_energy, argnums=1)(e, t), js.heat_capacity(e, t), rtol=1e-12)
    near(jax.grad(lambda b: -js.log_partition(e, 1 / b))(1 / t), js.mean_energy(e, t), rtol=1e-12)


def test_thermodynamics_at_the_ends():
    e = np.array([-1.0, -1, 0, np.inf])
    near(js.boltzmann(e, 0), [0.5, 0.5, 0, 0])
    near(js.boltzmann(e, np.inf), [1 / 3, 1 / 3, 1 / 3, 0])
    near(js.free_energy(e, 0), -1)
    near(js.mean_energy(e, 0), -1)
    near(js.mean_energy(e, 1.0), js.mean_energy(e[:3], 1.0))
    near(js.heat_capacity(e, 0), 0)
    near(js.heat_capacity(e, np.inf), 0)
    assert js.log_partition(e, 0) == np.inf
    near(js.log_partition(np.array([0.0, 0, 1]), 0), np.log(2))
    assert js.log_partition(np.array([1.0, 2]), 0) == -np.inf
    near(js.heat_capacity(np.array([1.0, -np.inf])), 0)
    assert js.mean_energy(np.array([1.0, -np.inf])) == -np.inf
    nothing = np.full(2, np.inf)
    near(js.boltzmann(nothing), [0, 0])
    assert js.free_energy(nothing) == np.inf
    near(js.mean_energy(nothing), 0)
    near(js.heat_capacity(nothing), 0)
