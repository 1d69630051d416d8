"""Laws of every mapping on derivatives in scores, temperature, α, k and caps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests import oracles
from tests.catalogue import (
    CAPPED,
    CATALOGUE,
    CLASSES,
    ENTMAX_15,
    NORMMAX,
    ROWS,
    SIGMOID,
    SOFTMAX,
    TOPK,
    TRACED_15,
    each,
    p_and_jacobian,
    p_of,
)
from tests.marks import some

RANDOM = np.random.default_rng(1)
LOGITS = RANDOM.standard_normal((ROWS, CLASSES)) * np.repeat([0.1, 0.5, 1.0, 3.0], 4)[:, None]
LOGITS[3, 2] = -np.inf
MASK = np.ones((ROWS, CLASSES), bool)
MASK[7, 1] = False
# Every class has mass under every mapping here, and no cap binds: p is smooth around it.
INSIDE = np.array([0.03, 0.0, -0.04, 0.05, 0.01])
TRACED = [0.3, 1 - 1e-6, 1.0, 1 + 1e-6, 1.3, 1.5, 2.0, 2.7]

near = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(**each())
def test_the_jacobian_is_a_laplacian(mapping):
    """Symmetric, positive semidefinite, rows summing to zero; zero off the support."""
    p, *jacobians = p_and_jacobian(mapping, LOGITS, MASK)
    for jacobian in jacobians:
        size = np.abs(jacobian).max((-1, -2), keepdims=True) + 1e-300
        unit = jacobian / size
        near(unit, np.swapaxes(unit, -1, -2))
        near(unit.sum(-1), np.zeros((ROWS, CLASSES)))
        assert np.linalg.eigvalsh(unit).min() > -1e-12
        assert (jacobian[p == 0] == 0).all()
        assert (np.swapaxes(jacobian, -1, -2)[p == 0] == 0).all()


@pytest.mark.parametrize(**each())
def test_the_jacobian_is_the_formula_forward_and_reverse(mapping):
    """diag(s) − s sᵀ/Σs with s = 1/ω″(p), and its counterpart for normmax."""
    p, forward, reverse = p_and_jacobian(mapping, LOGITS, MASK)
    right = np.array([mapping.jacobian(row) for row in p], float)
    near(forward, right)
    near(reverse, right)


@pytest.mark.parametrize(**each([SOFTMAX, ENTMAX_15]))
def test_derivatives_are_those_of_the_function_to_second_order(mapping):
    """Of p as a function of scores and temperature together, in both modes."""

    @jax.jit
    def p(z, temperature):
        return mapping(z, temperature=temperature)

    check_grads(p, (INSIDE, np.array(1.3)), order=2, eps=1e-5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(**each([TRACED_15, NORMMAX, TOPK, SIGMOID]))
def test_second_derivatives_are_those_of_the_jacobian(mapping):
    """Forward over forward, forward over reverse and reverse over forward."""

    @jax.jit
    def second(z):
        forward, reverse = jax.jacfwd(mapping), jax.jacrev(mapping)
        return jax.jacfwd(forward)(z), jax.jacfwd(reverse)(z), jax.jacrev(forward)(z)

    step = 1e-5
    _, jacobians, _ = p_and_jacobian(mapping, INSIDE + step * np.eye(CLASSES))
    _, before, _ = p_and_jacobian(mapping, INSIDE - step * np.eye(CLASSES))
    right = np.moveaxis(jacobians - before, 0, -1) / (2 * step)
    for actual in second(INSIDE):
        near(actual, right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 0.7, -1.3])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_the_gradient_of_the_smooth_maximum_is_the_mapping(alpha, temperature):
    """And its Hessian the Jacobian, its derivative in the temperature the entropy."""

    @jax.jit
    def all_of_it(z, t):
        def value(z, t):
            return js.smoothmax(z, alpha, temperature=t)

        def p(z):
            return js.entmax(z, alpha, temperature=t)

        gradient, slope = jax.grad(value, argnums=(0, 1))(z, t)
        return gradient, p(z), jax.hessian(value)(z, t), jax.jacfwd(p)(z), slope

    z = LOGITS[8]
    gradient, p, hessian, jacobian, slope = all_of_it(z, temperature)
    near(gradient, p)
    near(hessian, jacobian)
    near(slope, float(oracles.entropy(p, alpha)))
    near(slope, js.entropy(p, alpha))


@pytest.mark.parametrize("alpha", TRACED)
def test_the_smooth_maximum_of_a_traced_order_has_all_its_derivatives(alpha):
    z = LOGITS[8]
    value, (along_z, along_alpha, along_t) = smoothmax_and_gradient(z, alpha, 0.8)
    near(value, float(0.8 * oracles.smoothmax(z / 0.8, alpha)))
    near(along_z, np.asarray(oracles.entmax(z / 0.8, alpha), float), atol=1e-10)
    step = 1e-3
    around = [0.8 * oracles.smoothmax(z / 0.8, alpha + n * step) for n in (-2, -1, 1, 2)]
    near(along_alpha, float(fourth_order(around, step)), rtol=1e-7)
    around = [t * oracles.smoothmax(z / t, alpha) for t in 0.8 + step * np.array([-2, -1, 1, 2])]
    near(along_t, float(fourth_order(around, step)), rtol=1e-7)


@jax.jit
def smoothmax_and_gradient(z, alpha, temperature):
    def value(z, alpha, temperature):
        return js.smoothmax(z, alpha, temperature=temperature)

    return jax.value_and_grad(value, argnums=(0, 1, 2))(z, alpha, temperature)


def fourth_order(around, step):
    """The derivative from values at −2, −1, 1, 2 steps."""
    return (8 * (around[2] - around[1]) - (around[3] - around[0])) / (12 * step)


def test_logsumexp_is_the_smooth_maximum_of_order_one_and_its_gradient_softmax():
    z = LOGITS[:3]
    near(js.logsumexp(z), js.smoothmax(z))
    near(js.logsumexp(z), np.asarray(oracles.logsumexp(z), float))
    near(jax.grad(lambda z: js.logsumexp(z).sum())(z), js.softmax(z))


@jax.jit
def along_alpha(z, alpha):
    return jax.jvp(lambda alpha: js.entmax(z, alpha), (alpha,), (jnp.ones_like(alpha),))[1]


@jax.jit
def back_to_alpha(z, alpha, weights):
    return jax.grad(lambda alpha: (weights * js.entmax(z, alpha)).sum())(alpha)


@pytest.mark.parametrize("alpha", TRACED)
def test_the_derivative_in_alpha_is_right_in_float64(alpha):
    for z in LOGITS[[0, 5, 8]]:
        right = np.asarray(oracles.along_alpha(z, alpha), float)
        near(along_alpha(z, alpha), right, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_nothing_jumps_at_order_one_in_float32(sign, step):
    """The value to eps, and d/dα to 1e-4 of its size, forward and reverse."""
    alpha = np.float32(1 + sign * step)
    weights = np.arange(CLASSES, dtype=np.float32)
    for z in LOGITS[[0, 5, 8, 12]].astype(np.float32):
        np.testing.assert_allclose(
            traced(z, alpha), np.asarray(oracles.entmax(z, float(alpha)), float), rtol=1e-5
        )
        right = np.asarray(oracles.along_alpha(z, float(alpha)), float)
        tolerance = 1e-4 * np.abs(right).max()
        near(along_alpha(z, alpha), right, rtol=0, atol=tolerance)
        near(back_to_alpha(z, alpha, weights), weights @ right, rtol=0, atol=10 * tolerance)


@jax.jit
def traced(z, alpha):
    return js.entmax(z, alpha)


def test_the_derivative_in_temperature_follows_from_the_one_in_the_scores():
    """dp/dT = −J z/T²."""
    z, t = LOGITS[8:9], 1.7
    for mapping in (ENTMAX_15, TRACED_15, SIGMOID, CAPPED):
        _, jacobian, _ = p_and_jacobian(mapping, z, temperature=t)
        slope = jax.jit(jax.jacfwd(lambda t, mapping=mapping: mapping(z[0], temperature=t)))(t)
        near(slope, -jacobian[0] @ z[0] / t)


@pytest.mark.parametrize("alpha", some([1.0, 1.5, 2.0], [1.5]))
def test_the_derivatives_in_the_mass_and_in_the_caps_are_those_of_the_function(alpha):
    z = np.array([2.0, 1.1, 0.7, 0.2, -0.5])
    caps = np.array([0.3, 0.4, 0.5, 0.6, 0.7])

    @jax.jit
    def k_hot(k):
        return js.topk_entmax(3 * z, k, alpha=alpha)

    @jax.jit
    def capped(upper):
        return js.capped_entmax(z, upper, alpha=alpha)

    assert (np.asarray(k_hot(2.2)) == 1).any()
    assert (np.asarray(capped(caps)) == caps).any()
    check_grads(k_hot, (2.2,), order=1, eps=1e-5, rtol=1e-5, atol=1e-6)
    check_grads(capped, (caps,), order=1, eps=1e-5, rtol=1e-5, atol=1e-6)


def test_a_mass_that_nobody_can_take_has_derivative_zero():
    """At z = (5, 4, 0, −1), k = 2 and α = 2 every class is at 0 or at 1."""
    z = jnp.array([5.0, 4.0, 0.0, -1.0])
    p, slope = jax.jvp(lambda k: js.topk_entmax(z, k, alpha=2.0), (2.0,), (1.0,))
    near(p, [1, 1, 0, 0])
    near(slope, np.zeros(4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saturated_softmax_still_has_its_gradient(dtype):
    """At a gap of 60, p₁ p₂ = e⁻⁶⁰, which 1 − p₁ would lose."""
    z = np.array([60, 0], dtype)
    right = np.exp(-60.0) * np.array([[1, -1], [-1, 1]])
    for jacobian in (jax.jacfwd, jax.jacrev):
        for mapping in (js.softmax, functools.partial(js.entmax, alpha=dtype(1))):
            np.testing.assert_allclose(jax.jit(jacobian(mapping))(z), right, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1e-3, 1.25e-7, 1e-9, 1e-12])
def test_a_class_at_the_edge_of_the_support_keeps_its_derivative(gap):
    """At α = 4 its slope p⁻² outgrows all others: J₃₃ = s₃ (s₁ + s₂)/Σs ≈ s₁ + s₂ = 8, not 0.

    The remainder of s₃ after subtracting the mean is computed once for the second mean and once for
    the result. Compiled with less optimization, only one of the two uses a fused multiplication,
    and the difference is as large as the result; here it is compiled as for users.
    """
    wholly = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    z = np.array([[0, 0, -1 / 24 + gap]])
    p = jax.jit(js.entmax)(z, 4.0)
    near(p, np.asarray(oracles.entmax(z, 4), float), rtol=1e-6)
    s = np.asarray(p[0], np.longdouble) ** -2
    right = np.diag(s) - np.outer(s, s) / s.sum()
    right[2, 2] = s[2] * (s[0] + s[1]) / s.sum()
    for jacobian in (jax.jacfwd, jax.jacrev):
        actual = jax.jit(jacobian(js.entmax), compiler_options=wholly)(z[0], 4.0)
        np.testing.assert_allclose(actual, right.astype(float), rtol=1e-9)


@pytest.mark.parametrize(**each([mapping for mapping in CATALOGUE if mapping.kind != "hard"]))
def test_where_classes_are_equal_the_jacobian_treats_them_alike(mapping):
    _, forward, reverse = p_and_jacobian(mapping, [[0.1, 0.3, 0.3, 0.3, 0.0]])
    for jacobian in (forward[0], reverse[0]):
        near(jacobian[[0, 2, 3, 1, 4]][:, [0, 2, 3, 1, 4]], jacobian)


@pytest.mark.slow
def test_log_softmax_is_the_logarithm_of_softmax_with_its_derivatives():
    z = LOGITS[8]
    near(js.log_softmax(z), np.log(p_of(SOFTMAX, z[None])[0]))
    near(js.log_softmax(np.array([0.0, 1000.0])), [-1000, 0])
    right = np.eye(CLASSES) - np.asarray(js.softmax(z))
    near(jax.jacfwd(js.log_softmax)(z), right)
    near(jax.jacrev(js.log_softmax)(z), right)
    check_grads(jax.jit(js.log_softmax), (z,), order=2, eps=1e-5, rtol=1e-4, atol=1e-4)


def test_the_entropy_has_its_derivatives_in_p_and_alpha():
    p = np.array([0.5, 0.3, 0.15, 0.05])

    @jax.jit
    def value(p, alpha):
        return js.entropy(p, alpha)

    for alpha in TRACED:
        near(value(p, alpha), float(oracles.entropy(p, alpha)), rtol=1e-9)
        check_grads(value, (p, alpha), order=1, eps=1e-5, rtol=1e-4, atol=1e-4)
    near(js.entropy(p, np.inf), 0)
    near(js.entropy(p, 2), (1 - (p**2).sum()) / 2)
    near(js.entropy(np.eye(3), 1.7), np.zeros(3))
