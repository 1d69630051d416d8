"""Cross-entropies of ten thousand rows, in float32, against float64: values and slopes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.vocabulary.linear.linear_helpers import compiled

ROWS, CLASSES = 10_000, 12
EPS = float(np.finfo(np.float32).eps)
FORMS = {
    "per token": lambda z, y, **blocks: js.vocabulary.linear_cross_entropy(
        z, jnp.eye(CLASSES, dtype=z.dtype), y, **blocks
    ),
    "terms": lambda z, y, **blocks: (
        (
            js.vocabulary.linear_cross_entropy_terms(
                z, jnp.eye(CLASSES, dtype=z.dtype), y, **blocks
            )
        ).loss
    ),
}


def rows(spread, seed=0):
    """Make scores: a third of the rows with tied tops, a third with an almost certain label."""
    rng = np.random.default_rng(seed)
    z = (spread * rng.standard_normal((ROWS, CLASSES))).astype(np.float32)
    y = rng.integers(0, CLASSES, ROWS)
    every = np.arange(ROWS)
    z[every[::3], y[::3]] = z.max(-1)[::3] + np.float32(spread)  # ahead
    tied = every[1::3]
    z[tied, (y[tied] + 1) % CLASSES] = z[tied].max(-1)
    return z, y


def oracle(z, y):
    """Compute −log p and p − y, without differences of nearly equal numbers."""
    z = z.astype(np.float64)
    behind = z - np.take_along_axis(z, y[:, None], 1)
    others = np.arange(CLASSES)[None] != y[:, None]
    top = behind.max(-1, keepdims=True)
    # log Σ e^behind, the label's own term being 1.
    small = np.log1p(np.where(others, np.exp(np.minimum(behind, 50)), 0).sum(-1))
    large = top[:, 0] + np.log(np.exp(behind - top).sum(-1))
    loss = np.where(top[:, 0] > 40, large, small)
    p = np.exp(behind - loss[:, None])
    return loss, np.where(others, p, -np.where(others, p, 0).sum(-1, keepdims=True))


@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("form", FORMS)
def test_losses_and_slopes_are_right_to_a_few_eps(form, spread):
    """Slopes too, also those of a label that is almost certain: no entry is lost."""
    z, y = rows(spread)
    loss, slope = oracle(z, y)

    def total(z, blocks):
        losses = FORMS[form](z, y, **blocks)
        return losses.sum(), losses

    for blocks in ({}, {"block_tokens": 3_000, "block_classes": 5}):
        function = jax.jit(jax.value_and_grad(lambda z, b=blocks: total(z, b), has_aux=True))
        (_, losses), slopes = function(z)
        for found, right in ((losses, loss), (slopes, slope)):
            # Small numbers are exp x of an x rounded to eps x.
            allowed = (8 + np.abs(np.log(np.abs(right)))) * EPS * np.abs(right)
            assert (np.abs(found - right) <= np.maximum(allowed, 1e-37)).all()


@pytest.mark.parametrize("size", [(256, 4_096), (256, 4_099), (100, 40_000)])
def test_no_more_memory_is_taken_than_by_the_dense_way(size):
    """Of scores that stay whole the sum over classes and the slope are made in one array."""
    tokens, classes = size
    h = jax.ShapeDtypeStruct((tokens, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((16, classes), jnp.float32)
    labels = jnp.zeros(tokens, jnp.int32)

    def dense(h, kernel):
        z = h @ kernel
        own = jnp.take_along_axis(z, labels[:, None], 1)[:, 0]
        return (jax.nn.logsumexp(z, -1) - own).sum()

    def ours(h, kernel):
        return js.vocabulary.linear_cross_entropy(h, kernel, labels).sum()

    def scalar(h, kernel):
        return js.vocabulary.linear_cross_entropy_sum(h, kernel, labels)

    least, *taken = (
        compiled(jax.value_and_grad(loss, (0, 1)), h, kernel).memory_analysis().temp_size_in_bytes
        for loss in (dense, ours, scalar)
    )
    assert max(taken) <= least + 16 * 4 * tokens  # a few numbers a token are no rows
