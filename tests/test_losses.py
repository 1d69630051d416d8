"""The losses: what they are by definition, their derivatives, their options and their edges."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from jsoftmax import (
    cross_entropy,
    entmax_loss,
    fenchel_young_loss,
    normmax_loss,
    sparsemax_loss,
    topk_entmax_loss,
)
from tests import loss_oracles as oracles

INF = np.inf
ALPHAS = (0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
ROWS, CLASSES = 8, 5


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss; for one row and in many digits its value and prediction; and ∇Ω in numpy."""

    loss: Callable
    value: Callable
    prediction: Callable
    marginal: Callable


def entmax_case(loss, alpha):
    def marginal(y):
        return (
            np.log(y) if alpha == 1 else 0 * y if alpha == INF else y ** (alpha - 1) / (alpha - 1)
        )

    oracle = functools.partial(oracles.entmax_loss, alpha=alpha)
    return Case(loss, oracle, functools.partial(oracles.entmax, alpha=alpha), marginal)


def normmax_case(alpha):
    def marginal(y):
        norm = (y**alpha).sum(-1, keepdims=True) ** (1 / alpha)
        return (y / norm) ** (alpha - 1)

    oracle = functools.partial(oracles.normmax_loss, alpha=alpha)
    predict = functools.partial(oracles.normmax, alpha=alpha)
    return Case(functools.partial(normmax_loss, alpha=alpha), oracle, predict, marginal)


CASES = {
    "cross_entropy": dataclasses.replace(
        entmax_case(cross_entropy, 1.0), value=oracles.cross_entropy, marginal=np.zeros_like
    ),
    "fenchel_young_loss": entmax_case(fenchel_young_loss, 1.0),
    "entmax_loss": entmax_case(entmax_loss, 1.5),
    "sparsemax_loss": entmax_case(sparsemax_loss, 2.0),
    **{
        f"entmax_loss at {alpha}": entmax_case(functools.partial(entmax_loss, alpha=alpha), alpha)
        for alpha in (0.5, 1.25, 3.0, 5.0, INF)
    },
    "normmax_loss": normmax_case(2.0),
}
# One of every way in which a loss is computed: what options do is the same for all α.
KINDS = [
    "cross_entropy",
    "fenchel_young_loss",
    "entmax_loss",
    "sparsemax_loss",
    "entmax_loss at 0.5",
    "entmax_loss at inf",
    "normmax_loss",
]

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(ROWS, CLASSES)) * np.array([1, 0.1, 0.3, 1, 1, 3, 3, 10])[:, None]
LOGITS[0] = [1, 1, 0, 0, -1]
LABELS = np.array([0, 1, 2, 3, 4, 3, 2, 1])
TARGETS = rng.dirichlet(np.ones(CLASSES), size=ROWS)
TARGETS[2] = [0.5, 0.5, 0, 0, 0]
TARGETS[5] = [0, 0, 0, 1, 0]
ONE_HOT = np.eye(CLASSES)[LABELS]
WIDE = rng.normal(size=(6, 10)) * np.array([1, 1, 0.3, 2, 3, 10])[:, None]
WIDE[0] = np.random.default_rng(1).normal(size=10)
WIDE[1] = np.round(WIDE[1])  # ties
WIDE_TARGETS = rng.dirichlet(np.ones(10), size=6)
WIDE_TARGETS[1] = np.eye(10)[4]
WIDE_TARGETS[2, :4] = 0
WIDE_TARGETS[2] /= WIDE_TARGETS[2].sum()
ALL = np.ones((ROWS, CLASSES), bool)
SOME = rng.random((ROWS, CLASSES)) < 0.6
SOME[np.arange(ROWS), LABELS] = True


def by_kind(names):
    return pytest.mark.parametrize("name", list(names))


