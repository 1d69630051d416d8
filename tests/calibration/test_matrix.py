"""Matrix scaling and Dirichlet calibration: optimality and edges."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jsoftmax as js
from jsoftmax.calibration import dirichlet_calibration, matrix_scaling
from tests import oracles

NAN, INF = np.nan, np.inf
ROWS, CLASSES = 80, 3
rng = np.random.default_rng(0)
MIXED = np.array([[0.5, 0.2, 0.0], [0.0, 0.5, 0.0], [0.0, -0.2, 0.6]])
Z = rng.normal(size=(ROWS, CLASSES)) * 3
P = oracles.softmax(Z).astype(float)
LABELS = np.array([rng.choice(CLASSES, p=p) for p in oracles.softmax(Z @ MIXED.T).astype(float)])
WEIGHTS = rng.integers(0, 3, size=ROWS)
PENALTIES: dict[str, Any] = {"off_diagonal": 0.03, "intercept": 0.05, "diagonal": 0.01}
# L-BFGS ends where no slope is above eps^(2/3); the objective curves by 2 × 0.03/6 at least.
CLOSE = 2 * np.finfo(float).eps ** (2 / 3) * 12**0.5 / 0.01
near = functools.partial(np.testing.assert_allclose, rtol=0, atol=CLOSE)
compiled = jax.jit(functools.partial(matrix_scaling, **PENALTIES), static_argnames="axis")
dirichlet = jax.jit(functools.partial(dirichlet_calibration, **PENALTIES), static_argnames="axis")


def best(x, y, weights=1.0):
    """The answer of scipy: W and b of the least cross-entropy of x W + b, by numpy alone."""
    k = x.shape[1]
    eye, onehot, w = np.eye(k), np.eye(k)[y], np.ones(len(x)) * weights

    def objective(parameters):
        kernel, bias = parameters[: k * k].reshape(k, k), parameters[k * k :]
        z = x @ kernel.T + bias
        log_p = z - np.asarray(oracles.logsumexp(z), float)[:, None]
        loss = -(w * (onehot * log_p).sum(-1)).sum() / w.sum()
        off, own = kernel * (1 - eye), (kernel - 1) * eye
        loss += 0.03 * (off**2).mean() * k / (k - 1) + 0.05 * (bias**2).mean()
        loss += 0.01 * (own**2).sum() / k
        surplus = w[:, None] * (np.exp(log_p) - onehot) / w.sum()
        slope = surplus.T @ x + 0.06 * off / (k * (k - 1)) + 0.02 * own / k
        return loss, np.append(slope.ravel(), surplus.sum(0) + 0.1 * bias / k)

    start = np.append(eye.ravel(), np.zeros(k))
    options = {"gtol": 1e-10, "ftol": 1e-16, "maxiter": 10_000}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.x[: k * k].reshape(k, k), found.x[k * k :]


def test_the_matrix_and_the_bias_are_those_that_scipy_finds():
    t = js.temperature_scaling(Z, LABELS)
    kernel, bias = best(Z / float(t), LABELS)
    found = compiled(Z, LABELS)
    np.testing.assert_allclose(found.kernel, kernel / t, atol=1e-6)
    np.testing.assert_allclose(found.bias, bias, atol=1e-6)
    np.testing.assert_allclose(found.apply(Z), Z @ (kernel / t).T + bias, atol=1e-5)


def test_dirichlet_calibration_is_that_of_log_probabilities_in_their_unit():
    kernel, bias = best(np.log(P), LABELS)
    found = dirichlet(P, LABELS)
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-6)
    np.testing.assert_allclose(found.bias, bias, atol=1e-6)
    wanted = oracles.softmax(np.log(P) @ kernel.T + bias).astype(float)
    np.testing.assert_allclose(found.apply(P), wanted, atol=1e-6)


def test_weights_are_repetitions_and_what_has_none_is_not_seen():
    again = np.repeat(np.arange(ROWS), WEIGHTS)
    hidden = np.where((WEIGHTS == 0)[:, None], NAN, P)
    found = dirichlet_calibration(hidden, LABELS, weights=WEIGHTS, **PENALTIES)
    same = dirichlet(P[again], LABELS[again])
    near(found.kernel, same.kernel)
    near(found.bias, same.bias)
    ignored = dirichlet_calibration(
        P, np.where(WEIGHTS == 0, -1, LABELS), weights=WEIGHTS, ignore_index=-1, **PENALTIES
    )
    near(ignored.kernel, found.kernel)


def test_zeros_of_a_sparse_mapping_count_as_eps():
    p = np.asarray(js.sparsemax(Z))
    assert (p == 0).any()
    floored = np.maximum(p, np.finfo(float).eps)
    found, same = dirichlet(p, LABELS), dirichlet(floored, LABELS)
    near(found.kernel, same.kernel)
    assert np.isfinite(found.apply(p)).all()
    np.testing.assert_allclose(found.apply(p).sum(-1), 1, rtol=1e-12)


@pytest.mark.slow
def test_it_is_better_than_temperature_scaling_on_further_examples():
    """Where classes are confused in one direction, which no temperature can undo."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(8000, CLASSES)) * 3
    p = oracles.softmax(z @ MIXED.T).astype(float)
    labels = (rng.random(8000)[:, None] > p.cumsum(-1)).sum(-1)
    fit, rest = slice(4000), slice(4000, None)
    t = js.temperature_scaling(z[fit], labels[fit])
    found = matrix_scaling(z[fit], labels[fit])
    np.testing.assert_allclose(found.kernel, MIXED, atol=0.1)
    scaled, mixed = z[rest] / t, found.apply(z[rest])
    losses = [js.cross_entropy(x, labels[rest]).mean() for x in (z[rest] @ MIXED.T, mixed, scaled)]
    assert losses[0] - 0.01 < losses[1] < losses[2] - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_any_order_has_its_best_matrix(alpha):
    """The slope of its own objective vanishes there."""
    t = js.temperature_scaling(Z, LABELS, alpha=alpha)
    found = matrix_scaling(Z, LABELS, alpha=alpha, **PENALTIES)

    def objective(kernel, bias):
        loss = js.entmax_loss(Z / t @ kernel.T + bias, LABELS, alpha=alpha).mean()
        own = jnp.eye(CLASSES, dtype=bool)
        loss += 0.03 / 6 * jnp.sum(jnp.where(own, 0, kernel**2)) + 0.05 / 3 * jnp.sum(bias**2)
        return loss + 0.01 / 3 * jnp.sum(jnp.where(own, (kernel - 1) ** 2, 0))

    slopes = jax.grad(objective, (0, 1))(found.kernel * t, found.bias)
    assert max(abs(x).max() for x in slopes) < 1e-9


