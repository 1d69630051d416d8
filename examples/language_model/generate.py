"""Generate text: prefill the cache with the prompt in one pass, then add one token at a time."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from examples.language_model.model import GPT


def generate(
    model: GPT, prompt: jax.Array, count: int, key: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """Continue prompts.

    Args:
        model: a trained model.
        prompt: tokens of shape [batch, n], n ≥ 1.
        count: how many tokens to add, at least 1.
        key: the key of the draws; token number t is drawn with `fold_in(key, t)`.
        temperature: temperature of the draws; 0 takes the likeliest token.

    Returns:
        The added tokens, int32 of shape [batch, count].
    """
    graph, state = nnx.split(model)
    return _generate(graph, state, prompt, count, key, temperature)


@partial(jax.jit, static_argnums=(0, 3, 5))
def _generate(graph, state, prompt, count, key, temperature):
    model = nnx.merge(graph, state)
    batch, length = prompt.shape

    def draw(features, number):
        key_of_token = jax.random.fold_in(key, number)
        token = model.head.sample(key_of_token, features[:, -1], temperature=temperature)
        return token.astype(jnp.int32)

    def one(carry, number):
        token, cache = carry
        features, cache = model.cached(token[:, None], cache, length + number - 1)
        token = draw(features, number)
        return (token, cache), token

    features, cache = model.cached(prompt, model.cache(batch, length + count), 0)
    first = draw(features, 0)
    _, rest = jax.lax.scan(one, (first, cache), jnp.arange(1, count))
    # Replicated, so that every process can read it.
    return jax.lax.with_sharding_constraint(jnp.concatenate([first[None], rest]).T, P())
