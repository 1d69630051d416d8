"""Margins at the label in numpy, from angles: nothing is shared with the library."""

import numpy as np

WIDE = np.longdouble


def lowered(z, labels, margin=0.0, angular=0.0):
    """Lower the scores of labels in z of shape [n, K]; with an angle scores are cosines."""
    z, n = np.array(z, WIDE), np.arange(len(z))
    own = z[n, labels]
    if np.any(angular):
        theta = np.arccos(np.clip(own, -1, 1))
        own = np.where(
            theta + angular < np.pi, np.cos(theta + angular), own - angular * np.sin(angular)
        )
    z[n, labels] = own - margin
    return z


def cross_entropy(z, labels):
    """Compute −log p of the labels without a difference that includes their own mass."""
    n = np.arange(len(z))
    z = np.array(z, WIDE) - np.array(z, WIDE)[n, labels][:, None]
    z[n, labels] = -np.inf
    top = np.maximum(z.max(-1, keepdims=True), 0)
    others = np.exp(z - top).sum(-1)
    return np.where(
        top[:, 0] > 0, top[:, 0] + np.log(others + np.exp(-top[:, 0])), np.log1p(others)
    )
