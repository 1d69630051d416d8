"""Attention called outside of `jit`: compiled once per shape, without intermediate infinities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsoftmax as js
from jsoftmax.nnx import AdaptivelySparseAttention

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if "backend_compile" in event else None
)


def arrays(seed):
    rng = np.random.default_rng(seed)
    shapes = {"q": (2, 6, 4, 4), "k": (2, 6, 2, 4), "v": (2, 6, 2, 3), "sinks": (4,)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()} | {
        "alpha": jnp.asarray(1 + rng.random(4)),
        "lengths": jnp.asarray(rng.integers(1, 6, 2)),
        "rng": jax.random.key(seed),
    }


def attend(x, alpha=1.0, **options):
    return js.dot_product_attention(x["q"], x["k"], x["v"], alpha=alpha, **options)


def with_everything(x):
    return attend(
        x, x["alpha"], scale=x["alpha"], is_causal=True, sinks=x["sinks"], dropout_rng=x["rng"],
        dropout_rate=0.3, key_value_seq_lengths=x["lengths"], return_residual=True,
        local_window_size=(x["lengths"], 2), logits_soft_cap=x["alpha"], block_q=4, block_k=4,
    )  # fmt: skip


def ring(x):
    attend = functools.partial(js.ring_attention, axis_name="ring", is_causal=True)
    parts = (jnp.stack([x[name]] * 2) for name in "qkv")
    return jax.vmap(attend, axis_name="ring")(*parts)


def gradient(attend):
    def loss(moving, x):
        return sum(jnp.sum(y) for y in jax.tree.leaves(attend(x | moving)))

    return lambda x: jax.grad(loss)({name: x[name] for name in ("q", "k", "v", "alpha")}, x)


CALLS = {
    **{f"α = {a}": functools.partial(attend, alpha=a) for a in (1.0, 1.5, 2.0, 3.0, np.inf)},
    "everything": with_everything,
    "weights": lambda x: js.attention_weights(x["q"], x["k"], alpha=1.5),
    "attention_fn": lambda x: js.attention_fn(1.5)(x["q"], x["k"], x["v"]),
    "merged": lambda x: js.merge_attention(
        jnp.stack([x["q"]] * 2), jnp.stack([x["q"][..., 0]] * 2)
    ),
    "ring": ring,
    "gradient": gradient(attend),
    "gradient with everything": gradient(with_everything),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith("everything") else name
        for name in CALLS
    ],
)
def test_a_second_call_compiles_nothing(name):
    """With other values of the same shapes."""
    jax.block_until_ready(CALLS[name](arrays(0)))
    others = arrays(1)
    COMPILED.clear()
    jax.block_until_ready(CALLS[name](others))
    assert not COMPILED


def test_a_step_of_decoding_compiles_nothing_the_second_time():
    """Of Flax's module, and of the one with a learned α."""
    options = {"decode": True, "rngs": nnx.Rngs(0)}
    for layer in (
        nnx.MultiHeadAttention(2, 8, attention_fn=js.attention_fn(1.5), **options),
        AdaptivelySparseAttention(2, 8, **options),
    ):
        layer.init_cache((2, 5, 8))
        steps = np.random.default_rng(0).normal(size=(2, 2, 1, 8)).astype(np.float32)
        layer(steps[0])
        COMPILED.clear()
        layer(steps[1])
        assert not COMPILED


@pytest.mark.parametrize("flag", ["jax_debug_infs", "jax_debug_nans"])
@pytest.mark.parametrize("alpha", [1.0, 1.5, np.inf])
def test_no_infinity_or_nan_is_formed_of_finite_numbers(flag, alpha):
    """Also where a query sees no key; in the value and in the gradient."""
    x = arrays(0)
    mask = jnp.zeros((6, 6), bool).at[:4, :3].set(True)

    def loss(q, k, v):
        return jnp.sum(js.dot_product_attention(q, k, v, mask=mask, alpha=alpha))

    q, k, v = x["q"], x["k"], x["v"]
    jax.config.update(flag, True)
    try:
        js.dot_product_attention(q, k, v, mask=mask, alpha=alpha)
        slopes = jax.grad(loss, (0, 1, 2))(q, k, v)
        js.attention_weights(q, k, mask=mask, alpha=alpha)
    finally:
        jax.config.update(flag, False)
    assert all(np.isfinite(slope).all() for slope in slopes)
