"""Temperatures, scales and biases: optimality, derivatives, and edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.test_util import check_grads

import jsoftmax as js
from tests import oracles

NAN, INF = np.nan, np.inf
ROWS, CLASSES = 40, 4
near = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)

rng = np.random.default_rng(0)
Z = rng.normal(size=(ROWS, CLASSES)) * 3
# Labels as likely as half of these scores say, so that no temperature is at a bound.
LABELS = np.array([rng.choice(CLASSES, p=p) for p in oracles.softmax(Z / 2).astype(float)])
WEIGHTS = rng.integers(0, 3, size=ROWS)
Y = np.eye(CLASSES)[LABELS]
SCALINGS = [js.temperature_scaling, js.vector_scaling]


@jax.jit
def temperature(z, y, alpha=1.0):
    """`temperature_scaling` as one program for every α."""
    return js.temperature_scaling(z, y, alpha=alpha)


@functools.partial(jax.jit, static_argnums=2)
def scaling(z, y, alpha=1.0, **options):
    return js.vector_scaling(z, y, alpha=alpha, **options)


def best_temperature(z, y, alpha, weights=1.0):
    """The root of Σ w ⟨p − y, z⟩ in β = 1/T."""

    def slope(log_beta):
        p = oracles.entmax(z * np.exp(log_beta), alpha)
        return float((weights * ((p - y) * z).sum(-1)).sum())

    return np.exp(-scipy.optimize.brentq(slope, -5, 5, xtol=1e-14))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_temperature_is_the_root_that_scipy_finds(alpha):
    near(temperature(Z, LABELS, alpha), best_temperature(Z, Y, alpha))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_a_known_order_gives_what_a_traced_one_gives(alpha):
    near(js.temperature_scaling(Z, LABELS, alpha=alpha), temperature(Z, LABELS, alpha))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.25, 2.0, 4.0])
def test_of_two_classes_the_temperature_has_a_closed_form(alpha):
    """Where d apart, and right in a share q of cases, d/T = ω′(q) − ω′(1−q)."""
    d, q, a = 8.0, 0.75, alpha - 1
    z = np.tile([d, 0.0], (4, 1))
    gap = np.log(q / (1 - q)) if a == 0 else (q**a - (1 - q) ** a) / a
    near(temperature(z, np.array([0, 0, 0, 1]), alpha), d / gap)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0])
def test_probabilities_made_at_a_temperature_lead_back_to_it(alpha):
    y = oracles.entmax(Z / 3, alpha).astype(float)
    near(temperature(Z, y, alpha), 3)


def test_the_temperature_has_the_unit_of_the_logits():
    t = temperature(Z, LABELS)
    for unit in (0.01, 100.0):
        near(temperature(unit * Z, LABELS), unit * t)
    near(temperature(Z + rng.normal(size=(ROWS, 1)) * 100, LABELS), t)


def test_scaled_logits_have_the_temperature_one():
    near(temperature(Z / temperature(Z, LABELS, 1.5), LABELS, 1.5), 1)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_certainty_and_error_lead_to_the_bounds(alpha):
    near(temperature(Z, Z.argmax(-1), alpha), 1e-3)
    near(temperature(Z, Z.argmin(-1), alpha), 1e3)
    near(js.temperature_scaling(Z, Z.argmax(-1), alpha=alpha, bounds=(0.5, 2)), 0.5)
    near(js.temperature_scaling(Z, Z.argmin(-1), alpha=alpha, bounds=(0.5, 2)), 2)


def test_where_nothing_depends_on_the_temperature_it_is_one():
    near(temperature(np.ones((ROWS, CLASSES)), LABELS), 1)
    near(js.temperature_scaling(Z[:0], LABELS[:0]), 1)
    near(js.temperature_scaling(Z, LABELS, weights=np.zeros(ROWS)), 1)
    near(js.temperature_scaling(Z[:0], LABELS[:0], bounds=(2, 3)), 2)


def test_integer_weights_are_repetitions():
    again = np.repeat(np.arange(ROWS), WEIGHTS)
    t = js.temperature_scaling(Z, LABELS, weights=WEIGHTS)
    near(t, best_temperature(Z, Y, 1.0, WEIGHTS))
    weighted = js.vector_scaling(Z, LABELS, weights=WEIGHTS)
    repeated = js.vector_scaling(Z[again], LABELS[again])
    np.testing.assert_allclose(weighted, repeated, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("function", SCALINGS)
def test_what_does_not_count_cannot_be_seen(function):
    """Rows of weight 0, ignored labels, and labels on excluded classes, which cost +∞ always."""
    kept = slice(4, None)
    expected = function(Z[kept], LABELS[kept])
    z, labels = Z.copy(), LABELS.copy()
    z[0, 1], labels[1] = NAN, -1
    z[2, labels[2]], z[3, (labels[3] + 1) % CLASSES] = -INF, INF
    where = np.ones(z.shape, bool)
    weights = np.ones(ROWS)
    weights[0] = 0
    found = function(z, labels, weights=weights, where=where, ignore_index=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    where[2, labels[2]] = False
    z[2] = Z[2]
    found = function(z, labels, weights=weights, where=where, ignore_index=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_masked_classes_are_as_absent():
    z = np.concatenate([Z, np.full((ROWS, 1), NAN)], -1)
    where = np.array([True] * CLASSES + [False])
    near(js.temperature_scaling(z, LABELS, where=where), temperature(Z, LABELS))
    z[:, -1] = -INF
    near(js.temperature_scaling(z, LABELS), temperature(Z, LABELS))
    found = js.vector_scaling(z, LABELS)
    np.testing.assert_allclose(found.scale[:-1], scaling(Z, LABELS).scale, rtol=1e-6)
    near(found.bias[-1], 0)


@pytest.mark.slow
def test_derivatives_of_the_temperature_are_those_of_the_root():
    """Forwards and backwards, twice, in everything it depends on."""
    y = oracles.softmax(rng.normal(size=Z.shape)).astype(float) * 0.5 + Y * 0.5
    weights = rng.uniform(0.5, 1.5, size=ROWS)

    def of_softmax(z, y, w):
        return js.temperature_scaling(z, y / y.sum(-1, keepdims=True), weights=w)

    check_grads(jax.jit(of_softmax), (Z, y, weights), order=1, rtol=1e-5)
    curved = jax.jit(jax.grad(of_softmax))
    check_grads(lambda z: curved(z, y, weights), (Z,), order=1, modes=["fwd"], rtol=1e-5)


def test_the_temperature_moves_with_the_order_but_not_off_a_bound():
    slope = jax.jit(jax.grad(temperature, (0, 2)))
    along_z, along_alpha = slope(Z, LABELS, 1.25)
    step = 1e-5
    moved = [temperature(Z, LABELS, 1.25 + d) for d in (-step, step)]
    near(along_alpha, (moved[1] - moved[0]) / (2 * step), rtol=1e-5)
    near((along_z * Z).sum(), temperature(Z, LABELS, 1.25))  # it has the unit of z
    for leaf in slope(Z, Z.argmax(-1), 1.25):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@pytest.mark.parametrize("function", [js.temperature_scaling, js.vector_scaling])
def test_nan_and_labels_that_are_no_class_are_nan(function):
    z = Z.copy()
    z[3, 1] = NAN
    no_class = jnp.asarray(LABELS).at[2].set(CLASSES)
    for found in (function(z, LABELS), function(Z, no_class)):
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))


def test_a_traced_order_that_cannot_be_is_nan():
    for alpha in (-1.0, INF, NAN):
        assert np.isnan(temperature(Z, LABELS, alpha))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, jnp.float16])
def test_few_digits_are_computed_in_float32(dtype):
    z = jnp.asarray(Z, dtype)
    expected = temperature(np.asarray(z, np.float64), LABELS)
    t = js.temperature_scaling(z, LABELS)
    assert t.dtype == np.float32
    np.testing.assert_allclose(t, expected, rtol=2e-6)


def test_integers_are_promoted():
    z = np.round(Z).astype(np.int8)
    near(js.temperature_scaling(z, LABELS), temperature(z.astype(float), LABELS))


@pytest.mark.slow
def test_classes_may_lie_on_any_axes():
    t, found = temperature(Z, LABELS), scaling(Z, LABELS)
    near(js.temperature_scaling(Z.T, LABELS, axis=0), t)
    cube = Z.T.reshape(2, 2, ROWS).transpose(0, 2, 1)
    moved = js.vector_scaling(cube, LABELS, axis=(0, 2))
    assert moved.scale.shape == moved.bias.shape == (2, 1, 2)
    np.testing.assert_allclose(moved.scale.reshape(-1), found.scale, rtol=1e-6)
    together = np.asarray(moved.apply(cube)).transpose(1, 0, 2).reshape(ROWS, CLASSES)
    np.testing.assert_allclose(together, found.apply(Z), rtol=1e-6)


@pytest.mark.slow
def test_the_temperature_can_be_mapped():
    """Over problems, and over orders; brackets differ between them."""
    problems = np.stack([Z, 2 * Z, Z[::-1]])
    labels = np.stack([LABELS, Z.argmax(-1), LABELS])
    found = jax.vmap(js.temperature_scaling)(problems, labels)
    near(found, [js.temperature_scaling(*pair) for pair in zip(problems, labels, strict=True)])
    orders = jnp.array([0.5, 1.0, 2.0])
    found = jax.jit(jax.vmap(temperature, (None, None, 0)))(Z, LABELS, orders)
    near(found, [temperature(Z, LABELS, alpha) for alpha in orders])


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.slow
def test_scales_and_biases_are_what_scipy_finds(alpha):
    penalty = 0.01
    t = temperature(Z, LABELS, alpha)

    @jax.jit
    def objective(x):
        scale, bias = x[:CLASSES], x[CLASSES:]
        loss = js.entmax_loss(Z / t * scale + bias, LABELS, alpha=alpha).mean()
        return loss + penalty / 2 * (jnp.sum((scale - 1) ** 2) + jnp.sum(bias**2))

    start = np.repeat([1.0, 0.0], CLASSES)
    best = scipy.optimize.minimize(objective, start, jac=jax.jit(jax.grad(objective)), tol=1e-9).x
    found = scaling(Z, LABELS, alpha, penalty=penalty)
    np.testing.assert_allclose(found.scale * t, best[:CLASSES], rtol=1e-7)
    np.testing.assert_allclose(found.bias, best[CLASSES:], atol=1e-8)
    near(found.bias.sum(), 0, atol=1e-10)
    assert (found.scale.std() > 0.01 * found.scale.mean()) and np.abs(found.bias).max() > 0.01


def test_a_large_penalty_leaves_one_temperature():
    found = scaling(Z, LABELS, 1.5, penalty=1e9)
    near(found.scale, np.full(CLASSES, 1 / temperature(Z, LABELS, 1.5)), rtol=1e-6)
    near(found.bias, np.zeros(CLASSES), atol=1e-8)


def test_separable_labels_and_absent_classes_have_finite_scales():
    for labels in (Z.argmax(-1), np.zeros(ROWS, int)):
        found = scaling(Z, labels)
        assert np.isfinite(found.scale).all() and np.isfinite(found.bias).all()
    assert (found.bias[0] > found.bias[1:]).all()


def test_float32_scales_are_near_those_of_float64():
    found, exact = js.vector_scaling(Z.astype(np.float32), LABELS), scaling(Z, LABELS)
    assert found.scale.dtype == found.bias.dtype == np.float32
    np.testing.assert_allclose(found.scale, exact.scale, rtol=2e-3)
    np.testing.assert_allclose(found.bias, exact.bias, atol=2e-3)


def test_applying_keeps_excluded_classes_and_dtypes():
    found = js.calibration.VectorScaling(jnp.array([-1.0, 0.0, 2.0]), jnp.array([1.0, 0.0, -1.0]))
    z = np.array([[-INF, -INF, 3.0], [1.0, 7.0, -INF]], np.float32)
    np.testing.assert_array_equal(found.apply(z), [[-INF, -INF, 5], [0, 0, -INF]])
    assert found.apply(z).dtype == np.float32
    assert found.apply(np.array([1, 2, 3], np.uint8)).dtype == np.float64
    with pytest.raises(ValueError, match=r"VectorScaling.apply: `logits` of shape \(\)"):
        found.apply(1.0)


@pytest.mark.parametrize("function", SCALINGS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((ROWS, 0))}, "has no classes"),
        ({"logits": Z + 0j}, "dtype complex"),
        ({"targets": LABELS[1:]}, "integer `targets` have shape"),
        ({"targets": np.full(ROWS, "cat")}, "`targets` is array(['cat',"),
        ({"targets": LABELS.astype(bool)}, "`targets` has dtype bool"),
        ({"targets": np.full(ROWS, CLASSES)}, f"label {CLASSES} is out of range"),
        ({"alpha": 0.0}, "`alpha` must be positive"),
        ({"alpha": INF}, "`alpha` must be finite"),
        ({"regularizer": js.Tsallis(INF)}, "`alpha` must be finite"),
        ({"alpha": 1.5, "regularizer": js.Elastic()}, "both `alpha` and `regularizer`"),
        ({"axis": 2}, "axis 2 is out of range"),
        ({"where": np.ones(CLASSES)}, "give it a boolean mask"),
        ({"weights": -np.ones(ROWS)}, "`weights` must not be negative"),
        ({"weights": np.ones((ROWS, CLASSES))}, "give one number a row, shape"),
    ],
)
def test_mistakes_are_named(function, change, message):
    arguments = {"logits": Z, "targets": LABELS, **change}
    with pytest.raises((ValueError, TypeError), match=rf"^jsoftmax\.{function.__name__}: ") as told:
        function(**arguments)
    assert message in str(told.value)


@pytest.mark.parametrize("bounds", [(0, 1), (2, 1), (1, INF), (NAN, 1), (1, 1)])
def test_bounds_are_checked(bounds):
    with pytest.raises(ValueError, match=r"temperature_scaling: `bounds` must be two numbers"):
        js.temperature_scaling(Z, LABELS, bounds=bounds)


@pytest.mark.parametrize("penalty", [0, -1.0, NAN])
def test_the_penalty_must_be_positive(penalty):
    with pytest.raises(ValueError, match=r"vector_scaling: `penalty` must be positive"):
        js.vector_scaling(Z, LABELS, penalty=penalty)


CALLS = {
    "temperature_scaling": lambda z, y: js.temperature_scaling(z, y, alpha=1.5),
    "vector_scaling": js.vector_scaling,
    "reliability_diagram": lambda z, y: js.reliability_diagram(js.sparsemax(z), y, 5),
    "equal mass": lambda z, y: js.reliability_diagram(js.sparsemax(z), y, 5, equal_mass=True),
    "classwise": lambda z, y: js.classwise_calibration_error(js.sparsemax(z), y, 5),
    "conformal": lambda z, y: js.conformal_sets(
        js.calibration.entmax_scores(z),
        js.conformal_threshold(js.calibration.aps_scores(js.softmax(z)), y),
    ),
}


@pytest.mark.parametrize("name", list(CALLS))
@pytest.mark.slow
def test_strict_settings_are_kept(name):
    """No NaN on the way, no rank or dtype promoted by chance, no tracer left behind."""
    z = np.where(np.arange(CLASSES) == 2, -INF, Z).astype(np.float32)
    labels = np.where(LABELS == 2, 0, LABELS)
    with (
        jax.debug_nans(True),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.checking_leaks(),
    ):
        found = jax.jit(CALLS[name])(z, labels)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