@functools.cache
def _on_labels(name):
    def total(z, labels, where, smoothing, weights):
        loss = CASES[name].loss(
            z,
            labels,
            where=where,
            ignore_index=-1,
            label_smoothing=smoothing,
            class_weights=weights,
        )
        return loss.sum(), loss

    return jax.jit(jax.grad(total, has_aux=True))


def on_labels(name, z=LOGITS, labels=LABELS, where=ALL, smoothing=0.0, weights=np.ones(CLASSES)):
    """The losses of all rows, and their gradients in the logits; one compilation a loss."""
    labels, smoothing = jnp.asarray(labels), np.asarray(smoothing, z.dtype)
    gradient, loss = _on_labels(name)(z, labels, where, smoothing, weights.astype(z.dtype))
    return np.asarray(loss), np.asarray(gradient)


@functools.cache
def _on_distributions(name):
    def total(z, y, where):
        loss = CASES[name].loss(z, y, where=where)
        return loss.sum(), loss

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))


def on_distributions(name, z=LOGITS, y=TARGETS, where=ALL):
    """The losses of all rows, and their gradients in logits and targets."""
    (d_z, d_y), loss = _on_distributions(name)(z, y, where)
    return np.asarray(loss), np.asarray(d_z), np.asarray(d_y)


@functools.partial(jax.jit, static_argnums=0)
def traced(loss, z, y, alpha):
    """(loss, its gradients in z and α), α traced and of its own in each row."""

    def total(z, alpha):
        value = loss(z, y, alpha)
        return value.sum(), value

    (d_z, d_alpha), value = jax.grad(total, argnums=(0, 1), has_aux=True)(z, alpha)
    return value, d_z, d_alpha[:, 0]


def rows_and_alphas(alphas, rows=6):
    """`rows` rows of WIDE, their targets, and every α with each of them."""
    n = len(alphas)
    z, y = (np.repeat(x[:rows], n, axis=0) for x in (WIDE, WIDE_TARGETS))
    return z, y, np.tile(alphas, rows)


def expected(name, z, y, keep=ALL, weights=None):
    """Value and gradient from the definition, for the classes kept alone."""
    case, values, gradients = CASES[name], [], []
    for row, target, mask in zip(z, y, keep, strict=True):
        p, w = np.zeros(len(row)), np.ones(len(row)) if weights is None else weights
        p[mask] = np.array(case.prediction(row[mask]), float)
        if name == "cross_entropy":
            target = w * target
            values.append(case.value(row[mask], target[mask]))
            gradients.append(target.sum() * p - target)
        else:
            values.append((w * target).sum() * case.value(row[mask], target[mask]))
            gradients.append((w * target).sum() * (p - target))
    return np.array(values, float), np.array(gradients)


def assert_close(actual, wanted, rtol=1e-12, atol=1e-14):
    chex.assert_trees_all_close(np.asarray(actual), np.asarray(wanted), rtol=rtol, atol=atol)


# What they are


@by_kind(CASES)
def test_value_and_gradients_are_those_of_the_definition(name):
    """Ω*(z) + Ω(y) − ⟨y, z⟩ in many digits, p − y in the scores, ∇Ω(y) − z in the targets."""
    loss, d_z, d_y = on_distributions(name)
    value, gradient = expected(name, LOGITS, TARGETS)
    assert_close(loss, value)
    assert_close(d_z, gradient)
    inside = [0, 1, 3, 4, 6, 7]  # rows of positive targets
    slope = CASES[name].marginal(TARGETS[inside]) - LOGITS[inside]
    # Targets move within the simplex, where a constant makes no difference.
    assert_close(centred(d_y[inside]), centred(slope), rtol=1e-11)


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
    loss, d_z, d_alpha = traced(fenchel_young_loss, z, y, alphas[:, None])
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
    """p rounded to floats leaves what is quadratic in eps; any other target leaves something."""
    p = rows_of(CASES[name].prediction, LOGITS)
    loss, *_ = on_distributions(name, y=p)
    assert (loss >= 0).all()
    assert (loss < (1e-15 if name == "normmax_loss" else 1e-30)).all()
    assert (on_distributions(name)[0] > 1e-3).all()


