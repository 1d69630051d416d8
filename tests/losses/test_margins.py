"""Margins at the label in `cross_entropy`."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jsoftmax import cross_entropy
from tests.losses import margin_oracle as oracle

rng = np.random.default_rng(0)
N, K = 10_000, 12
COSINES, LABELS = rng.uniform(-1, 1, (N, K)), rng.integers(0, K, N)
MARGINS = {
    "additive": {"margin": 0.35},
    "angular": {"angular_margin": 0.5},
    "both": {"margin": 0.2, "angular_margin": 0.3},
    "wide": {"angular_margin": 2.0},
    "a row": {"margin": rng.uniform(0, 0.5, (N, 1)), "angular_margin": rng.uniform(0, 1, (N, 1))},
}


@pytest.mark.parametrize("name", MARGINS)
def test_it_is_the_loss_of_lowered_scores(name):
    given = MARGINS[name]
    m = [np.ravel(given.get(n, 0.0)) for n in ("margin", "angular_margin")]
    expected = oracle.cross_entropy(64 * oracle.lowered(COSINES, LABELS, *m), LABELS)
    found = cross_entropy(COSINES, LABELS, temperature=1 / 64, **given)
    # A score of 64 is known to 64 eps, and the angle of a cosine near 1 to √eps.
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-12, atol=1e-300)


def test_a_confident_label_has_a_precise_loss():
    """In float32 at gaps from 1 to 100: −log p ≈ e^−gap, which 1 − p has lost."""
    z = np.zeros((100, 3), np.float32)
    z[:, 0] = np.arange(1, 101) * 0.75
    labels = np.zeros(100, int)
    expected = oracle.cross_entropy(oracle.lowered(z, labels, 0.5), labels)
    found = cross_entropy(z, labels, margin=0.5)
    np.testing.assert_allclose(found, expected.astype(float), rtol=2e-6, atol=1e-37)


def test_no_margin_changes_no_bit():
    z = jnp.asarray(COSINES[:100])
    for none in (0, 0.0, np.float32(0)):
        found = cross_entropy(z, LABELS[:100], margin=none, angular_margin=none)
        chex.assert_trees_all_equal(found, cross_entropy(z, LABELS[:100]))
    traced = cross_entropy(z, LABELS[:100], margin=jnp.zeros(()), angular_margin=jnp.zeros(()))
    chex.assert_trees_all_close(traced, cross_entropy(z, LABELS[:100]), rtol=1e-14)


def test_derivatives_also_in_the_margins():
    z, y = jnp.asarray(COSINES[:6] * 0.95), LABELS[:6]

    def loss(z, additive, angular, t):
        return cross_entropy(
            z, y, margin=additive, angular_margin=angular, temperature=t, label_smoothing=0.1,
            z_loss=0.01,
        )  # fmt: skip

    margins = jnp.asarray(0.3), jnp.full((6, 1), 0.4), jnp.asarray(0.1)
    check_grads(loss, (z, *margins), 2, eps=1e-6)


def test_the_slope_at_an_angle_of_zero_is_finite():
    for own in (1.0, -1.0, np.nextafter(1.0, 0), 1 + 1e-12):
        slope = jax.grad(lambda z: cross_entropy(z, 0, angular_margin=0.5))(jnp.array([own, 0.1]))
        assert jnp.isfinite(slope).all()


def test_other_options_and_edges():
    z, y = COSINES[:50], LABELS[:50]
    ignored = np.where(np.arange(50) % 3, y, -1)
    low = np.asarray(oracle.lowered(z, y, 0.3, 0.2), float)
    for options in (
        {"where": rng.random((50, K)) < 0.8},
        {"label_smoothing": 0.1, "class_weights": rng.uniform(size=K)},
        {"z_loss": 0.1, "prior": rng.uniform(size=K)},
        {"temperature": -0.5},
        {"temperature": 0.0},
    ):
        chex.assert_trees_all_close(
            cross_entropy(z, y, margin=0.3, angular_margin=0.2, **options),
            cross_entropy(low, y, **options),
            rtol=1e-10,
        )
    found = cross_entropy(z, ignored, margin=0.3, angular_margin=0.2, ignore_index=-1)
    assert (found[ignored == -1] == 0).all()
    turned = cross_entropy(np.moveaxis(z, -1, 0), y, axis=0, margin=0.3)
    chex.assert_trees_all_close(turned, cross_entropy(z, y, margin=0.3))
    infinite = jnp.array([-jnp.inf, 0.0, 0.5])
    assert cross_entropy(infinite, 0, margin=0.3, angular_margin=0.2) == jnp.inf
    assert jnp.isfinite(cross_entropy(infinite, 1, margin=0.3, angular_margin=0.2))
    assert jnp.isnan(cross_entropy(z, y, angular_margin=jnp.asarray(4.0))).all()
    narrow = cross_entropy(jnp.asarray(z, jnp.bfloat16), y, angular_margin=0.2)
    assert narrow.dtype == jnp.float32


def test_split_classes_have_the_same_margins():
    z, y = jnp.asarray(COSINES[:8]), jnp.asarray(LABELS[:8])

    def loss(z, **axis):
        return cross_entropy(z, y, margin=0.3, angular_margin=0.2, **axis)

    parts = jnp.stack(jnp.split(z, 4, -1))
    found = jax.vmap(lambda z: loss(z, axis_name="model"), axis_name="model")(parts)
    chex.assert_trees_all_close(found[0], loss(z), rtol=1e-12)


def test_mistakes():
    with pytest.raises(ValueError, match=r"cross_entropy: `margin` and `angular_margin` need int"):
        cross_entropy(np.ones((2, 3)), np.ones((2, 3)) / 3, margin=0.1)
    for angle in (-0.1, 3.2, float("nan")):
        with pytest.raises(ValueError, match=r"`angular_margin` must be at least 0 and below π"):
            cross_entropy(np.ones((2, 3)), np.zeros(2, int), angular_margin=angle)
    with pytest.raises(ValueError, match="`margin`.*" + re.escape("shape (2, 1)")):
        cross_entropy(np.ones((2, 3)), np.zeros(2, int), margin=np.ones(3))
