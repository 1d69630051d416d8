"""Features, class tables and targets shared by the tests of linear losses; dense losses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jsoftmax import cross_entropy, entmax_loss

TOKENS, WIDTH, CLASSES = 7, 3, 11
SOFT_CAP, TEMPERATURE = 3.0, 1.3

rng = np.random.default_rng(0)
FEATURES = jnp.asarray(rng.normal(size=(TOKENS, WIDTH)))
KERNEL = jnp.asarray(rng.normal(size=(WIDTH, CLASSES)))
BIAS = jnp.asarray(rng.normal(size=CLASSES))
LABELS = rng.integers(0, CLASSES, TOKENS)
COUNTS = jnp.asarray(rng.normal(size=TOKENS))  # a weight a token, of either sign
WEIGHTS = jnp.asarray(rng.random(CLASSES))
SOME = rng.random(CLASSES) < 0.7
SOME[LABELS] = True

# Forward and backward in one block; in ragged blocks; for groups of tokens too.
BLOCKS = {"whole": (7, 11), "ragged": (3, 4), "grouped": (1, 5), "even": (4, 11)}


def scored(features, kernel, bias):
    """The logits themselves, capped and tempered."""
    z = features @ kernel + bias
    return SOFT_CAP * jnp.tanh(z / SOFT_CAP) / TEMPERATURE


def dense(alpha, **options):
    """(features, kernel, bias) → one loss a token, by way of the logits."""

    def losses(features, kernel, bias):
        z = scored(features, kernel, bias)
        if alpha is None:
            return cross_entropy(z, LABELS, **options)
        return entmax_loss(z, LABELS, alpha=alpha, **options)

    return losses


def total(losses):
    """Sum losses with distinct weights, so that each token shows."""
    return lambda *x: (COUNTS * losses(*x)).sum()


def assert_close(ours, theirs, rtol=1e-12, atol=1e-12):
    chex.assert_trees_all_close(ours, theirs, rtol=rtol, atol=atol)


def row_of(alpha, k=0):
    """A traced α a token, or a number."""
    return alpha if alpha is None or np.isscalar(alpha) else jnp.asarray(alpha)[:, None] + k


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()
