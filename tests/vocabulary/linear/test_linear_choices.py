"""Top-k and draws from features and a class table equal those of the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import gumbel_argmax, linear_categorical, linear_topk
from tests.vocabulary.linear.linear_helpers import (
    BIAS,
    CLASSES,
    FEATURES,
    KERNEL,
    SOFT_CAP,
    TEMPERATURE,
    TOKENS,
    assert_close,
    scored,
)

pytestmark = pytest.mark.slow

OPTIONS = {"bias": BIAS, "logits_soft_cap": SOFT_CAP, "temperature": TEMPERATURE}


@pytest.mark.parametrize("block", [1, 3, 7])
def test_top_k_is_that_of_the_logits(block):
    found = linear_topk(FEATURES, KERNEL, 4, block_tokens=block, **OPTIONS)
    values, classes = jax.lax.top_k(scored(FEATURES, KERNEL, BIAS), 4)
    assert_close(found.values, values)
    np.testing.assert_array_equal(found.classes, classes)


def test_the_values_of_top_k_are_differentiable():
    def ours(h, kernel):
        return linear_topk(h, kernel, 2, block_tokens=3, **OPTIONS).values

    def theirs(h, kernel):
        return jax.lax.top_k(scored(h, kernel, BIAS), 2)[0]

    both = (jax.jit(jax.jacrev(f, (0, 1)))(FEATURES, KERNEL) for f in (ours, theirs))
    assert_close(*both)


def test_equal_scores_are_in_the_order_of_their_classes_and_masked_ones_last():
    where = jnp.arange(CLASSES) != 0
    found = linear_topk(jnp.zeros((TOKENS, 3)), KERNEL, CLASSES, where=where, block_tokens=3)
    np.testing.assert_array_equal(found.classes[0], [*range(1, CLASSES), 0])
    assert found.values[0, -1] == -jnp.inf


WIDE = 300  # classes: three blocks of noise
TABLE = jnp.asarray(np.random.default_rng(1).normal(size=(3, WIDE)))


@pytest.mark.parametrize("block", [None, 1, 150, 200])
def test_a_key_is_one_draw_whatever_the_block(block):
    """That of `gumbel_argmax`, of the same key and the logits."""
    key = jax.random.key(3)
    options = {"temperature": TEMPERATURE, "where": jnp.arange(WIDE) % 5 > 0}
    drawn = linear_categorical(key, FEATURES, TABLE, block_classes=block, **options)
    np.testing.assert_array_equal(drawn, gumbel_argmax(key, FEATURES @ TABLE, **options))


def test_draws_follow_softmax():
    """Each count is within five standard deviations of its expectation, for a fixed key."""
    draws = 20_000
    p = jax.nn.softmax(FEATURES[0] @ KERNEL)
    h = jnp.broadcast_to(FEATURES[0], (draws, 3))
    drawn = linear_categorical(jax.random.key(0), h, KERNEL, block_classes=3)
    counts = np.bincount(drawn, minlength=CLASSES)
    assert (abs(counts - draws * p) < 5 * jnp.sqrt(draws * p * (1 - p))).all()


def test_infinite_scores_share_the_draws_and_nothing_is_drawn_from_nothing():
    """+∞ leaves the others nothing; no class, or NaN, gives −1."""
    bias = jnp.zeros(WIDE).at[jnp.array([7, 250])].set(jnp.inf)
    h = jnp.zeros((200, 3))
    drawn = linear_categorical(jax.random.key(0), h, TABLE, bias=bias, block_classes=100)
    assert set(drawn.tolist()) == {7, 250}
    where = jnp.arange(200)[:, None] > 0
    drawn = linear_categorical(
        jax.random.key(0), h.at[1, 0].set(jnp.nan), TABLE, where=where, block_classes=100
    )
    assert (drawn[:2] == -1).all() and (drawn[2:] >= 0).all()


def test_draws_of_huge_scores_are_those_of_the_same_scores_near_zero():
    """Noise is not lost in a score of 10⁶, which in float32 resolves sixteenths."""
    h = jnp.ones((64, 1), jnp.float32)
    table = jnp.round(TABLE[:1] * 4).astype(jnp.float32) / 4
    near = linear_categorical(jax.random.key(0), h, table)
    far = linear_categorical(jax.random.key(0), h, table + 1e6)
    np.testing.assert_array_equal(near, far)
