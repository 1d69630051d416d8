"""Softmax attention of other libraries, where they are installed and support the device."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def attention_peers(is_causal: bool) -> dict[str, Callable[..., Any]]:
    """Return functions of q, k and v of the shape [batch, length, heads, width], by name."""
    known = {"jax.nn": partial(jax.nn.dot_product_attention, is_causal=is_causal)}
    platform = jax.default_backend()
    if platform == "gpu":
        known["cuDNN"] = partial(
            jax.nn.dot_product_attention, is_causal=is_causal, implementation="cudnn"
        )
    if platform == "tpu":
        known["splash"] = partial(splash, is_causal=is_causal)
    if platform in ("gpu", "tpu") and importlib.util.find_spec("tokamax"):
        tokamax = importlib.import_module("tokamax")
        known["tokamax"] = partial(tokamax.dot_product_attention, is_causal=is_causal)
    return known


def splash(q: jax.Array, k: jax.Array, v: jax.Array, is_causal: bool) -> jax.Array:
    """Call JAX's splash attention for TPUs."""
    folder = "jax.experimental.pallas.ops.tpu.splash_attention"
    kernels = importlib.import_module(f"{folder}.splash_attention_kernel")
    masks = importlib.import_module(f"{folder}.splash_attention_mask")
    kind = masks.CausalMask if is_causal else masks.FullMask
    mask = masks.MultiHeadMask([kind((q.shape[1], k.shape[1])) for _ in range(q.shape[2])])
    attend = kernels.make_splash_mha(mask=mask, head_shards=1, q_seq_shards=1)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    return jnp.swapaxes(jax.vmap(attend)(q, k, v), 1, 2)
