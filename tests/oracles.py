"""The right answers, in numpy and its widest floats: nothing is shared with the library.

Sparsemax and entmax-1.5 come from the closed forms that sorting gives; everything else from the
support that sorting gives and a bisection, on the probability that is the hardest to get.
"""

import numpy as np

WIDE = np.longdouble


def softmax(z) -> np.ndarray:
    """exp z / Σ exp z over the last axis."""
    weights = np.exp(_below_top(z))
    return weights / weights.sum(-1, keepdims=True)


def logsumexp(z) -> np.ndarray:
    """log Σ exp z over the last axis."""
    top = np.asarray(z, WIDE).max(-1)
    return top + np.log(np.exp(_below_top(z)).sum(-1))


def sparsemax(z) -> np.ndarray:
    """[z − τ]₊ by sorting: the support is the longest head with 1 + k z_(k) > Σ_{j≤k} z_(j)."""
    v = _below_top(z)
    ordered = -np.sort(-v, axis=-1)
    k = np.arange(1, v.shape[-1] + 1)
    total = np.cumsum(ordered, axis=-1)
    support = (1 + k * ordered > total).sum(-1, keepdims=True)
    tau = (np.take_along_axis(total, support - 1, -1) - 1) / support
    return np.maximum(v - tau, 0)


def entmax15(z) -> np.ndarray:
    """[z/2 − τ]₊² by sorting: on a head of length k, τ = mean − √((1 − k·variance)/k)."""
    v = np.maximum(_below_top(z), -9) / 2
    ordered = -np.sort(-v, axis=-1)
    k = np.arange(1, v.shape[-1] + 1)
    mean = np.cumsum(ordered, axis=-1) / k
    variance = np.cumsum(ordered**2, axis=-1) / k - mean**2
    taus = mean - np.sqrt(np.maximum((1 - k * variance) / k, 0))
    support = (taus <= ordered).sum(-1, keepdims=True)
    return np.maximum(v - np.take_along_axis(taus, support - 1, -1), 0) ** 2


def entmax(z, alpha: float) -> np.ndarray:
    """α-entmax of the last axis for any 0 < α ≤ ∞."""
    v = _below_top(z)
    if alpha == 1:
        return softmax(z)
    if alpha == np.inf:
        return (v == 0) / WIDE(1) / (v == 0).sum(-1, keepdims=True)
    a = WIDE(alpha) - 1
    # p_i^a = p_m^a + a (v_i − v_m) for every class m with mass: the largest, or, where the root is
    # so steep that it decides little about the others, the smallest. That is the last class such
    # that the classes above it have a total below one when it has none.
    base = np.zeros_like(v[..., :1])
    if a > 1:
        v = np.maximum(v, -1 - 1 / a)
        for i in range(v.shape[-1]):
            alone = _entries(v - v[..., i : i + 1], a, WIDE(0)).sum(-1, keepdims=True)
            base = np.where(alone < 1, np.minimum(base, v[..., i : i + 1]), base)
    smallest = _bisect(lambda p: _entries(v - base, a, p).sum(-1, keepdims=True) - 1, base)
    return _entries(v - base, a, smallest)


def capped(z, alpha: float, total: float = 1.0, upper=np.inf) -> np.ndarray:
    """min(u, [1 + (α−1)(z − τ)]₊^{1/(α−1)}) with Σ p = total, by bisection on τ."""
    v = _below_top(z)
    a = WIDE(alpha) - 1
    upper = np.broadcast_to(np.asarray(upper, WIDE), v.shape)

    def entries(tau):
        t = np.where(np.isneginf(v), -np.inf, v - tau)
        return np.minimum(upper, np.exp(_log_link(t, a)))

    low = np.where(np.isneginf(v), 0, v).min(-1, keepdims=True) - 1 - 1 / WIDE(alpha)
    high = np.zeros_like(low) + 60 * v.shape[-1]
    return entries(_bisect(lambda tau: total - entries(tau).sum(-1, keepdims=True), low, high))


