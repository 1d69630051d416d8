"""The textbook formulas of the losses, with enough digits for every difference.

Everything works on one row, a sequence of floats, and shares nothing with the library.
"""

import functools

import mpmath as mp

DIGITS = 60


def _in_many_digits(function):
    """Run `function` on a row in high precision, once for the same arguments."""

    @functools.cache
    def cached(*rows, alpha=1.0, **options):
        # A class with p = 1e-16 is 1e-16^(α−1) from the edge of the support.
        finite = alpha if alpha < 10 else 1.0
        with mp.workdps(max(DIGITS, int(16 * finite))):
            rows = ([mp.mpf(x) for x in row] for row in rows)
            return function(*rows, alpha=alpha, **options)

    def on_rows(*rows, **options):
        return cached(*(tuple(float(x) for x in row) for row in rows), **options)

    return on_rows


def _bisect(falling, low, high):
    for _ in range(int(3.5 * mp.mp.dps)):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _positive(x):
    """Return [x]₊, 0 for a residue of bisection: a root would enlarge it."""
    return x if x > mp.mpf(10) ** (5 - mp.mp.dps) else mp.mpf(0)


def _link(t, a):
    """[1 + a t]₊^(1/a), at most 1."""
    if t >= 0:
        return mp.mpf(1)
    return mp.exp(t) if a == 0 else _positive(1 + a * t) ** (1 / a)


def _entmax(z, alpha, k):
    if alpha == mp.inf:
        kept = sorted(z)[-k]
        share = mp.mpf(k - sum(x > kept for x in z)) / sum(x == kept for x in z)
        return [mp.mpf(x > kept) if x != kept else share for x in z]
    a = mp.mpf(alpha) - 1
    # At this distance above the largest score, n equal scores would have the mass one.
    n = mp.mpf(len(z))
    above = mp.log(n) if a == 0 else (1 - n**-a) / a
    tau = _bisect(lambda tau: sum(_link(x - tau, a) for x in z) - k, min(z), max(z) + above)
    return [_link(x - tau, a) for x in z]


def _omega(p, alpha):
    """Σ ω(p), which is (Σ p^α − 1)/(α(α−1)) for a distribution and 0 for a k-hot vector."""
    if alpha == mp.inf:
        return mp.mpf(0)
    if alpha == 1:
        return sum(x * mp.log(x) for x in p if x > 0)
    alpha = mp.mpf(alpha)
    return sum(x**alpha - x for x in p if x > 0) / (alpha * (alpha - 1))


def _normmax(z, alpha):
    if alpha == mp.inf:  # Σ (z − μ)₊ = 1, and equal shares
        mu = _bisect(lambda mu: sum(max(x - mu, 0) for x in z) - 1, min(z) - 1, max(z))
        support = [mp.mpf(_positive(x - mu) > 0) for x in z]
        return [x / sum(support) for x in support]
    alpha = mp.mpf(alpha)
    ratio = alpha / (alpha - 1)
    mu = _bisect(lambda mu: sum(max(x - mu, 0) ** ratio for x in z) - 1, min(z) - 1, max(z))
    p = [_positive(x - mu) ** (1 / (alpha - 1)) for x in z]
    return [x / sum(p) for x in p]


def _norm(p, alpha):
    if alpha == mp.inf:
        return max(p)
    return sum(x ** mp.mpf(alpha) for x in p) ** (1 / mp.mpf(alpha))


def _dot(p, z):
    return sum(x * y for x, y in zip(p, z, strict=True) if x != 0)


@_in_many_digits
def entmax(z, *, alpha, k=1):
    """argmax ⟨p, z⟩ − Ω(p) over 0 ≤ p ≤ 1, Σ p = k."""
    return _entmax(z, alpha, k)


@_in_many_digits
def entmax_loss(z, y, *, alpha, k=1):
    """Ω*(z) + Ω(y) − ⟨y, z⟩."""
    p = entmax(z, alpha=alpha, k=k)
    return _dot(p, z) - _omega(p, alpha) + _omega(y, alpha) - _dot(y, z)


@_in_many_digits
def cross_entropy(z, y, *, alpha=1.0):
    """Σ y (log Σ exp z − z)."""
    level = mp.log(sum(mp.exp(x) for x in z))
    return sum(target * (level - x) for x, target in zip(z, y, strict=True) if target != 0)


@_in_many_digits
def normmax(z, *, alpha):
    """argmax ⟨p, z⟩ − ‖p‖_α over the simplex."""
    return _normmax(z, alpha)


@_in_many_digits
def normmax_loss(z, y, *, alpha):
    """max (⟨p, z⟩ − ‖p‖) + ‖y‖ − ⟨y, z⟩."""
    p = normmax(z, alpha=alpha)
    return _dot(p, z) - _norm(p, alpha) + _norm(y, alpha) - _dot(y, z)


@_in_many_digits
def entmax_slope(p, y, *, alpha):
    """Compute ∂L/∂α = ∂Ω(y) − ∂Ω(p), without ṗ since p is the maximiser."""
    return _slope(_omega, p, y, alpha)


@_in_many_digits
def normmax_slope(p, y, *, alpha):
    """∂‖y‖ − ∂‖p‖, with respect to α."""
    return _slope(_norm, p, y, alpha)


def _slope(size, p, y, alpha):
    if alpha == mp.inf:
        return mp.mpf(0)
    step = mp.mpf(10) ** -20
    ahead, behind = mp.mpf(alpha) + step, mp.mpf(alpha) - step
    change = (size(y, ahead) - size(y, behind)) - (size(p, ahead) - size(p, behind))
    return change / (2 * step)
