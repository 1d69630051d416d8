"""The right answers to sixty digits, with bounds on the effect of rounding.

p_i = min(u_i, q_i link(y_i − τ)) with Σ p = total is solved by bracketing τ. The masses of the
classes that are not nearly full, and the deficits u − p of those that are, are summed apart, since
no number of digits tells 1 − e^(−1000) from 1. Nothing is shared with the library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from mpmath import mp, mpf

DIGITS = 60
Row = list[mpf]


@dataclasses.dataclass(frozen=True)
class Link:
    """The inverse of a marginal.

    Attributes:
        link: p of t.
        rest: 1 − p, where p is bounded by 1.
        low, high: t with p surely below 1/1000, and t with p above 1000 or almost 1.
        digits: how many more are needed, since p leaves zero with infinite slope.
        value: ω, 0 at 0 and at 1.
    """

    link: Callable[[mpf], mpf]
    rest: Callable[[mpf], mpf] | None = None
    low: float = -8.0
    high: float = 8.0
    digits: int = 0
    value: Callable[[mpf], mpf] = lambda p: p * mp.log(p) if p > 0 else mpf(0)


def tsallis(alpha: float) -> Link:
    if alpha == 1:
        return Link(mp.exp)
    a = mpf(alpha) - 1

    def link(t):
        base = 1 + a * t
        return base ** (1 / a) if base > 0 else (mpf(0) if a > 0 else mp.inf)

    def value(p):
        return p * (p**a - 1) / (a * (a + 1)) if p > 0 else mpf(0)

    if a < 0:
        return Link(link, low=((mpf(1) / 1000) ** a - 1) / a, high=-1 / a, value=value)
    high = (mpf(1000) ** a - 1) / a
    return Link(link, low=-1 / a, high=high, digits=int(25 * max(a - 1, 0)), value=value)


def _sigmoid(t):
    return 1 / (1 + mp.exp(-t))


def _laplace(t):
    return mp.exp(t) / 2 if t < 0 else 1 - mp.exp(-t) / 2


def elastic(strength: float) -> Link:
    def link(t):
        """w + log w = t + log λ for w = λp, by Newton's steps in log w."""
        s = t + mp.log(strength)
        x = s if s < 1 else mp.log(s)
        for _ in range(100):
            w = mp.exp(x)
            step = (s - w - x) / (1 + w)
            x += step
            if abs(step) < mp.eps * max(1, abs(x)) * 4:
                break
        return mp.exp(x) / strength

    return Link(
        link, high=8 + 1000 * strength, value=lambda p: _xlogx(p) + strength * p * (p - 1) / 2
    )


def _bose(t):
    return 1 / mp.expm1(-2 * t) if t < 0 else mp.inf


def blend(kappa: float) -> Link:
    """κp + 2√p = t of tests/a_regularizer_of_a_stranger.py."""

    def link(t):
        return (t / (1 + mp.sqrt(1 + kappa * t))) ** 2 if t > 0 else mpf(0)

    def value(p):
        return kappa * p * (p - 1) / 2 + mpf(4) / 3 * (p * mp.sqrt(p) - p)

    return Link(link, low=0, high=1000 * kappa + 2 * 1000**0.5, value=value)


def _xlogx(x):
    return x * mp.log(x) if x > 0 else mpf(0)


def _of_laplace(p):
    m = min(p, 1 - p)
    return (m * mp.log(2 * m) if m > 0 else 0) - m


def _jensen_shannon(p):
    return (_xlogx(p) - _xlogx(1 + p)) / 2 + p * mp.log(2)


FERMI = Link(_sigmoid, lambda t: _sigmoid(-t), value=lambda p: _xlogx(p) + _xlogx(1 - p))
LAPLACE = Link(_laplace, lambda t: _laplace(-t), value=_of_laplace)
BOSE = Link(_bose, low=-4.0, high=0, value=_jensen_shannon)


@dataclasses.dataclass(frozen=True)
class Solution:
    """The solution of one row: p, and bounds for rounded computation."""

    p: Row
    least: Row
    most: Row


def exact(x) -> Row:
    return [mpf(float(v)) for v in x]


