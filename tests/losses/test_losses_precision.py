"""The losses in few bits: near zero, at every gap, under offsets, in every dtype."""

import chex
import jax.numpy as jnp
import numpy as np

from jsoftmax import cross_entropy, entmax_loss, sparsemax_loss
from tests.losses import loss_oracles as oracles
from tests.losses.loss_helpers import (
    CLASSES,
    FORMS,
    LOGITS,
    ONE_HOT,
    ROWS,
    assert_close,
    by_kind,
    expected,
    on_labels,
    traced,
)


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

    There the loss is a power of the remainder of the margin, and that is known to an eps of the
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
    loss, *_ = traced(entmax_loss, z, y, alphas[:, None])
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
