"""The losses: what they are by definition, their derivatives, their options and their edges."""

import dataclasses
import functools
import re
from collections.abc import Callable

import chex
import hypothesis
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
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

INF, NAN = np.inf, np.nan
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
# One of every function that computes a loss, where α makes no difference at all.
FORMS = ["cross_entropy", "entmax_loss", "entmax_loss at inf", "normmax_loss"]

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
EQUAL = np.ones(CLASSES)
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


def on_labels(name, z=LOGITS, labels=LABELS, where=ALL, smoothing=0.0, weights=EQUAL):
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


def rows_of(prediction, z):
    """What an oracle predicts for each row, as floats."""
    return np.array([[float(p) for p in prediction(row)] for row in z])


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
    """The margin is 1/(α−1), for `normmax_loss` 1; at most 2 here."""
    z = np.sort(LOGITS, axis=-1)[:, ::-1].copy()
    z[:, 0] = z[:, 1] + 2.001
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
    """Of the value and of the gradient beside it; in scores, targets and α, at α = 1 too."""
    z = jnp.asarray([[0.3, -0.4, 0.1, 0.6], [1.0, 0.2, -0.5, 0.3], [0.1, 0.5, 0.2, -3.0]])
    t = jnp.asarray([[0.0, 0.3, -0.2, 0.1], [0.5, -0.1, 0.0, 0.2], [0.1, 0.2, 0.3, -0.3]])
    alpha = jnp.asarray([[0.7], [1.0], [1.6]])

    def weighted(z, t, alpha):
        loss = DIFFERENTIABLE[name](z, jax.nn.softmax(t), alpha)
        return (loss * jnp.array([1.0, -2.0, 0.5])).sum()

    both = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2)))
    check_grads(both, (z, t, alpha), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


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
        # Where p is one-hot, on a wrong class, the loss is the same gap for all such α: rounded.
        assert (np.diff(loss, axis=-1) <= 2 * np.finfo(float).eps * loss[:, 1:]).all()
        assert (d_alpha <= 0).all()
        falls = d_alpha.reshape(6, 8)[:, :-1] < -1e-9
        assert falls.mean() > 0.8
        assert (np.diff(loss, axis=-1)[falls] < 0).all()
        if target == 3:
            np.testing.assert_allclose(loss[0, [0, 2, 4, 7]], [10.2, 3.98, 2.43, 2.21], atol=0.05)


# In few bits


def test_a_small_loss_is_not_lost_in_a_difference():
    """z = (0.9997, 0) is 3e-4 from the margin of sparsemax: the loss is (3e-4)²/4 = 2.25e-8."""
    z = np.array([0.9997, 0], np.float32)
    p = np.array([1 + z[0], 1 - z[0]], np.float32) / 2
    textbook = (p * z).sum() - ((p * p).sum() - 1) / 2 - z[0]
    wanted = (1 - float(z[0])) ** 2 / 4
    assert abs(textbook / wanted - 1) > 0.5
    loss = sparsemax_loss(z, 0)
    assert loss.dtype == jnp.float32
    # The gap is known to an eps, and the gradient is ∓1.5e-4.
    assert_close(float(loss), wanted, atol=np.finfo(np.float32).eps * 1.5e-4)


def test_losses_near_zero_are_right_for_scores_an_eps_away():
    """Scores in float32 that lead by nearly the margin of each α, and by almost nothing.

    There the loss is a power of what is left of the margin, and that is known to an eps of the
    margin, as the scores are. Since the gradient is p − y, it alters the loss by ‖p − y‖₁ times
    that: up to 20,000 eps of a loss of 1e-9, and nothing to speak of in a larger one.
    """
    alphas = np.array([0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 1 + 1e-6])
    margin = np.minimum(1 / np.maximum(alphas - 1, 1e-9), 30)
    gaps = margin * np.array([0.02, 0.9, 0.99, 0.9999])[:, None]
    z = np.zeros((32, 10), np.float32) - 2
    z[:, 3], z[:, 5:7] = gaps.reshape(-1), 0
    alphas, margin = np.tile(alphas, 4).astype(np.float32), np.tile(margin, 4)
    y = np.broadcast_to(np.eye(10, dtype=np.float32)[3], z.shape)
    loss, *_ = traced(fenchel_young_loss, z, y, alphas[:, None])
    eps = float(np.finfo(np.float32).eps)
    for i, alpha in enumerate(alphas):
        value = float(oracles.entmax_loss(z[i], y[i], alpha=float(alpha)))
        p = np.array(oracles.entmax(z[i], alpha=float(alpha)), float)
        known_to = eps * margin[i] * np.abs(p - y[i]).sum()
        assert_close(float(loss[i]), value, rtol=8 * eps, atol=known_to)


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


@by_kind(FORMS)
def test_an_offset_of_ten_millions_changes_nothing(name):
    z = np.array(np.round(LOGITS), np.float32)
    moved = on_labels(name, z + np.float32(1e7))
    chex.assert_trees_all_equal(on_labels(name, z), moved)


def test_bits_are_lost_by_the_logits_alone():
    """From half precision the loss is that of the rounded logits; gradients return in its dtype."""
    for name, dtype in (
        ("cross_entropy", jnp.bfloat16),
        ("entmax_loss", jnp.float16),
        ("normmax_loss", jnp.bfloat16),
    ):
        z = LOGITS.astype(dtype)
        loss, gradient = on_labels(name, z)
        assert loss.dtype == np.float32
        assert gradient.dtype == dtype
        value, wanted = expected(name, z.astype(float), ONE_HOT)
        assert_close(loss.astype(float), value, rtol=1e-6, atol=1e-6)
        half_ulp = float(jnp.finfo(dtype).eps) / 2
        assert_close(gradient.astype(float), wanted, rtol=half_ulp * 1.001, atol=1e-7)
        assert_close(loss.astype(float), expected(name, LOGITS, ONE_HOT)[0], rtol=1e-2, atol=1e-2)


def test_integer_logits_give_the_default_float():
    loss = cross_entropy(np.array([100, -100], np.int8), 1)
    assert loss.dtype == jnp.float64
    assert_close(loss, 200)


# Labels


LABELLED = {
    "cross_entropy": cross_entropy,
    "fenchel_young_loss": fenchel_young_loss,
    "entmax_loss": entmax_loss,
    "sparsemax_loss": sparsemax_loss,
    "normmax_loss": normmax_loss,
}


@by_kind(LABELLED)
def test_a_label_that_is_no_class_is_an_error_where_it_is_known(name):
    """In Python, in numpy, and while tracing."""
    loss, z = LABELLED[name], np.zeros((2, 3))
    for wrong, at in ([0, 3], 3), ([-1, 2], -1), ([0, 255], 255):
        labels = np.array(wrong)
        message = rf"jsoftmax.{name}: label {at} is no class: there are 3, from 0 to 2"
        with pytest.raises(ValueError, match=message):
            loss(z, labels)
        with pytest.raises(ValueError, match=message):
            jax.jit(lambda z, labels=labels: loss(z, labels))(z)
        with pytest.raises(ValueError, match=message):
            loss(z, labels, ignore_index=1)
        with pytest.raises(ValueError, match=message):
            loss(z[0], at)


@by_kind(KINDS)
def test_a_label_that_is_no_class_is_nan_in_a_jax_array(name):
    """Never another class, of whatever dtype; and what stands beside it is as ever."""
    right, _ = on_labels(name)
    for dtype, wrong in (np.int32, [5, -2]), (np.uint8, [255, 5]), (np.int64, [2**32, -(2**32)]):
        labels = LABELS.astype(dtype)
        labels[[1, 4]] = wrong
        loss, gradient = on_labels(name, labels=labels)
        assert np.isnan(loss[[1, 4]]).all()
        others = [0, 2, 3, 5, 6, 7]
        assert_close(loss[others], right[others])
        assert np.isfinite(gradient[others]).all()


@by_kind(KINDS)
def test_ignored_rows_lose_nothing_whatever_stands_there(name):
    labels, z = LABELS.copy(), LOGITS.copy()
    labels[[2, 5]] = -1
    z[2], z[5, 1] = NAN, INF
    loss, gradient = on_labels(name, z, labels)
    wanted, slope = (x.copy() for x in on_labels(name))
    wanted[[2, 5]], slope[[2, 5]] = 0, 0
    chex.assert_trees_all_equal((loss, gradient), (wanted, slope))


def test_an_ignored_label_may_be_a_class_or_none_of_its_dtype():
    """A number that the labels cannot hold does not wrap into one that they do."""
    z = jnp.asarray(LOGITS)

    def loss(labels, ignored):
        return cross_entropy(z, jnp.asarray(labels), ignore_index=ignored, z_loss=0.1)

    base = loss(LABELS, None)
    assert_close(loss(LABELS, 3), np.where(LABELS == 3, 0, base))
    assert_close(loss(LABELS.astype(np.int8), 255), base)
    labels = LABELS.astype(np.uint8)
    labels[0] = 255
    assert np.isnan(loss(labels, -1)[0])
    assert loss(labels, 255)[0] == 0
    with pytest.raises(ValueError, match="label 255 is no class"):
        cross_entropy(z, labels, ignore_index=-1)


# Masks and infinities


@by_kind(KINDS)
def test_masked_classes_take_no_part_whatever_stands_there(name):
    base = on_labels(name, where=SOME)
    value, wanted = expected(name, LOGITS, ONE_HOT, SOME)
    assert_close(base[0], value)
    assert_close(base[1], wanted)
    assert not base[1][~SOME].any()
    for anything in (0, 1e30, INF, -INF, NAN):
        z = np.where(SOME, LOGITS, anything)
        chex.assert_trees_all_equal(on_labels(name, z, where=SOME), base)
    z = np.where(SOME, LOGITS, -INF)
    chex.assert_trees_all_equal(on_labels(name, z), base)


@by_kind(KINDS)
def test_target_mass_on_a_masked_class_is_an_infinite_loss_of_finite_gradient(name):
    where = ALL.copy()
    where[np.arange(ROWS), LABELS] = False
    loss, gradient = on_labels(name, where=where)
    assert (loss == INF).all()
    predicted = expected(name, LOGITS, 0 * ONE_HOT + 1 / CLASSES, where)[1] + where / CLASSES
    assert_close(gradient, predicted * where)
    loss, d_z, d_y = on_distributions(name, where=where, y=0.5 * ONE_HOT + 0.1)
    assert (loss == INF).all()
    assert np.isfinite(d_z).all()
    assert np.isfinite(d_y).all()


@by_kind(KINDS)
def test_a_row_without_any_class_loses_nothing(name):
    where = ALL.copy()
    where[2] = False
    z = LOGITS.copy()
    z[4] = -INF
    loss, gradient = on_labels(name, z, where=where)
    assert not loss[[2, 4]].any()
    assert not gradient[[2, 4]].any()
    loss, d_z, d_y = on_distributions(name, z, where=where)
    assert not loss[[2, 4]].any()
    assert not d_z[[2, 4]].any()
    assert np.isfinite(d_y).all()


@by_kind(KINDS)
def test_scores_of_plus_infinity_are_the_limit(name):
    """They share the prediction, and a target elsewhere is infinitely wrong."""
    z = LOGITS.copy()
    z[[0, 1, 2], LABELS[:3]] = INF
    z[[1, 2], 4] = INF
    z[3, 0] = INF
    loss, gradient = on_labels(name, z)
    value, wanted = expected(name, np.zeros((4, CLASSES)), ONE_HOT[:4], np.isinf(z[:4]))
    wanted[3, LABELS[3]] = -1
    assert_close(loss[:3], value[:3])
    assert loss[3] == INF
    assert_close(gradient[:4], wanted)


@by_kind(KINDS)
def test_nan_stays_in_its_row(name):
    z = LOGITS.copy()
    z[3, 0] = NAN
    loss, gradient = on_labels(name, z)
    assert np.isnan(loss[3])
    kept = np.arange(ROWS) != 3
    wanted = on_labels(name)
    chex.assert_trees_all_equal((loss[kept], gradient[kept]), (wanted[0][kept], wanted[1][kept]))


# Options


@by_kind(KINDS)
def test_smoothing_is_spread_over_the_unmasked_classes(name):
    smoothed = 0.7 * ONE_HOT + 0.3 * SOME / SOME.sum(-1, keepdims=True)
    loss, gradient = on_labels(name, where=SOME, smoothing=0.3)
    value, wanted = expected(name, LOGITS, smoothed, SOME)
    assert_close(loss, value)
    assert_close(gradient, wanted)


@by_kind(KINDS)
def test_class_weights_multiply_the_loss_of_their_class(name):
    """Each −log p in cross-entropy, elsewhere the loss by ⟨w, y⟩; a weight of 0 beats even ∞."""
    weights = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
    smoothed = 0.7 * ONE_HOT + 0.3 / CLASSES
    loss, gradient = on_labels(name, smoothing=0.3, weights=weights)
    value, wanted = expected(name, LOGITS, smoothed, weights=weights)
    assert_close(loss, value)
    assert_close(gradient, wanted)
    z = LOGITS.copy()
    z[2, LABELS[2]] = -INF
    loss, gradient = on_labels(name, z, weights=weights)
    assert loss[2] == 0
    assert not gradient[2].any()


def test_z_loss_pulls_the_log_partition_to_zero():
    """λ (log Σ eᶻ)², of which the gradient is 2 λ log Σ eᶻ · p; nothing in an empty row."""
    z = LOGITS.copy()
    z[5] = -INF

    @jax.jit
    def with_strength(strength):
        def total(z):
            loss = cross_entropy(z, jnp.asarray(LABELS), where=SOME, z_loss=strength)
            return loss.sum(), loss

        return jax.grad(total, has_aux=True)(z)

    (gradient, loss), (d_base, base) = with_strength(0.25), with_strength(0.0)
    inside = np.where(SOME, z, -INF)
    with np.errstate(divide="ignore"):
        level = np.log(np.exp(inside).sum(-1))
    level[5] = 0
    assert_close(loss - base, 0.25 * level**2)
    p = np.exp(inside - level[:, None])
    assert_close(gradient - d_base, 0.5 * level[:, None] * p, atol=1e-12)
    fixed = cross_entropy(z, LABELS, where=SOME, z_loss=0.25)
    assert_close(fixed, loss)


@by_kind(FORMS)
def test_any_axis_and_axes_of_classes(name):
    """Classes on several axes are numbered row-major."""
    loss = CASES[name].loss
    z, labels = jnp.asarray(WIDE[:, :6]), jnp.array([0, 5, 2, 4, 1, 3])
    y = jax.nn.one_hot(labels, 6)

    @jax.jit
    def everywhere(z):
        folded = z.reshape(6, 2, 3).swapaxes(0, 1)
        flat = loss(z, labels)
        return (
            loss(z.T, labels, axis=0) - flat,
            loss(z.T, y.T, axis=-2) - flat,
            loss(folded, labels, axis=(0, 2)) - flat,
            loss(folded, y.reshape(6, 2, 3).swapaxes(0, 1), axis=(-1, 0)) - flat,
        )

    for difference in everywhere(z):
        assert_close(difference, np.zeros(6), atol=1e-13)


@by_kind(FORMS)
def test_classes_split_over_an_axis_by_name(name):
    """Labels count over all the parts; distributions, masks and weights are split as the scores."""
    case = CASES[name].loss
    labels, y = jnp.array([0, 5, 2, 9, 7, 4]), jnp.asarray(WIDE_TARGETS)
    w = jnp.linspace(0.5, 1.5, 10)

    @jax.jit
    def both(z):
        def whole(z):
            loss = case(z, labels, label_smoothing=0.1, class_weights=w), case(z, y)
            return sum(x.sum() for x in loss), loss

        def part(z, y, w):
            return (
                case(z, labels, label_smoothing=0.1, class_weights=w, axis_name="parts"),
                case(z, y, axis_name="parts"),
            )

        def split(z):
            parts = (x.reshape(-1, 2, 5).swapaxes(0, 1) for x in (z, y))
            loss = jax.vmap(part, axis_name="parts")(*parts, w.reshape(2, 5))
            return sum(x[0].sum() for x in loss), jax.tree.map(lambda x: x[1], loss)

        return jax.grad(whole, has_aux=True)(z), jax.grad(split, has_aux=True)(z)

    whole, split = both(jnp.asarray(WIDE))
    jax.tree.map(assert_close, split, whole)


@by_kind(FORMS)
def test_rows_alone_and_uncompiled_give_the_same(name):
    loss, gradient = on_labels(name)
    labels = jnp.asarray(LABELS)
    rows = jax.jit(jax.vmap(jax.value_and_grad(CASES[name].loss)))(jnp.asarray(LOGITS), labels)
    chex.assert_trees_all_close(rows, (loss, gradient), rtol=1e-13, atol=1e-15)
    assert_close(CASES[name].loss(LOGITS[3], int(LABELS[3])), loss[3], rtol=1e-13)


@functools.cache
def _all_kinds():
    def total(z, y):
        losses = jnp.stack([CASES[name].loss(z, y) for name in KINDS])
        return losses.sum(), losses

    return jax.jit(jax.grad(total, has_aux=True))


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    hnp.arrays(float, (3, 4), elements=st.floats(-50, 50) | st.sampled_from([0, 1, 1e6, -1e6])),
    hnp.arrays(float, (3, 4), elements=st.floats(0, 1) | st.sampled_from([0, 1])),
)
def test_never_negative_and_never_nan(z, y):
    y = y + (y.sum(-1, keepdims=True) == 0)
    gradient, losses = _all_kinds()(z, y / y.sum(-1, keepdims=True))
    assert (np.asarray(losses) >= 0).all()
    assert np.isfinite(losses).all()
    assert_close(np.asarray(gradient).sum(-1), np.zeros(3), atol=1e-14)


