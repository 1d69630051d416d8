"""Temperatures in arrays, one per token: 0 for some and not for their neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import (
    gumbel_argmax,
    linear_categorical,
    linear_cross_entropy,
    linear_cross_entropy_sum,
    linear_cross_entropy_terms,
    linear_entmax_loss,
    linear_topk,
    sampled_softmax_loss,
)
from jsoftmax.vocabulary import Candidates
from tests.vocabulary.linear.linear_helpers import (
    CLASSES,
    FEATURES,
    KERNEL,
    LABELS,
    TOKENS,
    assert_close,
)

COLD = jnp.arange(TOKENS) % 2 == 0
MIXED = jnp.where(COLD, 0, 1.3)[:, None]
SCORES = FEATURES @ KERNEL


@pytest.mark.parametrize("block", [None, 1])
@pytest.mark.parametrize("given", [0.0, np.zeros((TOKENS, 1)), MIXED], ids=["0", "zeros", "mixed"])
def test_at_a_temperature_of_0_the_largest_score_is_drawn(block, given):
    @jax.jit
    def draw(temperature):
        return linear_categorical(
            jax.random.key(1), FEATURES, KERNEL, temperature=temperature, block_classes=block
        )

    drawn = draw(given)
    others = gumbel_argmax(jax.random.key(1), SCORES, temperature=MIXED)
    is_cold = COLD if given is MIXED else True
    np.testing.assert_array_equal(drawn, jnp.where(is_cold, SCORES.argmax(-1), others))


def test_equal_largest_scores_share_the_draws_at_0():
    """Each count is within five standard deviations of its expectation, for a fixed key."""
    h, where = jnp.zeros((4000, 3)), jnp.arange(CLASSES) < 4
    drawn = linear_categorical(
        jax.random.key(0), h, KERNEL, where=where, temperature=jnp.zeros((4000, 1)), block_classes=3
    )
    counts = np.bincount(drawn, minlength=CLASSES)
    assert (abs(counts[:4] - 1000) < 5 * np.sqrt(750)).all() and counts.sum() == 4000


def test_top_k_has_the_order_of_scores_at_every_temperature():
    t = jnp.asarray([0.0, 1e-30, 1.3, jnp.inf, -1.0, jnp.nan, 0.0])[:, None]
    found = linear_topk(FEATURES, KERNEL, 3, temperature=t, block_tokens=2)
    values, classes = jax.lax.top_k(SCORES, 3)
    np.testing.assert_array_equal(found.classes[:4], classes[:4])
    assert_close(found.values[jnp.array([0, 6])], values[jnp.array([0, 6])])
    assert_close(found.values[1:4], values[1:4] / t[1:4])
    assert jnp.isnan(found.values[4:6]).all()
    assert (linear_categorical(jax.random.key(0), FEATURES, KERNEL, temperature=t)[4:6] == -1).all()


EVERY = Candidates(np.arange(CLASSES), 0.0)
LOSSES = {
    "cross-entropy": linear_cross_entropy,
    "entmax": linear_entmax_loss,
    "sampled": lambda h, w, y, **options: sampled_softmax_loss(h, w, y, EVERY, **options),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_without_a_temperature_is_nan_and_spoils_no_other(name):
    loss = LOSSES[name]

    def total(h, kernel, t):
        losses = loss(h, kernel, LABELS, temperature=t)
        return losses.sum(where=~COLD), losses

    slopes, losses = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(FEATURES, KERNEL, MIXED)
    warm = jnp.full_like(MIXED, 1.3)
    expected, right = jax.grad(total, (0, 1, 2), has_aux=True)(FEATURES, KERNEL, warm)
    assert jnp.isnan(losses[COLD]).all()
    assert_close(losses[~COLD], right[~COLD])
    assert_close(slopes, expected)
    # Not even where the NaN itself is differentiated.
    every = jax.grad(lambda *x: total(*x)[1].sum(), (0, 1, 2))(FEATURES, KERNEL, MIXED)
    assert_close(every, expected)


def test_statistics_and_sums_say_that_there_is_no_temperature():
    terms = linear_cross_entropy_terms(FEATURES, KERNEL, LABELS, temperature=MIXED)
    for x in terms:
        np.testing.assert_array_equal(jnp.isnan(x), COLD)
    assert jnp.isnan(linear_cross_entropy_sum(FEATURES, KERNEL, LABELS, temperature=MIXED))
    where = ~COLD[:, None]
    total = linear_cross_entropy_sum(FEATURES, KERNEL, LABELS, temperature=MIXED, where=where)
    assert_close(total, terms.loss.sum(where=~COLD))
