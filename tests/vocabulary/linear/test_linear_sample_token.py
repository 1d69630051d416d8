"""Truncated draws from features equal those of the logits, for any split of tokens and classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsoftmax as js

RNG = np.random.default_rng(2)
H, W = (jnp.asarray(RNG.standard_normal(shape)) for shape in ((2, 5, 6), (6, 24)))
BIAS = jnp.asarray(RNG.standard_normal(24))
KEY = jax.random.key(7)
SETTINGS = {
    "temperature": jnp.asarray(RNG.random((2, 5, 1))).at[0, 0].set(0.0),
    "k": jnp.asarray(RNG.integers(1, 24, (5, 1))),
    "p": 0.9,
    "min_p": jnp.array(0.01),
}


def assert_same(found, right):
    np.testing.assert_array_equal(found.token, right.token)
    np.testing.assert_allclose(found.log_prob, right.log_prob, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.whole_log_prob, right.whole_log_prob, rtol=1e-11, atol=1e-13)


@functools.cache
def right():
    return js.sample_token(KEY, 5 * jnp.tanh((H @ W + BIAS) / 5), **SETTINGS)


@pytest.mark.parametrize("block_tokens", [None, 3, 1])
def test_draws_are_those_of_the_logits(block_tokens):
    found = js.linear_sample_token(
        KEY, H, W, bias=BIAS, logits_soft_cap=5.0, block_tokens=block_tokens, **SETTINGS
    )
    assert_same(found, right())


def test_classes_may_be_split():
    kernels, biases = W.reshape(6, 3, 8), BIAS.reshape(3, 8)

    def part(kernel, bias):
        return js.linear_sample_token(
            KEY, H, kernel, bias=bias, logits_soft_cap=5.0, axis_name="i", **SETTINGS
        )

    found = jax.vmap(part, in_axes=(1, 0), axis_name="i")(kernels, biases)
    for each in range(3):
        assert_same(jax.tree.map(lambda x, each=each: x[each], found), right())


def test_classes_may_be_split_in_shard_map():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def part(h, kernel, bias, temperature):
        # Rows of other devices would draw with the same key.
        here = jax.lax.axis_index("data")
        words = jax.random.fold_in(KEY, here)
        return js.linear_sample_token(
            words, h, kernel, bias=bias, temperature=temperature, p=0.9, axis_name="model"
        )

    found = jax.jit(
        jax.shard_map(
            part,
            mesh=mesh,
            in_specs=(P("data"), P(None, "model"), P("model"), P("data")),
            out_specs=P("data"),
        )
    )(H, W, BIAS, SETTINGS["temperature"])
    for here in range(2):
        given = {"temperature": SETTINGS["temperature"][here], "p": 0.9}
        z = H[here] @ W + BIAS
        alone = js.sample_token(
            jax.random.fold_in(KEY, here),
            z[None],
            **given | {"temperature": given["temperature"][None]},
        )
        assert_same(
            jax.tree.map(lambda x, here=here: x[here], found), jax.tree.map(lambda x: x[0], alone)
        )


def test_log_probabilities_have_gradients():
    def loss(h, w, draw):
        drawn = draw(h, w)
        return (drawn.log_prob - 2 * drawn.whole_log_prob).sum()

    ours = jax.grad(loss, (0, 1))(
        H, W, lambda h, w: js.linear_sample_token(KEY, h, w, k=5, block_tokens=3)
    )
    dense = jax.grad(loss, (0, 1))(H, W, lambda h, w: js.sample_token(KEY, h @ w, k=5))
    for x, y in zip(ours, dense, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_rows_of_tokens_are_not_all_in_memory():
    """At 4096 tokens and 4096 classes, temporaries are a small part of the array of logits."""
    h = jax.ShapeDtypeStruct((4096, 16), jnp.float32)
    w = jax.ShapeDtypeStruct((16, 4096), jnp.float32)
    draw = jax.jit(lambda h, w: js.linear_sample_token(KEY, h, w, k=50, p=0.9, block_tokens=256))
    memory = draw.lower(h, w).compile().memory_analysis().temp_size_in_bytes
    assert memory < 0.5 * 4096 * 4096 * 4