# k at once


@functools.cache
def _k_hot(k):
    def total(z, labels, where):
        loss = topk_entmax_loss(z, labels, 1.5, where=where)
        return loss.sum(), loss

    return jax.jit(jax.grad(total, has_aux=True))


def k_hot(z, labels, where=ALL):
    labels = jnp.asarray(labels)
    gradient, loss = _k_hot(labels.shape[-1])(z, labels, where)
    return np.asarray(loss), np.asarray(gradient)


PAIRS = np.stack([LABELS, (LABELS + 2) % CLASSES], axis=-1)


def test_the_order_of_the_right_classes_does_not_matter():
    chex.assert_trees_all_close(k_hot(LOGITS, PAIRS), k_hot(LOGITS, PAIRS[:, ::-1]), rtol=1e-13)


def test_a_k_hot_loss_is_zero_past_its_margin():
    """The k right classes lead all others by 1/(α−1)."""
    z = LOGITS / 10
    np.put_along_axis(z, PAIRS, np.take_along_axis(z, PAIRS, -1) + 5, axis=-1)
    loss, gradient = k_hot(z, PAIRS)
    assert not loss.any()
    assert not gradient.any()


def test_k_hot_labels_that_are_no_classes_or_the_same_are_errors_or_nan():
    z = np.zeros((1, 4))
    for wrong, message in (
        ([[0, 4]], "label 4 is no class"),
        ([[-1, 2]], "label -1 is no class"),
        ([[2, 2]], "`targets` name a class twice in one row"),
        ([[0, 1, 2, 3, 0]], "`targets` name 5 classes a row; there are 4"),
    ):
        with pytest.raises(ValueError, match=f"jsoftmax.topk_entmax_loss: {message}"):
            topk_entmax_loss(z, np.array(wrong))
    labels = PAIRS.copy()
    labels[1], labels[4], labels[6] = [0, 5], [-1, 2], [3, 3]
    loss, gradient = k_hot(LOGITS, labels)
    others = [0, 2, 3, 5, 7]
    assert np.isnan(loss[[1, 4, 6]]).all()
    wanted = k_hot(LOGITS, PAIRS)
    chex.assert_trees_all_equal(
        (loss[others], gradient[others]), (wanted[0][others], wanted[1][others])
    )