def topk_sigmoid(z, k: float) -> np.ndarray:
    """σ(z − τ) with Σ p = k, by bisection on τ."""
    v = _below_top(z)

    def entries(tau):
        return 1 / (1 + np.exp(tau - v))

    low = np.where(np.isneginf(v), 0, v).min(-1, keepdims=True) - 60
    high = np.full_like(low, 60)
    return entries(_bisect(lambda tau: k - entries(tau).sum(-1, keepdims=True), low, high))


def normmax(z, alpha: float) -> np.ndarray:
    """arg max ⟨p, z⟩ − ‖p‖_α: p ∝ [z − μ]₊^{1/(α−1)} where Σ [z − μ]₊^{α/(α−1)} = 1."""
    v = _below_top(z)
    alpha = WIDE(alpha)
    conjugate = alpha / (alpha - 1)

    def excess(mu):
        return 1 - (np.maximum(v - mu, 0) ** conjugate).sum(-1, keepdims=True)

    t = np.maximum(v - _bisect(excess, np.full_like(v[..., :1], -1), np.zeros_like(v[..., :1])), 0)
    q = np.where(t > 0, np.where(t > 0, t, 1) ** (1 / (alpha - 1)), 0)
    return q / q.sum(-1, keepdims=True)


def entropy(p, alpha: float) -> np.ndarray:
    """−Ω_α(p) = (1 − Σ p^α)/(α(α−1)), Shannon's at α = 1, over the last axis."""
    p = np.asarray(p, WIDE)
    log_p = np.log(np.where(p > 0, p, 1))
    if alpha == np.inf:
        return np.zeros(p.shape[:-1])
    a = WIDE(alpha) - 1
    bent = log_p if a == 0 else np.expm1(a * log_p) / a
    return -(np.where(p > 0, p * bent, 0)).sum(-1) / alpha


def smoothmax(z, alpha: float) -> np.ndarray:
    """max ⟨p, z⟩ − Ω_α(p) over the simplex."""
    p = entmax(z, alpha)
    return np.where(p > 0, p * np.where(p > 0, z, 0), 0).sum(-1) + entropy(p, alpha)


def jacobian(p, alpha: float, upper=np.inf) -> np.ndarray:
    """diag(s) − s sᵀ/Σs for one row, s = p^(2−α) on the support and below the caps, 0 elsewhere."""
    p = np.asarray(p, WIDE)
    moves = (p > 0) & (p < upper)
    s = np.where(moves, np.where(moves, p, 1) ** (2 - WIDE(alpha)), 0)
    return np.diag(s) - np.outer(s, s) / max(s.sum(), np.finfo(WIDE).tiny)


def along_alpha(z, alpha: float, step: float = 1e-3) -> np.ndarray:
    """dp/dα by central differences of fourth order."""
    p = {n: entmax(z, alpha + n * step) for n in (-2, -1, 1, 2)}
    return (8 * (p[1] - p[-1]) - (p[2] - p[-2])) / (12 * WIDE(step))


def _below_top(z) -> np.ndarray:
    z = np.asarray(z, WIDE)
    return z - z.max(-1, keepdims=True)


def _log_link(t, a) -> np.ndarray:
    """log of [1 + a t]₊^(1/a), which is t at a = 0."""
    if a == 0:
        return t
    with np.errstate(divide="ignore"):
        return np.log1p(np.maximum(a * t, -1)) / a


def _entries(d, a, p) -> np.ndarray:
    """(p^a + a d)₊^(1/a), for |a| small too."""
    with np.errstate(divide="ignore", over="ignore"):
        if abs(a) < 0.1:
            return np.exp(np.log1p(np.maximum(np.expm1(a * np.log(p)) + a * d, -1)) / a)
        # p^a may underflow, which must not cost the class that has p itself its mass
        return np.where(d == 0, p, np.maximum(p**a + a * d, 0) ** (1 / a))


def _bisect(rising, low, high=None) -> np.ndarray:
    """Where a rising function crosses zero, row by row; between 0 and 1 if no bounds are given."""
    if high is None:
        low, high = np.zeros_like(low), np.ones_like(low)
    for _ in range(120):
        middle = (low + high) / 2
        above = rising(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
