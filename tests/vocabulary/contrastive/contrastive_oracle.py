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


def labelled(z, labels, same="positive", exclude_self=False, alpha=1.0, counted=None):
    """The losses of rows of scores [n, keys], row by row; labels are those of keys."""
    n, keys = z.shape
    counted = np.ones(n, bool) if counted is None else counted
    takes_part = np.concatenate([counted, np.ones(keys - n, bool)])
    losses = np.zeros(n)
    for i in np.flatnonzero(counted):
        alike = (labels == labels[i]) & (labels[i] >= 0) & takes_part
        own = np.arange(keys) == i
        seen, positive = takes_part.copy(), alike | own
        if exclude_self:
            seen &= ~own
            positive &= ~own
        if same == "ignore":
            seen &= ~alike | own
            positive = own
        if positive.any():
            losses[i] = _even(z[i, seen], positive[seen], alpha)
    return losses


def _even(z, positive, alpha):
    """Ω*(z) + Ω(y) − ⟨y, z⟩, y even over the positives; at α = 1 without Ω(y)."""
    y = positive / WIDE(positive.sum())
    if alpha == 1:
        return oracles.logsumexp(z) - (y * z).sum()
    p = oracles.entmax(z, alpha)

    def omega(p):
        return ((p**alpha).sum() - 1) / (alpha * (WIDE(alpha) - 1))

    return (p * z).sum() - omega(p) + omega(y) - (y * z).sum()


def labelled_sigmoid(z, labels, same="positive", exclude_self=False, counted=None):
    n, keys = z.shape
    counted = np.ones(n, bool) if counted is None else counted
    takes_part = np.concatenate([counted, np.ones(keys - n, bool)])
    losses = np.zeros(n)
    for i in np.flatnonzero(counted):
        alike = (labels == labels[i]) & (labels[i] >= 0)
        own = np.arange(keys) == i
        seen = takes_part & ~(own if exclude_self else np.zeros(keys, bool))
        positive = own if same == "ignore" else alike | own
        if same == "ignore":
            seen &= ~alike | own
        losses[i] = np.logaddexp(0, np.where(positive, -z[i], z[i]))[seen].sum()
    return losses