def test_k_hot_masks_and_infinities():
    where = SOME.copy()
    np.put_along_axis(where, PAIRS, True, axis=-1)
    where[3, PAIRS[3, 0]], where[6] = False, False
    base = k_hot(LOGITS, PAIRS, where)
    assert base[0][3] == INF
    assert np.isfinite(base[1]).all()
    assert not base[1][~where].any()
    assert base[0][6] == 0
    for i in (0, 1, 2, 4, 5, 7):
        keep = where[i]
        target = np.isin(np.arange(CLASSES), PAIRS[i])[keep].astype(float)
        value = oracles.entmax_loss(LOGITS[i, keep], target, alpha=1.5, k=2)
        assert_close(base[0][i], float(value), atol=1e-13)
    for anything in (0, INF, NAN):
        z = np.where(where, LOGITS, anything)
        chex.assert_trees_all_equal(k_hot(z, PAIRS, where), base)
    z = LOGITS.copy()
    z[0, PAIRS[0]], z[1, 4], z[2] = INF, NAN, -INF
    loss, gradient = k_hot(z, PAIRS)
    assert np.isnan(loss[1])
    assert not loss[[0, 2]].any()
    assert not gradient[[0, 2]].any()


def test_k_hot_classes_on_another_axis_and_split():
    z, pairs = jnp.asarray(WIDE), jnp.array([[0, 9], [3, 4], [5, 1], [8, 2], [7, 6], [9, 3]])
    base = jax.jit(topk_entmax_loss)(z, pairs)
    assert_close(jax.jit(topk_entmax_loss, static_argnames="axis")(z.T, pairs, axis=0), base)
    parts = z.reshape(6, 2, 5).swapaxes(0, 1)
    split = jax.vmap(lambda z: topk_entmax_loss(z, pairs, axis_name="parts"), axis_name="parts")
    assert_close(jax.jit(split)(parts), jnp.stack([base, base]))


