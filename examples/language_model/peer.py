"""The same model with `jax.nn` and optax alone, for `--peer`: a baseline for loss and speed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def attend(query, key, value, *, mask=None, is_causal: bool = False) -> jax.Array:
    """Apply softmax attention."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=is_causal)


def embed(head, tokens: jax.Array) -> jax.Array:
    """Return rows of the class table."""
    return jnp.take(head.kernel[...].astype(head.dtype), tokens, axis=0)


def loss(head, features: jax.Array, labels: jax.Array, *, ignore_index: int, z_loss: float):
    """Return cross-entropy of whole rows of logits, in float32, with the z-loss penalty."""
    logits = jnp.dot(
        features, head.kernel[...].astype(features.dtype).T, preferred_element_type=jnp.float32
    )
    known = labels != ignore_index
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
    if z_loss:
        losses = losses + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return jnp.where(known, losses, 0)
