"""Distil from hidden states, and from top-k log-probabilities: python -m examples.distillation."""

import jax
import jax.numpy as jnp
import optax

import jsoftmax as js

CLASSES, TOKENS, STEPS, TEMPERATURE, K = 2048, 256, 60, 2.0, 16


def init(key, width):
    """Initialise a small next-token model: a tied embedding table and a mixing matrix."""
    both = jax.random.normal(key, (CLASSES + width, width))
    return {"table": both[:CLASSES], "mix": both[CLASSES:] / width}


def hidden(params, tokens):
    """Return hidden states; each depends on its own token only."""
    return jnp.tanh(params["table"][tokens] @ params["mix"])


def loss(student, teacher, tokens, direction="forward"):
    """Return T² times the mean divergence of both predictions at temperature T."""
    models = [x for m in (teacher, student) for x in (hidden(m, tokens), m["table"])]
    how = {"temperature": TEMPERATURE, "class_axis_p": 0, "class_axis_q": 0}
    return TEMPERATURE**2 * js.linear_kl_divergence(*models, direction=direction, **how).mean()


def written(teacher, tokens):
    """Return the best k classes of the teacher and their log-probabilities, as for a file."""
    h, w = hidden(teacher, tokens), teacher["table"]
    how = {"temperature": TEMPERATURE, "class_axis": 0}
    best = js.linear_topk(h, w, K, **how)
    first = js.linear_log_prob(h, w, best.classes[..., 0], **how)
    return best.classes, best.values - best.values[..., :1] + first[..., None]


def loss_from_topk(student, ids, log_probs, tokens):
    """Return the same loss over k + 1 events: k classes, and all the rest together."""
    h, how = hidden(student, tokens), {"temperature": TEMPERATURE, "class_axis": 0}
    each = js.linear_kl_divergence_from_topk(h, student["table"], ids, log_probs, **how)
    return TEMPERATURE**2 * each.mean()


if __name__ == "__main__":
    teacher, tokens = init(jax.random.key(0), 64), jnp.arange(TOKENS)
    for name, of, given in (
        ("hidden states", loss, (teacher, tokens)),
        (f"top {K}", loss_from_topk, (*jax.jit(written)(teacher, tokens), tokens)),
    ):
        student, optimizer = init(jax.random.key(1), 32), optax.adam(1e-2)
        state, step = optimizer.init(student), jax.jit(jax.value_and_grad(of))
        for i in range(STEPS):
            value, slopes = step(student, *given)
            updates, state = optimizer.update(slopes, state)
            student = optax.apply_updates(student, updates)
            if i % 20 == 0 or i == STEPS - 1:
                print(f"{name}, step {i:3d}  loss {value:.4f}")