@by_kind(["entmax_loss", "sparsemax_loss", "entmax_loss at inf", "normmax_loss"])
def test_sparse_losses_and_gradients_are_zero_past_their_margin(name):
    """The margin is 1/(α−1), for `normmax_loss` 1."""
    z = np.sort(LOGITS, axis=-1)[:, ::-1].copy()
    z[:, 0] = z[:, 1] + 2
    loss, gradient = on_labels(name, z, np.zeros(ROWS, int))
    assert not loss.any()
    assert not gradient.any()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_hessian_is_the_jacobian_of_the_mapping(alpha):
    """diag(s) − s sᵀ/Σs for s = p^(2−α) on the support, and s = 0 where p is 1 and may not grow."""
    z = jnp.asarray(LOGITS[[0, 3, 4, 5]])
    k_hot = jnp.array([0, 2, 3])
    single, several = (np.asarray(h) for h in hessians(z, k_hot, alpha))
    for i, row in enumerate(z):
        for hessian, k in ((single[i], 1), (several[i], 3)):
            p = np.array(oracles.entmax(row, alpha=alpha, k=k), float)
            s = np.where((p > 0) & (p < 1), np.where(p > 0, p, 1) ** (2 - alpha), 0)
            wanted = np.diag(s) - np.outer(s, s) / max(s.sum(), 1e-300)
            assert_close(hessian, wanted, rtol=1e-10, atol=1e-13)


@jax.jit
def hessians(z, k_hot, alpha):
    """Of the losses of a label and of three at once, for every row."""
    return (
        jax.vmap(jax.hessian(lambda row: fenchel_young_loss(row, 1, alpha)))(z),
        jax.vmap(jax.hessian(lambda row: topk_entmax_loss(row, k_hot, alpha)))(z),
    )


def test_the_hessian_of_normmax_loss_is_the_jacobian_of_normmax():
    """c (I − p 1ᵀ) diag(p^(2−α)) (I − 1 pᵀ) on the support, c = ‖p‖^(α−1)/(α−1)."""
    alpha, z = 3.0, LOGITS[:5]
    hessian = jax.jit(jax.vmap(jax.hessian(lambda row: normmax_loss(row, 1, alpha))))(z)
    for i, row in enumerate(z):
        p = np.array(oracles.normmax(row, alpha=alpha), float)
        c = (p**alpha).sum() ** ((alpha - 1) / alpha) / (alpha - 1)
        inner = np.diag(np.where(p > 0, np.where(p > 0, p, 1) ** (2 - alpha), 0))
        left = np.eye(CLASSES) - np.outer(p, np.ones(CLASSES))
        assert_close(hessian[i], c * left @ inner @ left.T, rtol=1e-9, atol=1e-12)


def test_the_hessian_of_cross_entropy_is_that_of_logsumexp():
    hessian = jax.jit(jax.vmap(jax.hessian(lambda row: cross_entropy(row, 1))))(LOGITS)
    for i, row in enumerate(LOGITS):
        p = np.array(oracles.entmax(row, alpha=1.0), float)
        assert_close(hessian[i], np.diag(p) - np.outer(p, p), rtol=1e-11)


DIFFERENTIABLE = {
    "cross_entropy": lambda z, y, alpha: cross_entropy(z, y, label_smoothing=alpha / 10),
    "fenchel_young_loss": fenchel_young_loss,
    "normmax_loss": lambda z, y, alpha: normmax_loss(z, y, alpha + 1),
    "topk_entmax_loss": lambda z, y, alpha: topk_entmax_loss(z, jnp.array([[0, 2]] * 3), alpha),
}


