"""Right answers for thousands of rows at once: numpy in float64, sorting and bisection.

Each of these has the classes on the last axis and one parameter a row, of shape [rows, 1]. Nothing
is shared with the library. A class is excluded by the score −∞.
"""

import numpy as np
from numpy.typing import ArrayLike

IN_CACHE = 400  # rows bisected together; all ten thousand take twice the time


def capped(z, alpha, total: ArrayLike = 1.0, upper: ArrayLike = np.inf) -> np.ndarray:
    """min(u, [1 + (α−1)(z − τ)]₊^{1/(α−1)}) with Σ p = total.

    Bisected is the log-mass of one class that is known to have some: the first, from the top, where
    the caps so far fill the total; for α > 2, where p is steep, the lowest with mass.
    """
    z = np.asarray(z, np.float64)
    alpha, total = (np.broadcast_to(x, (len(z), 1)).astype(float) for x in (alpha, total))
    upper = np.where(z > -np.inf, np.broadcast_to(np.minimum(upper, total), z.shape), 0)
    if len(z) > IN_CACHE:
        blocks = zip(*(_blocks(x) for x in (z, alpha, total, upper)), strict=True)
        return np.concatenate([capped(*block) for block in blocks])
    a = alpha - 1
    order = np.argsort(-z, axis=-1, kind="stable")
    ordered, caps = (np.take_along_axis(x, order, -1) for x in (z, upper))
    pivot = _at(ordered, (np.cumsum(caps, -1) < total).sum(-1, keepdims=True))
    steep = (a > 1)[:, 0]
    if steep.any():
        pivot[steep] = _edge(*(x[steep] for x in (z, ordered, a, upper, total)))
    v = z - pivot

    def masses(level):
        return np.minimum(upper, _masses(v, a, level))

    high = np.log(np.max(upper, -1, keepdims=True)) + 1e-9
    return masses(_bisect(lambda x: masses(x).sum(-1, keepdims=True) < total, high - 100, high))


def entmax(z, alpha) -> np.ndarray:
    """[1 + (α−1)(z − τ)]₊^{1/(α−1)} with Σ p = 1."""
    return capped(z, alpha)


def topk_sigmoid(z, k) -> np.ndarray:
    """σ(z − τ) with Σ p = k, bisected in the distance of τ from the score of rank ⌈k⌉.

    Of a far row σ is too near 1 for its sum to tell anything, but not so the deficits 1 − σ.
    """
    z = np.asarray(z, np.float64)
    rank = np.ceil(k).astype(int)
    pivot = _at(-np.sort(-z, axis=-1), rank - 1)
    v = z - pivot
    first = np.argsort(np.argsort(-z, axis=-1, kind="stable"), axis=-1) < rank

    def enough(shift):
        x = v + shift
        below = np.where(first, 0, _sigmoid(x)).sum(-1, keepdims=True)
        return below + (rank - k) < np.where(first, _sigmoid(-x), 0).sum(-1, keepdims=True)

    reach = 50 + np.where(z > -np.inf, np.abs(v), 0).max(-1, keepdims=True)
    return _sigmoid(v + _bisect(enough, -reach, reach))


def normmax(z, alpha) -> np.ndarray:
    """arg max ⟨p, z⟩ − ‖p‖_α: p ∝ [z − μ]₊^{1/(α−1)} where Σ [z − μ]₊^{α/(α−1)} = 1."""
    v = np.asarray(z, np.float64)
    v = v - v.max(-1, keepdims=True)

    def power(mu, exponent):
        t = np.maximum(v - mu, 0)
        return np.where(t > 0, np.where(t > 0, t, 1) ** exponent, 0)

    conjugate = alpha / (alpha - 1)
    low = np.full_like(v[:, :1], -1)
    mu = _bisect(lambda mu: power(mu, conjugate).sum(-1, keepdims=True) > 1, low, 0 * low)
    q = power(mu, 1 / (alpha - 1))
    return q / q.sum(-1, keepdims=True)


def pulled_back(p, alpha, cotangent, upper: ArrayLike = np.inf) -> np.ndarray:
    """s (w − Σ s w/Σ s), the transposed Jacobian at w, s = p^(2−α) strictly between 0 and u."""
    s = _slope(p, alpha, upper)
    return s * (cotangent - _over(s * cotangent, s))


def entropy(p, alpha) -> np.ndarray:
    """−Ω_α(p), with a size-1 axis."""
    positive = np.where(p > 0, p, 1)
    a = np.where(alpha == 1, 1, alpha - 1)
    bent = np.where(alpha == 1, np.log(positive), np.expm1(a * np.log(positive)) / a)
    return -(np.where(p > 0, p * bent, 0)).sum(-1, keepdims=True) / alpha


def _blocks(x):
    return np.array_split(x, -(-len(x) // IN_CACHE))


def _masses(v, a, level):
    """p of scores that are v above a class with this log-mass."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        some = np.where(a == 0, 1, a)
        base = np.where(v == -np.inf, np.where(a > 0, 0, np.inf), np.exp(some * level) + some * v)
        bent = np.log(np.maximum(base, 0)) / some
        return np.exp(np.minimum(np.where(a == 0, level + v, bent), 700))


def _edge(z, ordered, a, upper, total):
    """Find the lowest score with mass: the last where those above have less than the total."""
    low, high = (np.full((len(z), 1), i) for i in (0, z.shape[-1]))
    while (high - low > 1).any():
        middle = (low + high) // 2
        edge = _at(ordered, middle)
        v = np.where(z > edge, z - np.where(edge > -np.inf, edge, 0), 0)
        p = np.where(v > 0, np.minimum(upper, (a * np.maximum(v, 0)) ** (1 / a)), 0)
        inside = (p.sum(-1, keepdims=True) < total) & (edge > -np.inf)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return _at(ordered, low)


def _slope(p, alpha, upper):
    moves = (p > 0) & (p < upper)
    return np.where(moves, np.where(moves, p, 1) ** (2 - alpha), 0)


def _over(x, s):
    weight = s.sum(-1, keepdims=True)
    return x.sum(-1, keepdims=True) / np.where(weight > 0, weight, 1)


def _sigmoid(x):
    near = np.exp(-np.abs(x))
    return np.where(x > 0, 1, near) / (1 + near)


def _at(x, index):
    return np.take_along_axis(x, np.minimum(index, x.shape[-1] - 1), -1)


def _bisect(more, low, high):
    """Where `more` turns from True to False."""
    for _ in range(64):
        middle = (low + high) / 2
        above = more(middle)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2