# Mistakes


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


EVERY = {**LABELLED, "topk_entmax_loss": topk_entmax_loss}


def shapes(*named):
    """What a message must name, in this order."""
    return ".*".join(re.escape(str(n)) for n in named)


@by_kind(EVERY)
def test_a_mistake_is_answered_with_function_argument_and_remedy(name, unchecked):
    loss, here = EVERY[name], f"jsoftmax.{name}: "
    z = np.ones((2, 3))
    labels = np.zeros((2, 1) if name == "topk_entmax_loss" else 2, int)
    with pytest.raises(ValueError, match=shapes(here, "`where`", (4,), (2, 3))):
        loss(z, labels, where=np.ones(4, bool))
    with pytest.raises(TypeError, match=shapes(here, "`where` has dtype float64", "boolean")):
        loss(z, labels, where=np.ones((2, 3)))
    with pytest.raises(TypeError, match=shapes(here, "`logits` has dtype complex")):
        loss(z * 1j, labels)
    with pytest.raises(ValueError, match=shapes(here, "axis 2 is out of range", (2, 3))):
        loss(z, labels, axis=2)
    with pytest.raises(ValueError, match=shapes(here, "has no classes")):
        loss(np.ones((2, 0)), labels)
    with pytest.raises(TypeError, match=shapes(here, "`targets` has dtype bool", "integer")):
        loss(z, labels == 0)
    wrong = np.zeros((3, 1) if name == "topk_entmax_loss" else 3, int)
    with pytest.raises(ValueError, match=shapes(here, "`targets`", wrong.shape, (2, 3))):
        loss(z, wrong)
    assert loss(np.ones((0, 3)), labels[:0]).shape == (0,)
    if name not in ("cross_entropy", "sparsemax_loss"):
        with pytest.raises(ValueError, match=shapes(here, "`alpha` must be", "-1")):
            loss(z, labels, -1)
        with pytest.raises(ValueError, match=shapes(here, "`alpha`", (5, 1), (2, 3))):
            loss(z, labels, jnp.full((5, 1), 1.5))


