"""A GPT with RMSNorm, rotary embeddings, grouped heads, α-entmax attention and a tied table."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

import jsoftmax
from examples.language_model import peer
from examples.language_model.config import Config
from examples.language_model.tokens import IGNORED

INIT = nnx.initializers.normal(0.02)


class Cache(NamedTuple):
    """Keys and values of one block, [batch, positions, key heads, width]."""

    keys: jax.Array
    values: jax.Array


def split(*axes: str | None) -> nnx.Initializer:
    """Return the initializer of a parameter sharded over these mesh axes."""
    return nnx.with_partitioning(INIT, axes)


def rotate(x: jax.Array, start: int | jax.Array = 0) -> jax.Array:
    """Rotate the pairs (x_i, x_{i+w/2}) of position t by the angles t 10⁴^{−2i/w} (RoPE)."""
    half = x.shape[-1] // 2
    speeds = 1e4 ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angles = (start + jnp.arange(x.shape[-3], dtype=jnp.float32))[:, None, None] * speeds
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


class Attention(nnx.Module):
    """Causal attention with fewer key heads than query heads, split over heads."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        features, width, dtype = config.features, config.width, jnp.dtype(config.dtype)

        def heads(count: int) -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                features, (count, width), use_bias=False, dtype=dtype,
                kernel_init=split(None, "model", None), rngs=rngs,
            )  # fmt: skip

        self.query, self.key, self.value = map(
            heads, (config.heads, config.key_heads, config.key_heads)
        )
        self.out = nnx.LinearGeneral(
            (config.heads, width), features, axis=(-2, -1), use_bias=False, dtype=dtype,
            kernel_init=split("model", None, None), rngs=rngs,
        )  # fmt: skip
        self.attend = peer.attend if config.peer else jsoftmax.attention_fn(config.alpha)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map features [batch, length, d] to the same shape, with causal attention."""
        q, k, v = rotate(self.query(x)), rotate(self.key(x)), self.value(x)
        return self.out(self.attend(q, k, v, is_causal=True))

    def cached(self, x: jax.Array, cache: Cache, start: int | jax.Array) -> tuple[jax.Array, Cache]:
        """Process positions from `start` on with the cache, and add them to it."""
        q, k, v = rotate(self.query(x), start), rotate(self.key(x), start), self.value(x)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, start, 1)
            for old, new in zip(cache, (k, v), strict=True)
        )
        places = jnp.arange(keys.shape[1])
        seen = places <= start + jnp.arange(x.shape[1])[:, None]
        return self.out(self.attend(q, keys, values, mask=seen[None, None])), Cache(keys, values)


class Block(nnx.Module):
    """Attention and a gated MLP, each with RMSNorm and a residual connection."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        features, hidden, dtype = config.features, config.hidden, jnp.dtype(config.dtype)
        self.before_attention = nnx.RMSNorm(features, dtype=dtype, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.before_mlp = nnx.RMSNorm(features, dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, use_bias=False, dtype=dtype, rngs=rngs)
        wide, narrow = split(None, "model"), split("model", None)
        self.gate = linear(features, hidden, kernel_init=wide)
        self.up = linear(features, hidden, kernel_init=wide)
        self.down = linear(hidden, features, kernel_init=narrow)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map features [batch, length, d] to the same shape."""
        x = x + self.attention(self.before_attention(x))
        return x + self.mlp(x)

    def cached(self, x: jax.Array, cache: Cache, start: int | jax.Array) -> tuple[jax.Array, Cache]:
        """Process positions from `start` on with the cache."""
        mixed, cache = self.attention.cached(self.before_attention(x), cache, start)
        x = x + mixed
        return x + self.mlp(x), cache

    def mlp(self, x: jax.Array) -> jax.Array:
        """Apply the gated MLP (SwiGLU)."""
        h = self.before_mlp(x)
        return self.down(nnx.silu(self.gate(h)) * self.up(h))


class GPT(nnx.Module):
    """A GPT from tokens [batch, length] to features [batch, length, d], with losses and draws."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.blocks = nnx.List(Block(config, rngs=rngs) for _ in range(config.layers))
        self.norm = nnx.RMSNorm(config.features, dtype=jnp.dtype(config.dtype), rngs=rngs)
        self.head = jsoftmax.nnx.LinearSoftmax(
            config.features, config.classes, use_bias=False, dtype=jnp.dtype(config.dtype),
            kernel_init=split("model", None), rngs=rngs,
        )  # fmt: skip

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the features of every position, after the last norm."""
        x = self.embed(tokens)
        run = nnx.remat(Block.__call__) if self.config.remat else Block.__call__
        for block in self.blocks:
            x = run(block, x)
        return self.norm(x)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Return rows of the class table, scaled for the norms, windows over the data axis."""
        embed = peer.embed if self.config.peer else type(self.head).embed
        x = embed(self.head, tokens) * self.config.features**0.5
        return jax.lax.with_sharding_constraint(x, P("data", None, None))

    def loss(self, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        """Return the loss of every label, [batch, length]; 0 for padding."""
        features, z_loss = self(tokens), self.config.z_loss
        if self.config.peer:
            return peer.loss(self.head, features, labels, ignore_index=IGNORED, z_loss=z_loss)
        # On a mesh each device processes its own classes: no table is gathered.
        axis = "model" if "model" in jax.sharding.get_abstract_mesh().axis_names else None
        return self.head.loss(features, labels, ignore_index=IGNORED, z_loss=z_loss, axis_name=axis)

    def cache(self, batch: int, places: int) -> list[Cache]:
        """Return an empty cache for `places` positions."""
        shape = (batch, places, self.config.key_heads, self.config.width)
        empty = jnp.zeros(shape, self.config.dtype)
        return [Cache(empty, empty) for _ in self.blocks]

    def cached(
        self, tokens: jax.Array, cache: list[Cache], start: int | jax.Array
    ) -> tuple[jax.Array, list[Cache]]:
        """Return the features of tokens [batch, n] from position `start` on, and the new cache."""
        x, filled = self.embed(tokens), []
        for block, old in zip(self.blocks, cache, strict=True):
            x, new = block.cached(x, old, start)
            filled.append(new)
        return self.norm(x), filled
