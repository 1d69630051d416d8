"""The losses by definition, against other implementations, and in use."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsoftmax import entmax_loss, normmax_loss, topk_entmax_loss
from tests.losses import loss_oracles as oracles
from tests.losses.loss_helpers import (
    CASES,
    CLASSES,
    INF,
    KINDS,
    LABELS,
    LOGITS,
    ONE_HOT,
    ROWS,
    TARGETS,
    assert_close,
    by_kind,
    expected,
    on_distributions,
    on_labels,
    rng,
    rows_and_alphas,
    rows_of,
    traced,
)

# By definition


@by_kind(CASES)
def test_value_and_gradients_are_those_of_the_definition(name):
    """Ω*(z) + Ω(y) − ⟨y, z⟩ in many digits, p − y in the scores, ∇Ω(y) − z in the targets."""
    loss, d_z, d_y = on_distributions(name)
    value, gradient = expected(name, LOGITS, TARGETS)
    assert_close(loss, value)
    assert_close(d_z, gradient)
    with np.errstate(divide="ignore"):
        slope = CASES[name].marginal(TARGETS) - LOGITS
    smooth = np.isfinite(slope).all(-1)  # up to α = 1 not where a target is 0
    assert smooth.sum() >= 6
    # Targets move within the simplex, where a constant makes no difference.
    assert_close(centred(d_y[smooth]), centred(slope[smooth]), rtol=1e-11)


def centred(x):
    return x - x.mean(-1, keepdims=True)


@by_kind(KINDS)
def test_a_label_is_a_one_hot_distribution(name):
    loss, gradient = on_labels(name)
    value, wanted = expected(name, LOGITS, ONE_HOT)
    assert_close(loss, value)
    assert_close(gradient, wanted)


def test_a_traced_alpha_gives_what_a_static_one_gives():
    """Also at 1 exactly, beside it, and at ∞; and ∂L/∂α = ∂Ω(y) − ∂Ω(p)."""
    alphas = np.array([0.5, 1.0, 1 + 1e-6, 1.25, 2.0, 3.0, 5.0, INF])
    z, y, alphas = rows_and_alphas(alphas)
    loss, d_z, d_alpha = traced(entmax_loss, z, y, alphas[:, None])
    for i, alpha in enumerate(alphas):
        assert_close(loss[i], float(oracles.entmax_loss(z[i], y[i], alpha=alpha)))
        p = np.array(oracles.entmax(z[i], alpha=alpha), float)
        assert_close(d_z[i], p - y[i])
        assert_close(d_alpha[i], float(oracles.entmax_slope(p, y[i], alpha=alpha)))


def test_normmax_loss_at_every_alpha_is_that_of_the_definition():
    alphas = np.array([1.1, 1.5, 2.0, 3.0, 8.0, 100.0, 1000.0, INF])
    z, y, alphas = rows_and_alphas(alphas)
    loss, d_z, d_alpha = traced(normmax_loss, z, y, alphas[:, None])
    for i, alpha in enumerate(alphas):
        assert_close(loss[i], float(oracles.normmax_loss(z[i], y[i], alpha=alpha)), atol=1e-15)
        p = np.array(oracles.normmax(z[i], alpha=alpha), float)
        assert_close(d_z[i], p - y[i], rtol=1e-10, atol=1e-13)
        assert_close(d_alpha[i], float(oracles.normmax_slope(p, y[i], alpha=alpha)), rtol=1e-10)


@pytest.mark.parametrize("k", [1, 4])
def test_topk_entmax_loss_is_that_of_the_definition(k):
    """Σ p = k and p ≤ 1; k = 1 is `entmax_loss`."""
    alphas = np.array([0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, INF])
    z, _, alphas = rows_and_alphas(alphas, rows=3)
    labels = np.argsort(rng.random(z.shape), axis=-1)[:, :k]
    y = np.zeros(z.shape)
    np.put_along_axis(y, labels, 1, axis=-1)
    loss, d_z, d_alpha = traced(topk_entmax_loss, z, jnp.asarray(labels), alphas[:, None])
    for i, alpha in enumerate(alphas):
        value = float(oracles.entmax_loss(z[i], y[i], alpha=alpha, k=k))
        assert_close(loss[i], value, rtol=1e-11, atol=1e-13)
        p = np.array(oracles.entmax(z[i], alpha=alpha, k=k), float)
        assert_close(d_z[i], p - y[i], rtol=1e-10, atol=1e-12)
        assert_close(d_alpha[i], float(oracles.entmax_slope(p, y[i], alpha=alpha)), atol=1e-13)


@by_kind(["fenchel_young_loss", "entmax_loss", "sparsemax_loss", "normmax_loss"])
def test_zero_exactly_when_the_prediction_is_the_target(name):
    """For p rounded to floats the loss is of order eps²; any other target has a larger loss."""
    p = rows_of(CASES[name].prediction, LOGITS)
    loss, *_ = on_distributions(name, y=p)
    assert (loss >= 0).all()
    assert (loss < (1e-15 if name == "normmax_loss" else 1e-30)).all()
    assert (on_distributions(name)[0] > 1e-3).all()


@by_kind(["entmax_loss", "sparsemax_loss", "entmax_loss at inf", "normmax_loss"])
def test_sparse_losses_and_gradients_are_zero_past_their_margin(name):
    """The margin is 1/(α−1), for `normmax_loss` 1; at most 2 here."""
    z = np.sort(LOGITS, axis=-1)[:, ::-1].copy()
    z[:, 0] = z[:, 1] + 2.001
    loss, gradient = on_labels(name, z, np.zeros(ROWS, int))
    assert not loss.any()
    assert not gradient.any()


# Beside others


def test_equal_to_optax_where_they_overlap():
    z, labels, y = jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(TARGETS)
    integers = optax.losses.softmax_cross_entropy_with_integer_labels(z, labels)
    assert_close(on_labels("cross_entropy")[0], integers)
    soft = optax.losses.softmax_cross_entropy(z, y)
    assert_close(on_distributions("cross_entropy")[0], soft)
    kl = optax.losses.kl_divergence(jax.nn.log_softmax(z), y)
    assert_close(on_distributions("fenchel_young_loss")[0], kl)
    sparse = optax.losses.multiclass_sparsemax_loss(z, labels)
    assert_close(on_labels("sparsemax_loss")[0], sparse)
    smooth = optax.losses.smooth_labels(jax.nn.one_hot(labels, CLASSES), 0.1)
    smooth = optax.losses.softmax_cross_entropy(z, smooth)
    assert_close(on_labels("cross_entropy", smoothing=0.1)[0], smooth)


def test_class_weights_and_smoothing_are_those_of_torch():
    """(1−s) w_y (−log p_y) + s/K Σ w (−log p), the form of torch.nn.functional.cross_entropy."""
    weights, s = np.array([0.5, 2.0, 0.0, 1.0, 3.0]), 0.2
    log_p = np.log(rows_of(CASES["cross_entropy"].prediction, LOGITS))
    picked = weights[LABELS] * -log_p[np.arange(ROWS), LABELS]
    loss, _ = on_labels("cross_entropy", weights=weights)
    assert_close(loss, picked)
    loss, _ = on_labels("cross_entropy", weights=weights, smoothing=s)
    assert_close(loss, (1 - s) * picked + s * (weights * -log_p).mean(-1))


def test_every_one_hot_target_loses_less_as_alpha_grows():
    """So α must never be learned from its own loss. The numbers are those of the design."""
    alphas = np.array([0.5, 0.9, 1.0, 1.5, 2.0, 3.0, 8.0, 20.0])
    z, _, alphas = rows_and_alphas(alphas)
    for target in (3, 7):
        y = np.broadcast_to(np.eye(10)[target], z.shape)
        loss, _, d_alpha = traced(entmax_loss, z, y, alphas[:, None])
        loss, d_alpha = np.asarray(loss).reshape(6, 8), np.asarray(d_alpha)
        # Where p is one-hot, on a wrong class, the loss is the same gap for all such α: rounded.
        assert (np.diff(loss, axis=-1) <= 2 * np.finfo(float).eps * loss[:, 1:]).all()
        assert (d_alpha <= 0).all()
        falls = d_alpha.reshape(6, 8)[:, :-1] < -1e-9
        assert falls.mean() > 0.8
        assert (np.diff(loss, axis=-1)[falls] < 0).all()
        if target == 3:
            np.testing.assert_allclose(loss[0, [0, 2, 4, 7]], [10.2, 3.98, 2.43, 2.21], atol=0.05)


# In use


@by_kind(["cross_entropy", "entmax_loss", "normmax_loss"])
def test_training_lowers_the_loss(name):
    """A linear model of three noisy clusters, with Adam."""
    r = np.random.default_rng(4)
    labels = jnp.asarray(np.arange(60) % 3)
    features = jnp.asarray(np.eye(3)[labels] * 4 + r.normal(size=(60, 3)))
    adam = optax.adam(0.1)

    def mean_loss(w):
        return CASES[name].loss(features @ w, labels).mean()

    @jax.jit
    def step(state, _):
        w, memory = state
        loss, gradient = jax.value_and_grad(mean_loss)(w)
        updates, memory = adam.update(gradient, memory)
        return (optax.apply_updates(w, updates), memory), loss

    w = jnp.zeros((3, 3))
    (w, _), losses = jax.jit(lambda s: jax.lax.scan(step, s, None, length=30))((w, adam.init(w)))
    assert losses[-1] < 0.5 * losses[0]
    assert (jnp.argmax(features @ w, -1) == labels).mean() > 0.9
