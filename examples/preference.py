"""Direct preference optimisation (DPO) without logits: python -m examples.preference.

The log-probabilities of answers come from hidden states and the tied embedding table.
"""

import jax
import jax.numpy as jnp
import optax

from jsoftmax import linear_log_prob

CLASSES, WIDTH, LENGTH, PAIRS, STEPS = 4096, 32, 16, 64, 60
IGNORED = -1  # the label of prompt tokens and padding


def init(key):
    """Initialise a small causal model: an embedding table, and a mixing matrix."""
    one, two = jax.random.split(key)
    table = jax.random.normal(one, (CLASSES, WIDTH)) / WIDTH**0.5
    return {"table": table, "mix": jax.random.normal(two, (WIDTH, WIDTH)) / WIDTH**0.5}


def hidden(params, tokens):
    """Return hidden states, each from the tokens up to its own: [pairs, length, width]."""
    seen = jnp.cumsum(params["table"][tokens], axis=1)
    return jnp.tanh(seen @ params["mix"])


def answer_log_prob(params, tokens, labels):
    """Return the log-probability of every answer: Σ log p of its tokens."""
    h, w = hidden(params, tokens), params["table"]
    return linear_log_prob(h, w, labels, class_axis=0, ignore_index=IGNORED).sum(-1)


def loss(params, reference, chosen, rejected, beta=0.5):
    """Return the mean of −log σ(β (log-ratio of the chosen answer − that of the rejected one))."""
    ratios = [
        answer_log_prob(params, *x) - answer_log_prob(reference, *x) for x in (chosen, rejected)
    ]
    return -jax.nn.log_sigmoid(beta * (ratios[0] - ratios[1])).mean()


def answers(key):
    """Draw tokens, and the labels that follow them; the first half is the prompt."""
    tokens = jax.random.randint(key, (PAIRS, LENGTH + 1), 0, CLASSES)
    labels = tokens[:, 1:].at[:, : LENGTH // 2].set(IGNORED)
    return tokens[:, :-1], labels


if __name__ == "__main__":
    params = reference = init(jax.random.key(0))
    chosen, rejected = answers(jax.random.key(1)), answers(jax.random.key(2))
    optimizer = optax.adam(1e-3)
    state, step = optimizer.init(params), jax.jit(jax.value_and_grad(loss))
    for i in range(STEPS):
        value, slopes = step(params, reference, chosen, rejected)
        updates, state = optimizer.update(slopes, state)
        params = optax.apply_updates(params, updates)
        if i % 10 == 0 or i == STEPS - 1:
            print(f"step {i:3d}  loss {value:.4f}")