@by_kind(DIFFERENTIABLE)
def test_derivatives_of_first_and_second_order_are_right_in_both_modes(name):
    """In scores, targets and α together, at α = 1 exactly too."""
    z = jnp.asarray([[0.3, -0.4, 0.1, 0.6], [1.0, 0.2, -0.5, 0.3], [0.1, 0.5, 0.2, -3.0]])
    t = jnp.asarray([[0.0, 0.3, -0.2, 0.1], [0.5, -0.1, 0.0, 0.2], [0.1, 0.2, 0.3, -0.3]])
    alpha = jnp.asarray([[0.7], [1.0], [1.6]])

    @jax.jit
    def weighted(z, t, alpha):
        loss = DIFFERENTIABLE[name](z, jax.nn.softmax(t), alpha)
        return (loss * jnp.array([1.0, -2.0, 0.5])).sum()

    check_grads(weighted, (z, t, alpha), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


# What they are beside others


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
        loss, _, d_alpha = traced(fenchel_young_loss, z, y, alphas[:, None])
        loss, d_alpha = np.asarray(loss).reshape(6, 8), np.asarray(d_alpha)
        assert (np.diff(loss, axis=-1) <= 0).all()
        assert (d_alpha <= 0).all()
        if target == 3:
            np.testing.assert_allclose(loss[0, [0, 2, 4, 7]], [10.2, 3.98, 2.43, 2.21], atol=0.05)


# In few bits


def test_a_small_loss_is_not_lost_in_a_difference():
    """z = (0.9997, 0) is 3e-4 from the margin of sparsemax: the loss is (3e-4)²/4 = 2.25e-8."""
    z = np.array([0.9997, 0], np.float32)
    p = np.array([1 + z[0], 1 - z[0]], np.float32) / 2
    textbook = (p * z).sum() - ((p * p).sum() - 1) / 2 - z[0]
    assert textbook < 1e-9 or textbook > 1e-7
    loss = sparsemax_loss(z, 0)
    assert loss.dtype == jnp.float32
    assert_close(float(loss), (1 - float(z[0])) ** 2 / 4, rtol=1e-6)


def test_losses_near_zero_are_right_to_a_few_eps():
    """Scores in float32 that lead by nearly the margin of each α, and by almost nothing."""
    alphas = np.array([0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 1 + 1e-6])
    margin = np.minimum(1 / np.maximum(alphas - 1, 1e-9), 30)
    gaps = margin * np.array([0.02, 0.5, 0.9, 0.99, 0.999, 0.9999])[:, None]
    z = np.zeros((48, 10), np.float32) - 2
    z[:, 3], z[:, 5:7] = gaps.reshape(-1), 0
    alphas = np.tile(alphas, 6).astype(np.float32)
    y = np.broadcast_to(np.eye(10, dtype=np.float32)[3], z.shape)
    loss, *_ = traced(fenchel_young_loss, z, y, alphas[:, None])
    for i, alpha in enumerate(alphas):
        value = float(oracles.entmax_loss(z[i], y[i], alpha=float(alpha)))
        assert_close(float(loss[i]), value, rtol=3e-5, atol=1e-30)


def test_cross_entropy_is_right_at_every_gap():
    """log(1 + n e^(−gap)), from the most wrong to the most confident."""
    z = np.zeros((ROWS, CLASSES), np.float32)
    z[:, 0] = [-60, -15, -1, 0, 1, 15, 40, 60]
    loss, gradient = on_labels("cross_entropy", z, np.zeros(ROWS, int))
    gap = z[:, 0].astype(float)
    assert loss.dtype == np.float32
    assert_close(loss.astype(float), np.log1p(4 * np.exp(-gap)), rtol=1e-6)
    rest = 4 * np.exp(-gap) / (1 + 4 * np.exp(-gap))
    assert_close(gradient[:, 0].astype(float), -rest, rtol=1e-6)


@by_kind(KINDS)
def test_an_offset_of_ten_millions_changes_nothing(name):
    z = np.array(np.round(LOGITS), np.float32)
    moved = on_labels(name, z + np.float32(1e7))
    chex.assert_trees_all_equal(on_labels(name, z), moved)