def test_a_k_hot_loss_has_a_single_axis(unchecked):
    message = "jsoftmax.topk_entmax_loss: `axis` must be a single axis"
    with pytest.raises(ValueError, match=message):
        topk_entmax_loss(np.ones((2, 3)), np.array([[0]]), axis=(0, 1))


@by_kind(LABELLED)
def test_a_mistaken_option_is_answered_the_same_way(name, unchecked):
    loss, here = LABELLED[name], f"jsoftmax.{name}: "
    z, labels, y = np.ones((2, 3)), np.zeros(2, int), np.full((2, 3), 1 / 3)
    for smoothing in (-0.1, 1.5, NAN):
        with pytest.raises(ValueError, match=shapes(here, "`label_smoothing` must be from 0 to 1")):
            loss(z, labels, label_smoothing=smoothing)
    with pytest.raises(ValueError, match=shapes(here, "`class_weights`", (4,), (2, 3))):
        loss(z, labels, class_weights=np.ones(4))
    with pytest.raises(TypeError, match=shapes(here, "`class_weights` has dtype complex")):
        loss(z, labels, class_weights=np.ones(3) * 1j)
    with pytest.raises(ValueError, match=shapes(here, "`ignore_index` needs integer targets")):
        loss(z, y, ignore_index=-1)
    for wrong in (y[:, :1], y[0], y[:, :2], np.ones((3, 3))):
        with pytest.raises(ValueError, match=shapes(here, "`targets`", wrong.shape, (2, 3))):
            loss(z, wrong)
    with pytest.raises(TypeError, match=shapes(here, "`targets` has dtype complex")):
        loss(z, y * 1j)


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
