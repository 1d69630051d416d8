"""Group relative policy optimisation (GRPO) without logits: python -m examples.grpo."""

import jax
import jax.numpy as jnp
import optax

from jsoftmax import linear_categorical, linear_log_prob

CLASSES, WIDTH, LENGTH, GROUPS, ANSWERS, ROUNDS = 1024, 32, 8, 8, 16, 25


def init(key):
    """Initialise a small next-token model: a tied embedding table and a mixing matrix."""
    both = jax.random.normal(key, (CLASSES + WIDTH, WIDTH)) / WIDTH**0.5
    return {"table": both[:CLASSES], "mix": both[CLASSES:]}


def hidden(params, tokens):
    """Return hidden states; each depends on its own token only."""
    return jnp.tanh(params["table"][tokens] @ params["mix"])


def draw(key, params, prompts):
    """Draw tokens [groups, answers, 1 + length]; the first is the prompt."""

    def step(token, key):
        token = linear_categorical(key, hidden(params, token), params["table"], class_axis=0)
        return token, token

    first = jnp.broadcast_to(prompts[:, None], (GROUPS, ANSWERS))
    more = jax.lax.scan(step, first, jax.random.split(key, LENGTH))[1]
    return jnp.moveaxis(jnp.concatenate([first[None], more]), 0, -1)


def log_probs(params, tokens):
    """Return log p of every token after the first."""
    h, labels = hidden(params, tokens[..., :-1]), tokens[..., 1:]
    return linear_log_prob(h, params["table"], labels, class_axis=0)


def loss(params, tokens, old, reference, advantages, clip=0.2, beta=0.02):
    """Return the mean of −min(r A, clip(r) A) + β KL to the reference (k3 estimate) over tokens."""
    log_p = log_probs(params, tokens)
    ratio, gap, a = jnp.exp(log_p - old), reference - log_p, advantages[..., None]
    gain = jnp.minimum(ratio * a, jnp.clip(ratio, 1 - clip, 1 + clip) * a)
    return jnp.mean(beta * (jnp.expm1(gap) - gap) - gain)


if __name__ == "__main__":
    params, optimizer = init(jax.random.key(0)), optax.adam(2e-2)
    reference, state, step = params, optimizer.init(params), jax.jit(jax.grad(loss))
    for i, key in enumerate(jax.random.split(jax.random.key(1), ROUNDS)):
        tokens = jax.jit(draw)(key, params, jnp.arange(GROUPS))
        reward = (tokens[..., 1:] % 2 == 0).mean(-1)  # the share of even tokens
        a = (reward - reward.mean(-1, keepdims=True)) / (reward.std(-1, keepdims=True) + 1e-6)
        old, ref = log_probs(params, tokens), log_probs(reference, tokens)
        for _ in range(2):  # steps per round, so that the ratio is not always 1
            updates, state = optimizer.update(step(params, tokens, old, ref, a), state)
            params = optax.apply_updates(params, updates)
        print(f"round {i:3d}  reward {reward.mean():.3f}")
