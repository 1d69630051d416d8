"""A small causal transformer over characters, with α-entmax attention of given or learned α."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

import jsoftmax as js

WIDTH, HEADS, LAYERS, CONTEXT = 64, 4, 2, 128


class Attention(nnx.Module):
    """Causal multi-head α-entmax attention.

    `alpha` is one number for all heads. Without one, each head learns its own between 1 and 2, as
    1 + sigmoid(a) from a = 0, like Correia et al. ("Adaptively sparse transformers", 2019).
    """

    def __init__(self, alpha: float | None, rngs: nnx.Rngs):
        self.projections = nnx.Linear(WIDTH, 3 * WIDTH, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.given = 1.0 if alpha is None else alpha
        self.a = None if alpha is not None else nnx.Param(jnp.zeros(HEADS))

    @property
    def alpha(self) -> float | Float[Array, " heads"]:
        """α of all heads, or of each."""
        return self.given if self.a is None else 1 + jax.nn.sigmoid(self.a[...])

    def __call__(self, x: Float[Array, "n t width"]) -> Float[Array, "n t width"]:
        q, k, v = self._heads(x)
        mixed = js.dot_product_attention(q, k, v, alpha=self.alpha, is_causal=True)
        return self.out(cast(jax.Array, mixed).reshape(x.shape))

    def shown(self, x: Float[Array, "n t width"]) -> tuple[Array, Array]:
        """Return the output, computed from explicit weights, and these: [n, heads, t, t]."""
        q, k, v = self._heads(x)
        p = js.attention_weights(q, k, alpha=self.alpha, is_causal=True)
        return self.out(jnp.einsum("nhts,nshw->nthw", p, v).reshape(x.shape)), p

    def _heads(self, x):
        heads = self.projections(x).reshape(*x.shape[:-1], 3, HEADS, WIDTH // HEADS)
        q, k, v = jnp.moveaxis(heads, -3, 0)
        return turned(q), turned(k), v


def turned(x: Float[Array, "n t heads width"]) -> Float[Array, "n t heads width"]:
    """Rotate pairs of features by angles proportional to the position.

    The product of a query and a key then depends on their distance.
    """
    half = x.shape[-1] // 2
    speeds = 1000 ** (-jnp.arange(half, dtype=x.dtype) / half)
    angles = jnp.arange(x.shape[1])[:, None, None] * speeds
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Layer(nnx.Module):
    """Attention, then two dense layers at every position, each with a residual connection."""

    def __init__(self, alpha: float | None, rngs: nnx.Rngs):
        self.before_attention = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = Attention(alpha, rngs)
        self.before_dense = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.wide = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: Float[Array, "n t width"]) -> Float[Array, "n t width"]:
        return self._dense(x + self.attention(self.before_attention(x)))

    def shown(self, x: Float[Array, "n t width"]) -> tuple[Array, Array]:
        """Return the output, and the weights of attention."""
        mixed, p = self.attention.shown(self.before_attention(x))
        return self._dense(x + mixed), p

    def _dense(self, x):
        return x + self.narrow(nnx.gelu(self.wide(self.before_dense(x))))


class Transformer(nnx.Module):
    """A transformer from character numbers to scores of the next character at every position."""

    def __init__(self, characters: int, alpha: float | None, rngs: nnx.Rngs):
        spread = nnx.initializers.normal(0.5)
        self.table = nnx.Embed(characters, WIDTH, embedding_init=spread, rngs=rngs)
        self.layers = nnx.List([Layer(alpha, rngs) for _ in range(LAYERS)])
        self.before_readout = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.readout = nnx.Linear(WIDTH, characters, rngs=rngs)

    def __call__(self, text: Int[Array, "n t"]) -> Float[Array, "n t characters"]:
        x = self.table(text)
        for layer in self.layers:
            x = layer(x)
        return self.readout(self.before_readout(x))

    def loss(self, text: Int[Array, "n t"]) -> Float[Array, ""]:
        """Return the mean −log p of every character except the first, in nats."""
        return js.cross_entropy(self(text[:, :-1]), text[:, 1:]).mean()

    def shown(self, text: Int[Array, "n t"]) -> tuple[Array, Array]:
        """Return the output, and all weights of attention: [layers, n, heads, t, t]."""
        x, weights = self.table(text), []
        for layer in self.layers:
            x, p = layer.shown(x)
            weights.append(p)
        return self.readout(self.before_readout(x)), jnp.stack(weights)

    def alphas(self) -> Float[Array, "layers heads"]:
        """α of every head."""
        found = [jnp.broadcast_to(layer.attention.alpha, HEADS) for layer in self.layers]
        return jnp.stack(found)
