"""Dropout of attention weights: one mask for all block sizes, unbiased, differentiable."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.attention import attention_oracle as oracle

pytestmark = pytest.mark.slow  # together some minutes

B, T, S, N, H = 2, 7, 9, 4, 3
RATE = 0.3
KEY = jax.random.key(3)
near = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)


@functools.partial(jax.jit, static_argnames=("alpha", "rate", "blocks", "shared"))
def weights(q, k, rng, alpha=1.0, rate=RATE, blocks=(3, 4), shared=False):
    """Return the weights [B, T, N, S] after dropout: the mixtures of one-hot values."""
    return js.dot_product_attention(
        q, k, jnp.broadcast_to(jnp.eye(S)[:, None], (B, S, N, S)), alpha=alpha, dropout_rng=rng,
        dropout_rate=rate, broadcast_dropout=shared, block_q=blocks[0], block_k=blocks[1],
    )  # fmt: skip


def queries_and_keys():
    return np.random.default_rng(0).normal(size=(2, B, S, N, H))


def uniform(**options):
    """Return the weights after dropout where all of them are 1/S."""
    _, k = queries_and_keys()
    return np.asarray(weights(np.zeros((B, T, N, H)), k, **options))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_a_weight_is_dropped_or_grows_by_the_share_that_is_kept(alpha):
    """Equal ones are 0 or 1/S/(1 − rate); others have the same mask, whatever α is."""
    q, k = queries_and_keys()
    q = q[:, :T]
    kept = uniform(rng=KEY) > 0
    near(uniform(rng=KEY), kept / S / (1 - RATE))
    whole = weights(q, k, KEY, alpha=alpha, rate=0.0)
    near(weights(q, k, KEY, alpha=alpha), kept * np.asarray(whole) / (1 - RATE))


@pytest.mark.parametrize("blocks", [(None, None), (1, 1), (4, None)])
def test_the_mask_does_not_depend_on_the_blocks(blocks):
    chex.assert_trees_all_equal(uniform(rng=KEY, blocks=blocks) > 0, uniform(rng=KEY) > 0)


def test_the_share_that_is_dropped_is_the_rate():
    """Within five standard errors of 50 masks; and weights keep their expectation."""
    masks = np.stack([uniform(rng=rng) > 0 for rng in jax.random.split(KEY, 50)])
    error = np.sqrt(RATE * (1 - RATE) / masks.size)
    assert abs(masks.mean() - (1 - RATE)) < 5 * error
    # No place is favoured: each of B·T·N·S, over 50 masks, stays within a bound that chance exceeds
    # once in a million.
    assert abs(masks.mean(0) - (1 - RATE)).max() < 6.5 * np.sqrt(RATE * (1 - RATE) / 50)


def test_masks_differ_between_keys_entries_heads_and_queries():
    kept = uniform(rng=KEY) > 0
    assert (kept != (uniform(rng=jax.random.key(4)) > 0)).any()
    for axis in (0, 1, 2):
        halves = np.take(kept, 0, axis), np.take(kept, 1, axis)
        assert 0.2 < (halves[0] != halves[1]).mean() < 0.64  # 2 · 0.3 · 0.7 = 0.42 on average


def test_a_broadcast_mask_is_one_for_all_entries_and_heads():
    kept = uniform(rng=KEY, shared=True) > 0
    assert (kept == kept[:1, :, :1]).all()
    assert 0 < kept.mean() < 1


def test_old_keys_are_keys():
    chex.assert_trees_all_equal(uniform(rng=jax.random.PRNGKey(3)), uniform(rng=KEY))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_derivatives_are_those_of_the_mask_that_was_drawn(alpha):
    """Value, jvp and gradient: p in the dense formula times the mask that equal scores show."""
    rng = np.random.default_rng(1)
    q, k = queries_and_keys()
    inputs, tangents = ((q[:, :T], k, rng.normal(size=(B, S, N, 2))) for q, k in ((q, k), (k, q)))
    cotangent = rng.normal(size=(B, T, N, 2))
    kept = (uniform(rng=KEY) > 0).swapaxes(1, 2) / (1 - RATE)

    def ours(q, k, v):
        return js.dot_product_attention(
            q, k, v, alpha=alpha, dropout_rng=KEY, dropout_rate=RATE, block_q=3, block_k=4
        )

    def dense(q, k, v):
        p, _ = oracle.weights(
            q, k, jnp.zeros((B, N, T, S)), jnp.full(N, H**-0.5), jnp.full(N, alpha),
            jnp.full(N, -jnp.inf), seen=jnp.full((B, N, T, S), True), cap=jnp.inf,
        )  # fmt: skip
        return jnp.einsum("bnts,bsnh->btnh", kept * p, v)

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(function):
        return jax.jvp(function, inputs, tangents), jax.vjp(function, *inputs)[1](cotangent)

    near(derivatives(ours), derivatives(dense))


def test_dropout_of_no_rate_needs_no_key():
    q = np.ones((1, 3, 1, 2))
    near(jax.jit(functools.partial(js.dot_product_attention, dropout_rate=0.0))(q, q, q), q)
