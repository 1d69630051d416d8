"""The right answers, in float64 numpy and by bisection: nothing here is shared with the library."""

import numpy as np


def entmax(logits, alpha: float) -> np.ndarray:
    """α-entmax of the last axis, for every α > 0; α = 1 is softmax, 2 sparsemax, ∞ arg max."""
    z = np.asarray(logits, np.float64)
    v = z - z.max(-1, keepdims=True)
    if alpha == 1:
        p = np.exp(v)
        return p / p.sum(-1, keepdims=True)
    if alpha == np.inf:
        return (v == 0) / (v == 0).sum(-1, keepdims=True)
    a = alpha - 1
    # By p_i^a = p_max^a + a v_i everything follows from p_max, which lies in [1/n, 1].
    p_max = _bisect(
        lambda p_max: _entries(p_max, v, a).sum(-1, keepdims=True) - 1,
        np.full_like(v[..., :1], 1 / z.shape[-1]),
        np.ones_like(v[..., :1]),
    )
    return _entries(p_max, v, a)


def softmax(logits) -> np.ndarray:
    """Softmax of the last axis."""
    return entmax(logits, 1)


def sparsemax(logits) -> np.ndarray:
    """The projection of the last axis on the simplex."""
    return entmax(logits, 2)


def normmax(logits, alpha: float) -> np.ndarray:
    """arg max ⟨p, z⟩ − ‖p‖_α over the simplex, for α > 1."""
    z = np.asarray(logits, np.float64)
    # p is proportional to q = [z − τ]₊^{1/(α−1)} where Σ q^α = 1.
    top = z.max(-1, keepdims=True)
    tau = _bisect(
        lambda tau: 1 - (np.maximum(z - tau, 0) ** (alpha / (alpha - 1))).sum(-1, keepdims=True),
        top - 1,
        top,
    )
    q = np.maximum(z - tau, 0) ** (1 / (alpha - 1))
    return q / q.sum(-1, keepdims=True)


def budget(logits, k: float) -> np.ndarray:
    """The projection of the last axis on 0 ≤ p ≤ 1, Σp = k."""
    z = np.asarray(logits, np.float64)
    tau = _bisect(
        lambda tau: k - np.clip(z - tau, 0, 1).sum(-1, keepdims=True),
        z.min(-1, keepdims=True) - 1,
        z.max(-1, keepdims=True),
    )
    return np.clip(z - tau, 0, 1)


def gradient(logits, weights, alpha: float) -> np.ndarray:
    """The gradient of Σ w·entmax(z): s (w − Σ s w / Σ s), with s = p^{2−α} on the support."""
    s = _slope(entmax(logits, alpha), alpha)
    w = np.asarray(weights, np.float64)
    return s * (w - (s * w).sum(-1, keepdims=True) / s.sum(-1, keepdims=True))


def jacobian(logits, alpha: float) -> np.ndarray:
    """The Jacobian of one row, diag(s) − s sᵀ/Σs: also the Hessian of the loss."""
    s = _slope(entmax(logits, alpha), alpha)
    return np.diag(s) - np.outer(s, s) / s.sum()


def hessian(logits, weights, alpha: float, step: float = 1e-5) -> np.ndarray:
    """The Hessian of Σ w·entmax(z) for one row, by central differences of the gradient."""
    z = np.asarray(logits, np.float64)
    return np.stack(
        [
            (gradient(z + step * e, weights, alpha) - gradient(z - step * e, weights, alpha))
            / (2 * step)
            for e in np.eye(z.size)
        ]
    )


def d_alpha(logits, weights, alpha: float, step: float = 1e-4) -> np.ndarray:
    """The derivative of Σ w·entmax(z, α) in α, by central differences."""
    w = np.asarray(weights, np.float64)
    above, below = (entmax(logits, alpha + sign * step) for sign in (1, -1))
    return (w * (above - below)).sum() / (2 * step)


def logsumexp(logits) -> np.ndarray:
    """log Σ exp z over the last axis."""
    z = np.asarray(logits, np.float64)
    top = z.max(-1)
    return top + np.log(np.exp(z - top[..., None]).sum(-1))


def cross_entropy(logits, label: int) -> float:
    """−log p_label for one row, by log1p over the other classes."""
    z = np.asarray(logits, np.float64)
    others = np.delete(z, label) - z[label]
    top = max(others.max(), 0.0)
    return np.log1p(np.exp(others).sum()) if top < 30 else float(logsumexp(z) - z[label])


def loss(logits, label: int, alpha: float) -> float:
    """The Fenchel–Young loss of one row against a class: Ω*(z) − z_label, for α ≠ 1."""
    z = np.asarray(logits, np.float64)
    p = entmax(z, alpha)
    z = np.where(p > 0, z - z[label], 0)
    return p @ z + (1 - (p**alpha).sum()) / (alpha * (alpha - 1))


def attention(query, key, value, bias=0.0, mask=True, alpha: float = 1, cap=None) -> np.ndarray:
    """[..., T, N, H], [..., S, K, H], [..., S, K, V] → [..., T, N, V]; nothing seen: zeros."""
    q, k, v = (np.swapaxes(np.asarray(x, np.float64), -3, -2) for x in (query, key, value))
    k, v = (np.repeat(x, q.shape[-3] // x.shape[-3], axis=-3) for x in (k, v))
    with np.errstate(invalid="ignore"):  # unseen entries may be NaN or infinite
        z = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + bias
        z = np.where(mask, z if cap is None else cap * np.tanh(z / cap), -np.inf)
        blind = np.all(z == -np.inf, axis=-1, keepdims=True)
        p = np.where(blind, 0, entmax(np.where(blind, 0, z), alpha))
        mixed = np.where(p[..., None] == 0, 0, p[..., None] * v[..., None, :, :]).sum(-2)
    return np.swapaxes(mixed, -3, -2)


def by_differences(function, x, weights, step: float = 1e-6) -> np.ndarray:
    """The gradient of Σ w·function(x), by central differences."""
    x, w = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    moves = step * np.eye(x.size).reshape(x.size, *x.shape)
    slopes = [(w * (function(x + d) - function(x - d))).sum() / (2 * step) for d in moves]
    return np.reshape(slopes, x.shape)


def hessian_by_differences(function, x, weights, step: float = 1e-4) -> np.ndarray:
    """The Hessian of Σ w·function(x), by central differences of the gradient."""
    x = np.asarray(x, np.float64)
    moves = step * np.eye(x.size).reshape(x.size, *x.shape)

    def slope(x):
        return by_differences(function, x, weights)

    rows = [(slope(x + d) - slope(x - d)) / (2 * step) for d in moves]
    return np.reshape(rows, x.shape * 2)


def _entries(p_max: np.ndarray, v: np.ndarray, a: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(p_max**a + a * v, 0) ** (1 / a)


def _slope(p: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(p > 0, np.where(p > 0, p, 1) ** (2 - alpha), 0)


def _bisect(rising, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where a rising function crosses zero between `low` and `high`, row by row."""
    for _ in range(100):
        middle = (low + high) / 2
        above = rising(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