def solution(
    link: Link, y: Row, noise: Row, eps: float, total=1, prior: Row | None = None, upper=None,
    digits: int = DIGITS,
) -> Solution:  # fmt: skip
    """p of the scores y, and its bounds where y is known to ± noise and masses to a factor 1 ± ε.

    The argument of the link, y − τ, is known to ε too.
    p_i rises with its own score and falls with the threshold, which rises with every score and
    every mass. So the bounds are those of the two extreme thresholds.
    """
    with mp.workdps(digits + link.digits):
        q = prior or [mpf(1)] * len(y)
        u = [mp.inf] * len(y) if upper is None else list(upper)
        if link.rest is not None:
            u = [min(a, b) for a, b in zip(u, q, strict=True)]
        p, tau = _solve(link, y, q, u, mpf(total), None, mpf(0))
        full = [a < mp.inf and x > a / 2 for x, a in zip(p, u, strict=True)]
        noise = [max(d, eps * abs(x - tau)) for d, x in zip(noise, y, strict=True)]
        up = [a + d for a, d in zip(y, noise, strict=True)]
        down = [a - d for a, d in zip(y, noise, strict=True)]
        _, highest = _solve(link, up, q, u, mpf(total), full, mpf(eps))
        _, lowest = _solve(link, down, q, u, mpf(total), full, -mpf(eps))
        least, most = (
            [
                _rounded(min(b, a * link.link(x - t)), e)
                for a, b, x in zip(q, u, scores, strict=True)
            ]
            for scores, t, e in (
                (down, max(tau, highest), -mpf(eps)),
                (up, min(tau, lowest), mpf(eps)),
            )
        )
        return Solution(p, least, most)


def threshold(link: Link, y: Row, total=1, prior: Row | None = None) -> mpf:
    """τ, at the digits of the caller; of a bounded link no class exceeds its prior."""
    q = prior or [mpf(1)] * len(y)
    u = [mp.inf] * len(y) if link.rest is None else q
    return _solve(link, y, q, u, mpf(total), None, mpf(0))[1]


def _rounded(p, eps):
    """p moved by a relative ε, and by as much for every 8 of its exponent: powers are e^(log p)."""
    return p * (1 + eps * (1 - mp.log(p) / 8)) if 0 < p < 1 else p * (1 + eps)


def escort(of: Solution, alpha: mpf) -> Solution:
    """p ∝ q^(1/α)."""
    p, least, most = ([x ** (1 / alpha) for x in xs] for xs in (of.p, of.least, of.most))
    return Solution(
        [x / sum(p) for x in p], [x / sum(most) for x in least], [x / sum(least) for x in most]
    )


def _solve(link, y, q, u, total, full, tilt):
    """Solve for p and τ so that the masses, times 1 + tilt, equal the missing mass."""

    def masses(tau):
        return [min(b, a * link.link(x - tau)) for a, b, x in zip(q, u, y, strict=True)]

    def gap(tau):
        p = masses(tau)
        counted = full or [b < mp.inf and x > b / 2 for x, b in zip(p, u, strict=True)]
        room = below = mpf(0)
        left = total
        for x, a, b, s, is_full in zip(p, q, u, y, counted, strict=True):
            if not is_full:
                below += x
                continue
            left -= b
            if link.rest is not None:
                room += max(b - a + a * link.rest(s - tau), 0)
            else:
                room += b - x
        below, room = below + max(-left, 0), room + max(left, 0)
        return below * (1 + tilt) - room

    some = [x for x, a in zip(y, q, strict=True) if a > 0]
    low, high = min(some) - link.high - 1, max(some) - link.low + 1
    while gap(low) < 0:
        low -= 2 * (max(some) - low) + 1
    while gap(high) > 0:
        high += 2 * (high - min(some)) + 1
    return _between(gap, masses, low, high)


def _between(gap, masses, low, high):
    """Illinois' rule, and a bisection where it does not halve the bracket."""
    at_low, at_high = gap(low), gap(high)
    least = mp.eps * max(abs(low), abs(high), 1) * 4
    tau, side = low, 0
    for count in range(2000):
        if at_low == 0 or at_high == 0:
            tau = low if at_low == 0 else high
            break
        width = high - low
        if width <= least:
            break
        tau = (low + high) / 2
        if count % 3 and mp.inf not in (abs(at_low), abs(at_high)):
            tau = low + width * at_low / (at_low - at_high)
            if not low < tau < high:
                tau = (low + high) / 2
        here = gap(tau)
        if here > 0:
            low, at_low = tau, here
            at_high, side = (at_high / 2 if side > 0 else at_high), 1
        elif here < 0:
            high, at_high = tau, here
            at_low, side = (at_low / 2 if side < 0 else at_low), -1
        else:
            break
    return masses(tau), tau


def spread(y: Row, eps: float, anchor: mpf | None = None) -> Row:
    """The rounding of scores that are measured from an anchor, the largest one if not given."""
    top = max(y) if anchor is None else anchor
    return [eps * abs(x - top) for x in y]


def misfits(p: Sequence[float], right: Solution, tiny: float) -> list[int]:
    """Find the classes with p out of bounds; below the normal numbers any small p is accepted."""
    return [
        i
        for i, (x, least, most) in enumerate(zip(exact(p), right.least, right.most, strict=True))
        if not (x <= max(most, tiny) and (x >= least or least < tiny))
    ]
