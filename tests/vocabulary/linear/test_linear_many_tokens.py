"""Gradients summed over many tokens, in float32, against float64: right to 1e-6."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.marks import some
from tests.vocabulary.linear.linear_helpers import assert_close

WIDTH, CLASSES = 4, 8
LOSSES = {
    "per token": lambda h, w, b, y: js.linear_cross_entropy(h, w, y, bias=b).sum(),
    "sum": lambda h, w, b, y: js.linear_cross_entropy_sum(h, w, y, bias=b),
    "sparsemax": lambda h, w, b, y: js.linear_fenchel_young_loss(
        h, w, y, js.Tsallis(2.0), bias=b
    ).sum(),
}


def problem(tokens, equal):
    """Features, a kernel and a bias with mass on every class; labels of the first half."""
    rng = np.random.default_rng(0)
    kinds = 1 if equal else tokens
    h = rng.uniform(0.5, 1.5, (kinds, WIDTH)).astype(np.float32)
    y = rng.integers(0, CLASSES // 2, kinds).astype(np.int32)
    w = rng.uniform(-0.02, 0.02, (WIDTH, CLASSES)).astype(np.float32)
    b = rng.uniform(-0.02, 0.02, CLASSES).astype(np.float32)
    return h, w, b, y


def oracle(name, h, w, b, y):
    """The mean over tokens of ∂L/∂W and ∂L/∂b, block by block."""
    slopes = np.zeros((WIDTH, CLASSES)), np.zeros(CLASSES)
    w, b = w.astype(np.float64), b.astype(np.float64)
    for start in range(0, len(h), 10**6):
        part, labels = h[start : start + 10**6].astype(np.float64), y[start : start + 10**6]
        z = part @ w + b
        if name == "sparsemax":  # with every class in the support
            p = z + (1 - z.sum(-1, keepdims=True)) / CLASSES
            assert p.min() > 0
        else:
            p = np.exp(z)
            p = p / p.sum(-1, keepdims=True)
        g = p - np.eye(CLASSES)[labels]
        slopes = slopes[0] + part.T @ g, slopes[1] + g.sum(0)
    return tuple(s / len(h) for s in slopes)


def errors(name, tokens, equal):
    """Of the gradients in kernel and bias, relative to their entries."""
    h, w, b, y = problem(tokens, equal)
    right = oracle(name, h, w, b, y)
    # `equal` tokens are copies of one.
    h, y = (jnp.asarray(np.broadcast_to(x, (tokens, *x.shape[1:]))) for x in (h, y))
    found = jax.jit(jax.grad(LOSSES[name], (1, 2)))(h, w, b, y)
    return [
        (np.abs(np.asarray(f, np.float64) / tokens - r) / np.abs(r)).max()
        for f, r in zip(found, right, strict=True)
    ]


def test_a_sequential_sum_would_not_be_precise():
    """The premise: one token after another is far off at the number that the next test has."""
    h, w, b, y = problem(1, equal=True)
    slope = np.float32(oracle("per token", h, w, b, y)[0][0, 0])
    added = np.cumsum(np.full(300_000, slope), dtype=np.float32)[-1]
    assert abs(added / (300_000 * np.float64(slope)) - 1) > 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_to_1e6_for_many_equal_tokens(name):
    """Equal tokens are the worst case: each addition rounds to the same side."""
    assert max(errors(name, 300_001, equal=True)) < 1e-6


TOKENS = 2**15 + 33  # many, not a multiple of a stretch of tokens
FORMS = {
    "terms": (-1, 3, {}),  # few entries of a kernel; class axis, classes, blocks
    "products": (-1, 90, {"block_tokens": 9_000, "block_classes": 45}),
    "transposed": (0, 3, {}),
    "blocks of blocks": (0, 3, {"block_tokens": 1_000, "block_classes": 3}),
}


@pytest.mark.parametrize("form", some(FORMS, ["terms"]))
def test_a_split_sum_has_the_derivatives_of_the_dense_way(form):
    """In forward mode, in reverse mode, of second order, and in `vmap`."""
    axis, classes, blocks = FORMS[form]
    rng = np.random.default_rng(0)
    h, w = rng.standard_normal((TOKENS, 3)), rng.standard_normal((3, classes))
    at, along = (w, rng.standard_normal(w.shape)) if axis else (w.T, rng.standard_normal(w.T.shape))
    y, counts = rng.integers(0, classes, TOKENS), rng.standard_normal(TOKENS) / TOKENS

    def dense(w):
        losses = js.cross_entropy(h @ (w if axis else w.T), y)
        return (counts * losses).sum()

    def per_token(w):
        return (counts * js.linear_cross_entropy(h, w, y, class_axis=axis, **blocks)).sum()

    def summed(w):
        return js.linear_cross_entropy_sum(h, w, y, counts, class_axis=axis, **blocks)

    def derivatives(f, w):
        slope, curve = jax.jvp(jax.grad(f), (w,), (along,))
        return slope, curve, jax.vmap(jax.grad(f))(jnp.stack([w, 2 * w]))

    right = jax.jit(lambda w: derivatives(dense, w))(at)
    for f in (per_token, summed):
        found = jax.jit(lambda w, f=f: derivatives(f, w))(at)
        assert_close(found, right, rtol=1e-10, atol=1e-13)
    moved = [jax.jit(lambda w, f=f: jax.jvp(f, (w,), (along,)))(at) for f in (per_token, dense)]
    assert_close(*moved, rtol=1e-10, atol=1e-13)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "random"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_to_1e6_for_ten_million_tokens(name, equal):
    """The blocks of tokens are so many here that they are added in two levels."""
    assert max(errors(name, 10**7, equal)) < 1e-6
