"""Contrastive losses in numpy, of the whole array of scores: nothing is shared with the library."""

import numpy as np

from tests import oracles

WIDE = np.longdouble


def scores(q, k, temperature=1.0, normalize=False):
    q, k = (np.asarray(x, WIDE) for x in (q, k))
    if normalize:
        q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True)) for x in (q, k))
    return q @ k.T / WIDE(temperature)


def one_way(z, alpha):
    """Ω*(z) + Ω(y) − z_y for the label of the row's own number."""
    own = z[np.arange(len(z)), np.arange(len(z))]
    if alpha == 1:
        return oracles.logsumexp(z) - own
    p = oracles.entmax(z, alpha)
    omega = ((p**alpha).sum(-1) - 1) / (alpha * (WIDE(alpha) - 1))
    return (p * z).sum(-1) - omega - own


def contrastive(q, k, alpha=1.0, symmetric=True, **options):
    z = scores(q, k, **options)
    loss = one_way(z, alpha)
    return ((loss + one_way(z.T, alpha)) / 2 if symmetric else loss).astype(float)


def sigmoid(q, k, bias=0.0, **options):
    z = scores(q, k, **options) + WIDE(bias)
    y = -np.ones_like(z)
    np.fill_diagonal(y, 1)
    return np.logaddexp(0, -y * z).sum(-1).astype(float)
