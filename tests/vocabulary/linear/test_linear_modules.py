"""LinearSoftmax: the functions with their table, equal in both twins."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsoftmax as js
from jsoftmax.linen import LinearSoftmax as Linen
from jsoftmax.nnx import LinearSoftmax

D, K = 4, 11
H = np.random.default_rng(0).normal(size=(3, D))
Y = np.array([0, 7, 10])
KEY = jax.random.key(0)


def test_the_losses_of_the_twins_are_cross_entropy_of_their_logits():
    head = LinearSoftmax(D, K, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    head.bias[...] = jnp.linspace(-1, 1, K)
    twin = Linen(D, K, param_dtype=jnp.float64)
    variables = {"params": {"kernel": head.kernel[...], "bias": head.bias[...]}}
    logits = H @ head.kernel[...].T + head.bias[...]
    right = js.cross_entropy(logits, Y, label_smoothing=0.1)
    actual = head.loss(H, Y, label_smoothing=0.1)
    chex.assert_trees_all_close(actual, right, rtol=1e-12)
    of_twin = twin.apply(variables, H, Y, label_smoothing=0.1, method="loss")
    chex.assert_trees_all_equal(of_twin, actual)
    prior = np.arange(1.0, K + 1)
    actual = head.loss(H, Y, prior=prior)
    chex.assert_trees_all_close(actual, js.cross_entropy(logits, Y, prior=prior), rtol=1e-12)
    of_twin = twin.apply(variables, H, Y, prior=prior, method="loss")
    chex.assert_trees_all_equal(of_twin, actual)
    chex.assert_trees_all_close(head(H), js.softmax(logits), rtol=1e-12)
    chex.assert_trees_all_equal(twin.apply(variables, H), head(H))
    best = head.topk(H, 2)
    chex.assert_trees_all_equal(best, twin.apply(variables, H, 2, method="topk"))
    chex.assert_trees_all_equal(best.classes, jax.lax.top_k(logits, 2)[1])
    drawn = head.sample(KEY, H)
    chex.assert_trees_all_equal(drawn, twin.apply(variables, KEY, H, method="sample"))
    chex.assert_trees_all_equal(head.embed(Y), head.kernel[...][Y])
    chex.assert_trees_all_equal(twin.apply(variables, Y, method="embed"), head.embed(Y))
    assert jnp.isnan(head.embed(jnp.array([-1, 10**6]))).all()
    with pytest.raises(ValueError, match="id -1 is out of range"):
        twin.apply(variables, np.array([-1]), method="embed")


def test_a_table_is_tied_and_a_bias_is_left_out():
    head = LinearSoftmax(D, K, use_bias=False, rngs=nnx.Rngs(0))
    gradient = nnx.grad(lambda head: head.loss(head.embed(Y), Y).sum())(head)
    W = head.kernel[...]
    right = jax.grad(lambda W: js.cross_entropy(W[Y] @ W.T, Y).sum())(W)
    chex.assert_trees_all_close(gradient.kernel[...], right, rtol=1e-4, atol=1e-5)
    assert set(Linen(D, K, use_bias=False).init(KEY, H)["params"]) == {"kernel"}


def test_short_dtypes_are_kept_in_the_table_and_not_in_the_loss():
    head = LinearSoftmax(D, K, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert head.logits(H).dtype == jnp.bfloat16
    assert head.loss(H, Y).dtype == jnp.float32