@pytest.mark.slow
def test_separable_labels_and_absent_classes_have_a_finite_answer():
    for labels in (Z.argmax(-1), np.zeros(ROWS, int)):
        found = compiled(Z, labels)
        assert all(np.isfinite(x).all() for x in found)
    nobody = compiled(Z[:0], LABELS[:0])
    np.testing.assert_array_equal(nobody.kernel, np.eye(CLASSES))
    assert all(np.isnan(x).all() for x in compiled(Z, jnp.asarray(LABELS).at[0].set(9)))


@pytest.mark.slow
def test_classes_may_lie_on_any_axes():
    found = compiled(Z, LABELS)
    turned = compiled(Z.T, LABELS, axis=0)
    np.testing.assert_allclose(turned.kernel, found.kernel, atol=1e-9)
    np.testing.assert_allclose(turned.apply(Z.T, 0).T, found.apply(Z), atol=1e-8)
    few = dirichlet(P.astype(np.float32), LABELS)
    assert few.kernel.dtype == np.float32 and few.apply(P).dtype == np.float64


def test_applying_keeps_excluded_classes_and_dtypes():
    found = js.calibration.MatrixScaling(jnp.array([[1.0, 2.0], [0.0, 0.5]]), jnp.array([0.0, 1.0]))
    z = jnp.array([[-INF, 2.0], [1.0, -INF]], jnp.bfloat16)
    np.testing.assert_array_equal(found.apply(z), [[-INF, 2], [1, -INF]])
    assert found.apply(z).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"MatrixScaling.apply: `logits` of shape \(3,\) have 3"):
        found.apply(np.zeros(3))


@pytest.mark.slow
def test_masked_classes_are_not_seen():
    mask = np.arange(CLASSES) < 2
    labels = np.minimum(LABELS, 1)
    found = matrix_scaling(np.where(mask, Z, NAN), labels, where=mask, **PENALTIES)
    two = matrix_scaling(Z[:, :2], labels, **PENALTIES)
    assert np.isfinite(found.kernel).all() and two.kernel.shape == (2, 2)
    np.testing.assert_array_equal(found.kernel[2, :2], 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matrix_scaling(Z, LABELS, off_diagonal=0), "matrix_scaling: `off_diagonal` must"),
        (lambda: matrix_scaling(Z, LABELS, diagonal=np.ones(2)), "`diagonal` must be one number"),
        (lambda: matrix_scaling(Z, LABELS[1:]), "matrix_scaling: integer `targets` have shape"),
        (lambda: matrix_scaling(Z, LABELS, alpha=INF), "matrix_scaling: `alpha` must be finite"),
        (lambda: dirichlet_calibration(P, LABELS, intercept=-1), "`intercept` must be one number"),
        (lambda: dirichlet_calibration(P + 0j, LABELS), "`probabilities` has dtype complex128"),
        (lambda: dirichlet_calibration(P, LABELS + 3), "dirichlet_calibration: label"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=r"^jsoftmax\.") as told:
        call()
    assert message in str(told.value)
