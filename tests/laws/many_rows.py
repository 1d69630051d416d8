"""Ten thousand rows per setting, and the assertions on each of them.

Each row has a certificate, which needs no oracle: its sum, its bounds, its order, and one threshold
for all classes strictly between 0 and their caps. Then come the oracle's values and slopes.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests import oracles_by_bisection as oracles

ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class Rows:
    """Scores, with −∞ for excluded classes, a cotangent, and other arguments of functions.

    Attributes:
        z: the scores, [rows, classes].
        size: how many classes a row has, [rows, 1], as all that follow but the last.
        cotangent: the cotangent of the VJP, of the shape of `z`.
        alpha: α, in the dtype of `z`.
        total: Σ p.
        upper: the cap of each class.
        y: a distribution over the classes.
    """

    z: np.ndarray
    size: np.ndarray
    cotangent: np.ndarray
    alpha: np.ndarray
    total: np.ndarray
    upper: np.ndarray
    y: np.ndarray

    @property
    def eps(self) -> float:
        return float(np.finfo(self.z.dtype).eps)


@functools.lru_cache(8)
def rows_of(dtype, sizes, spreads, alphas, seed=0) -> Rows:
    """Rows that each draw a size, a spread and an α; there is neither cap nor budget yet."""
    rng = np.random.default_rng(seed)
    most = max(sizes)
    spread, size, alpha = (rng.choice(x, (ROWS, 1)) for x in (spreads, sizes, alphas))
    inside = np.arange(most) < size
    z = np.where(inside, rng.standard_normal((ROWS, most)) * spread, -np.inf)
    # Half of the targets are a class, the others distributions, some of them with zeros.
    label = (rng.random((ROWS, 1)) * size).astype(int)
    weight = rng.exponential(size=z.shape) * (rng.random(z.shape) < 0.7) * inside
    weight = weight + (np.arange(most) == label) * 1e-3
    is_label = np.arange(ROWS)[:, None] % 2 == 0
    y = np.where(is_label, np.arange(most) == label, weight / weight.sum(-1, keepdims=True))
    one = np.ones((ROWS, 1))
    cotangent = rng.standard_normal(z.shape)
    return Rows(
        z.astype(dtype), size, cotangent.astype(dtype), alpha.astype(dtype), one,
        np.full(z.shape, np.inf), y.astype(dtype),
    )  # fmt: skip


def capped(rows: Rows, tightness, seed=1) -> Rows:
    """Caps of so many times 1/size, and in half of the rows up to twice that, one a class."""
    rng = np.random.default_rng(seed)
    cap = rng.choice(tightness, (ROWS, 1)) / rows.size
    varied = np.where(rng.random((ROWS, 1)) < 0.5, 1, rng.uniform(1, 2, rows.z.shape))
    return dataclasses.replace(rows, upper=(cap * varied).astype(rows.z.dtype))


def budgeted(rows: Rows, budgets, seed=1) -> Rows:
    """Caps of 1 and a budget; one below 0 counts from the size."""
    rng = np.random.default_rng(seed)
    k = rng.choice(budgets, (ROWS, 1))
    k = np.where(k < 0, np.maximum(rows.size + k, 0.5), np.minimum(k, rows.size - 0.5))
    k = k.astype(rows.z.dtype)
    return dataclasses.replace(rows, total=k, upper=np.ones(rows.z.shape, rows.z.dtype))


@functools.cache
def program(function: Callable) -> Callable:
    """One compiled function for all rows of a shape and dtype."""

    @jax.jit
    def pulled(rows):
        cotangent = rows["cotangent"]
        value, pull = jax.vjp(lambda z: function(dict(rows, z=z)), rows["z"])
        return value, pull(cotangent if value.ndim == 2 else cotangent[:, 0])[0]

    return pulled


def values_and_slopes(function: Callable, rows: Rows) -> list[np.ndarray]:
    """The function of (a dictionary of) the rows, and its cotangent pulled back, in float64."""
    arrays = {x.name: getattr(rows, x.name) for x in dataclasses.fields(rows)}
    arrays = {k: jnp.asarray(x, rows.z.dtype) for k, x in arrays.items() if k != "size"}
    return [np.asarray(x, float) for x in program(function)(arrays)]


def every_row(error, allowed, what, /, **numbers):
    """No row may be further off than is allowed; the message has the numbers of the worst one."""
    error = np.where(np.isnan(error), np.inf, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(error == 0, 0, error / allowed).reshape(ROWS, -1).max(-1)
    row = int(excess.argmax())
    wrong = int((excess > 1).sum())
    shown = "\n".join(f"{name} = {np.asarray(x)[row]}" for name, x in numbers.items())
    assert not wrong, f"{what}: {wrong} rows of {ROWS}; row {row}, {excess[row]:.3g} ×\n{shown}"


def certify(p, rows: Rows, order, **numbers):
    """Sum, bounds, order, and one threshold for all classes strictly between 0 and their caps."""
    marginal = box_cox(order)
    z, size, eps, upper, total = rows.z, rows.size, rows.eps, rows.upper, rows.total
    total = total.astype(float)
    numbers = dict(numbers, p=p, z=z, order=order, upper=upper, total=total)
    every_row(
        np.abs(p.sum(-1, keepdims=True) - total),
        eps * (size + 8) * total + above_pivot(p, rows, order).sum(-1, keepdims=True),
        "sum", **numbers,
    )  # fmt: skip
    every_row(np.maximum(-p, p - upper), 4 * eps, "bounds", **numbers)
    every_row(np.where(z == -np.inf, p, 0), eps * eps, "excluded", **numbers)
    down = np.argsort(-z, axis=-1, kind="stable")
    sorted_p, sorted_u = (np.take_along_axis(x, down, -1) for x in (p, upper))
    rise = np.diff(sorted_p) * (sorted_u[:, 1:] == sorted_u[:, :-1])
    every_row(rise, 8 * eps * np.maximum(sorted_p[:, 1:], eps), "order", **numbers)
    # A mass so small that it is no normal number has few digits.
    inside = (p > eps**4) & (p < upper)
    bent = marginal(np.where(inside, p, 1))
    tau = np.where(inside, np.where(inside, z, 0) - bent, np.nan)
    scale = 1 + np.where(inside, np.abs(z) + np.abs(bent), 0).max(-1, keepdims=True)
    every_row(spread_of(tau, inside), 64 * eps * scale, "stationarity", tau=tau, **numbers)


def above_pivot(p, rows: Rows, order):
    """Return the rounding error of p where scores are measured from a class further below.

    That class is the first from the top where the caps so far fill the total: the top itself, if
    there are no caps. The distance of a class above it is rounded to an eps, and p changes s times
    as much.
    """
    down = np.argsort(-rows.z, axis=-1, kind="stable")
    z, caps = (
        np.take_along_axis(x, down, -1) for x in (rows.z, np.minimum(rows.upper, rows.total))
    )
    rank = (np.cumsum(np.where(z > -np.inf, caps, 0), -1) < rows.total).sum(-1, keepdims=True)
    pivot = np.take_along_axis(z, np.minimum(rank, z.shape[-1] - 1), -1)
    inside = (p > 0) & (p < rows.upper) & (rows.z > pivot)
    some = np.where(inside, p, 1)
    return (
        2
        * rows.eps
        * np.where(
            inside,
            some ** (2 - order)
            * (np.where(inside, rows.z, 0) - np.where(pivot > -np.inf, pivot, 0)),
            0,
        )
    )


def spread_of(x, inside):
    """How far the entries inside are apart."""
    high, low = (
        f(np.where(inside, x, n), axis=-1, keepdims=True)
        for f, n in ((np.max, -np.inf), (np.min, np.inf))
    )
    return np.where(inside.any(-1, keepdims=True), high - low, 0)


def compare(p, slope, rows: Rows, order, **numbers):
    """Values and slopes of s (w − Σ s w/Σ s), s = p^(2−α) strictly between 0 and the caps.

    A class may be in the support and not in the oracle's, or between its bounds and not so in the
    oracle, only where rounding decides: a change of scores by 16 eps of their spread inside the
    support would make it so. Then the derivative is that of the branch of p.

    With d the error of a score, p is known to s d and to a few eps, and s to (2 − α) s/p times
    that. This gives the error that each slope may have. Less than one row in a hundred may be such
    that it says nothing.

    Where caps fill the total up to rounding, n eps of their sum at most, the classes below share
    that rest: values are known up to it, but the support is not, so that slopes are those of p
    itself.
    """
    eps, upper, a = rows.eps, rows.upper, order - 1
    exact = oracles.capped(rows.z, order, rows.total, upper)
    exact = np.where(exact > upper * (1 - 1e-14), upper, exact)  # a bisection ends next to it
    numbers = dict(numbers, p=p, exact=exact, z=rows.z, order=order, upper=upper, total=rows.total)
    most = np.maximum(rows.total, 1)
    p_allowed = 64 * eps * most + above_pivot(exact, rows, order)
    every_row(np.abs(p - exact), p_allowed, "values", **numbers)
    inside, expected = ((x > eps**4) & (x < upper) for x in (p, exact))
    is_full = np.abs(upper - np.maximum(p, exact)) <= 64 * eps * most
    free = (np.where(is_full, 0, x).sum(-1, keepdims=True) for x in (p, exact))
    is_filled = np.maximum(*free) <= rows.size * eps * rows.total
    known = np.where(expected & ~(inside & is_filled), exact, np.where(inside, p, 1))
    s = np.where(inside | expected, known ** (2 - order), 0)
    weight = (s * inside).sum(-1, keepdims=True)
    bent = np.abs(box_cox(order)(known)) * (inside | expected)
    d = 16 * eps * (bent.max(-1, keepdims=True) + 1 / np.where(weight > 0, weight, np.inf))
    reach = np.maximum(1, bent.max(-1, keepdims=True))
    edge = np.where(
        a > 0, (np.abs(a) * 16 * eps * reach) ** (1 / np.where(a > 0, a, 1)), 2 * eps**4
    )
    is_low = np.maximum(p, exact) <= np.minimum(64 * eps * most, edge)
    untold = is_low | is_full | is_filled
    every_row((inside != expected) & ~untold, 0.5, "support", edge=edge, **numbers)
    s = np.where(inside, s, 0)
    w = rows.cotangent.astype(float)
    over = np.where(weight > 0, weight, 1)
    away = w - (s * w).sum(-1, keepdims=True) / over
    away = np.where(inside.sum(-1, keepdims=True) == 1, 0, away)  # however large s is
    p_error = np.minimum(s * d, 16 * eps * most) + 16 * eps * known
    relative = np.abs(2 - order) * p_error / known + 16 * eps
    s_error = s * relative
    m_error = (s_error * np.abs(away)).sum(-1, keepdims=True) / over + 16 * eps * np.abs(w).max()
    allowed = s_error * np.abs(away) + s * m_error + eps * eps
    right = s * away
    every_row(np.abs(slope - right), allowed, "slopes", slope=slope, right=right, **numbers)
    natural = (s * np.abs(w)).max(-1, keepdims=True)
    vague = (allowed > natural / 8 + eps).any(-1)
    share = vague.mean()
    assert share < 0.01, f"the slopes of {vague.sum()} rows are not known, as {vague.argmax()}"


def box_cox(order):
    """ω′(p) = (p^a − 1)/a."""
    a = order - 1
    some = np.where(a == 0, 1, a)
    return lambda p: np.where(a == 0, np.log(p), np.expm1(some * np.log(p)) / some)
