"""One behaviour of keys, names and shapes in and out of `jit`, and no program compiled twice."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._labels import log_loss_at
from tests import draws

OLD = jax.random.PRNGKey(3)
Z = np.array([[0.5, -0.3, 1.2, 0.0], [2.0, 0.1, -1.0, 0.4]])

CALLS = {
    "categorical": js.categorical,
    "sample_from": lambda key, z: js.sample_from(key, js.softmax(z)),
    "gumbel_argmax": js.gumbel_argmax,
    "gumbel_topk": lambda key, z: js.gumbel_topk(key, z, 2),
    "gumbel_softmax": js.gumbel_softmax,
    "sample_action": js.sample_action,
    "Categorical.sample": lambda key, z: js.Categorical(z).sample(key, (2,)),
    "aps_scores": lambda key, z: js.calibration.aps_scores(js.softmax(z), key=key),
}


@draws.each(CALLS)
def test_a_key_of_numpy_is_that_key_in_and_out_of_jit(name):
    expected = CALLS[name](OLD, Z)
    for call in (CALLS[name], jax.jit(CALLS[name])):
        jax.tree.map(draws.near, call(np.asarray(OLD), Z), expected)
    for wrong, error in (
        (np.zeros(3, np.uint32), ValueError),
        (np.zeros((1, 2), np.uint32), ValueError),
        (np.zeros(2, np.int32), TypeError),
    ):
        messages = set()
        for call in (CALLS[name], jax.jit(CALLS[name])):
            with pytest.raises(error, match="`key`") as told:
                call(wrong, Z)
            messages.add(str(told.value))
        assert len(messages) == 1


def test_the_third_position_of_the_gumbel_family_is_the_temperature():
    for function in (
        js.gumbel_softmax, js.gumbel_log_softmax, js.gumbel_entmax, js.gumbel_rao, js.reinmax,
        js.reinmax_cv, js.reinmax_rao,
        js.straight_through_categorical, js.straight_through_gumbel, js.decoupled_straight_through,
    ):  # fmt: skip
        assert list(inspect.signature(function).parameters)[2] == "temperature"
    for function in (js.gumbel_entmax, js.sample_action, js.policies.log_prob, js.Categorical):
        alpha = inspect.signature(function).parameters["alpha"]
        assert alpha.kind is inspect.Parameter.KEYWORD_ONLY
    x = js.gumbel_entmax(draws.KEY, Z, 0.5, alpha=1.0)
    np.testing.assert_array_equal(x, js.gumbel_softmax(draws.KEY, Z, 0.5))


@pytest.mark.parametrize("axis", [-1, 0])
def test_many_draws_without_replacement_are_rows_of_their_own(axis):
    z, k, n = np.moveaxis(Z, -1, axis), 2, 20_000
    one = js.gumbel_topk(draws.KEY, z, k, axis)
    same = js.gumbel_topk(draws.KEY, z, k, axis, shape=(2,))
    jax.tree.map(np.testing.assert_array_equal, same, one)
    many = jax.jit(lambda: js.gumbel_topk(draws.KEY, z, k, axis, shape=(n, 2)))()
    assert many.log_prob.shape == (n, 2)
    indices = np.moveaxis(np.asarray(many.indices), axis if axis < 0 else axis - 2, -1)
    assert indices.shape == (n, 2, k)
    p = np.asarray(js.softmax(Z), np.float64)
    for row in range(2):
        first, second = indices[:, row].T
        # P(i, j) = p_i p_j/(1 − p_i) of pairs i ≠ j
        pairs = np.outer(p[row] / (1 - p[row]), p[row])
        counts = np.bincount(4 * first + second, minlength=16)
        off = ~np.eye(4, dtype=bool).ravel()
        assert (counts[~off] == 0).all()
        draws.assert_frequencies(counts[off], pairs.ravel()[off])
        np.testing.assert_allclose(many.log_prob[:, row], np.log(pairs[first, second]), rtol=1e-6)
    leading = js.gumbel_argmax(draws.KEY, z, axis, shape=(n, 2))
    np.testing.assert_array_equal(indices[..., 0], leading)
    with pytest.raises(ValueError, match=r"jsoftmax.gumbel_topk: `shape`"):
        js.gumbel_topk(draws.KEY, z, k, axis, shape=(3,))


def test_draws_without_replacement_have_gradients_of_their_log_probability():
    z, mask = jnp.asarray(Z), np.array([True, True, False, True])

    def plain(z):
        rest = jnp.where(mask, z, -jnp.inf)
        indices = js.gumbel_topk(draws.KEY, z, 2, where=mask).indices
        total = 0.0
        for t in range(2):
            row = jnp.arange(2), indices[:, t]
            total += jax.nn.log_softmax(rest)[row]
            rest = rest.at[row].set(-jnp.inf)
        return total

    found = js.gumbel_topk(draws.KEY, z, 2, where=mask).log_prob
    draws.near(found, plain(z), rtol=1e-6)
    slopes = jax.jacobian(lambda z: js.gumbel_topk(draws.KEY, z, 2, where=mask).log_prob)(z)
    draws.near(slopes[..., [0, 1, 3]], jax.jacobian(plain)(z)[..., [0, 1, 3]], rtol=1e-6)
    assert (slopes[..., 2] == 0).all()


def test_the_loss_of_one_class_is_right_from_near_0_to_huge():
    """Against float64 of numpy, with its gradient p − y and its Hessian diag(p) − p pᵀ."""
    rng = np.random.default_rng(0)
    classes = ClassAxis((-1,))
    for spread in (1e-3, 1.0, 30.0, 1e4):
        z = (spread * rng.normal(size=(200, 7))).astype(np.float32)
        label = rng.integers(0, 7, (200, 1)).astype(np.int32)
        wide = z.astype(np.float64)
        others = np.where(np.arange(7) == label, -np.inf, wide)
        gap = np.take_along_axis(wide, label, -1) - others.max(-1, keepdims=True)
        rest = np.log(np.exp(others - others.max(-1, keepdims=True)).sum(-1, keepdims=True))
        expected = np.logaddexp(0, rest - gap)
        found = log_loss_at(jnp.asarray(z), jnp.asarray(label), classes)[0]
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-37)
    z = jnp.asarray(Z[0])

    def loss(z):
        return log_loss_at(z, jnp.array([2]), classes)[0][0]

    p = np.asarray(js.softmax(z))
    draws.near(jax.grad(loss)(z), p - np.eye(4)[2])
    draws.near(jax.hessian(loss)(z), np.diag(p) - np.outer(p, p))


METHODS = {
    "probabilities": lambda d, e: d.probabilities(),
    "log_probabilities": lambda d, e: d.log_probabilities(),
    "log_prob": lambda d, e: d.log_prob(jnp.array([1, 2])),
    "prob": lambda d, e: d.prob(jnp.array([1, 2])),
    "entropy": lambda d, e: d.entropy(),
    "entropy 2": lambda d, e: d.entropy(2.0),
    "kl_divergence": lambda d, e: d.kl_divergence(e),
    "cross_entropy": lambda d, e: d.cross_entropy(e),
    "mode": lambda d, e: d.mode(),
    "sample": lambda d, e: d.sample(draws.KEY, (3,)),
}


@draws.each(METHODS)
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_a_method_called_twice_compiles_once_and_is_the_same_in_jit_and_vmap(name, alpha):
    method = METHODS[name]
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )

    def of(z):
        return js.Categorical(z, alpha=alpha), js.Categorical(z[::-1])

    slope = jax.grad(lambda z: method(*of(z)).sum()) if name not in ("mode", "sample") else None

    def called(z):
        value = jax.block_until_ready(method(*of(z)))
        if slope is not None:
            jax.block_until_ready(slope(z))
        return value

    first, z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 4)))
    called(first)
    compiled.clear()
    value = called(z)
    assert not compiled
    np.testing.assert_allclose(jax.jit(method)(*of(z)), value, rtol=1e-9, atol=1e-12)
    if name not in ("log_prob", "prob", "sample"):
        np.testing.assert_allclose(jax.vmap(method)(*of(z)), value, rtol=1e-9, atol=1e-12)
