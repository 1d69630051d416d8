"""Attention with symbolic sizes: one exported program serves all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.marks import some

ATTENTION = {
    "causal": lambda q, k: js.dot_product_attention(q, q, q, is_causal=True),
    "of others": lambda q, k: js.dot_product_attention(q, k, k, alpha=1.5),
    "a window and lengths": lambda q, k: js.dot_product_attention(
        q, k, k, alpha=jnp.array([1.2, 2.0]), local_window_size=(2, 1), sinks=0.0,
        key_value_seq_lengths=jnp.full(q.shape[0], 3),
    ),
    "dropout": lambda q, k: js.dot_product_attention(
        q, k, k, dropout_rate=0.3, dropout_rng=jax.random.key(0)
    ),
    "weights": lambda q, k: js.attention_weights(
        q, k, alpha=1.5, is_causal=True, query_offset=0
    ),
    "a function of scores": lambda q, k: js.dot_product_attention(
        q, k, k, score_fn=lambda score, b, h, i, j: score + b - 0.1 * h * abs(i - j)
    ),
    "ALiBi": lambda q, k: js.dot_product_attention(q, k, k, score_fn=js.ALiBi(0.1)),
    "buckets": lambda q, k: js.dot_product_attention(
        q, k, k, alpha=1.5, score_fn=js.T5Buckets(jnp.arange(64.0).reshape(32, 2))
    ),
    "a gate": lambda q, k: js.dot_product_attention(
        k, k, k, is_causal=True, score_fn=js.ForgettingGate(jnp.cumsum(k[..., 0], axis=1))
    ),
    "visible keys as a scale": lambda q, k: js.dot_product_attention(
        q, k, k, scale=jnp.log(js.visible_keys(q, k, local_window_size=3)),
        local_window_size=3, query_offset=1,
    ),
    "in the place of Flax's": lambda q, k: js.attention_fn(2.0)(q, k, k),
    "a gradient": jax.grad(
        lambda q, k: jnp.sum(jnp.sin(js.dot_product_attention(q, k, k, alpha=1.5)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", some(ATTENTION, ["weights", "a gradient"]))
def test_an_export_of_unknown_sizes_gives_what_a_direct_call_gives(name):
    attend = jax.jit(ATTENTION[name])
    b, t, s = jax.export.symbolic_shape("b, t, s")
    q, k = (jax.ShapeDtypeStruct((b, n, 2, 4), np.float64) for n in (t, s))
    exported = jax.export.export(attend)(q, k)
    rng = np.random.default_rng(0)
    for b, t, s in ((1, 1, 3), (2, 5, 7), (3, 9, 4)):
        q, k = (rng.normal(size=(b, n, 2, 4)) for n in (t, s))
        np.testing.assert_allclose(exported.call(q, k), attend(q, k), rtol=1e-10, atol=1e-12)
