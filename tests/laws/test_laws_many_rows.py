"""Every mapping and loss on ten thousand ordinary rows per setting, each row checked.

A few rows a test say little of a search: one that was wrong in a row of twenty passed thousands of
tests. A setting is a function, α, a dtype, a size, a spread, and a cap or a budget. `make test`
runs a selection that contains each of these, `make nightly` all combinations. Spreads, caps and
budgets are arrays, so that few programs are compiled.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles_by_bisection as oracles
from tests.laws.many_rows import (
    ROWS,
    budgeted,
    capped,
    certify,
    compare,
    every_row,
    rows_of,
    spread_of,
    values_and_slopes,
)
from tests.marks import some

ALPHAS = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 10.0)
DTYPES = (np.float32, np.float64)
SIZES = (2, 10, 48)
SPREADS = (1e-3, 0.1, 1.0, 10.0, 1000.0)
CAPS = (1.05, 2.0, 5.0)  # times 1/size
BUDGETS = (1.0, 2.5, 0.3, -0.5, -1.0)  # below 0 from the size
LIMITS = {"simplex": (None,), "caps": CAPS, "budget": BUDGETS}
MIXED = dict(sizes=(2, 10, 24), spreads=(1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1000.0))
MIXED_LIMITS = {
    "simplex": (None,),
    "caps": (1.05, 1.2, 2.0, 3.0, 5.0, 20.0),
    "budget": (0.1, 0.3, 1.0, 1.7, 2.0, 2.5, 3.0, 5.5, -0.1, -0.5, -1.0, -2.0, -3.3),
}

ON_SIMPLEX = {
    1.0: lambda rows: js.softmax(rows["z"]),
    2.0: lambda rows: js.sparsemax(rows["z"]),
    **{a: lambda rows, a=a: js.entmax(rows["z"], a) for a in ALPHAS if a not in (1.0, 2.0)},
    "by row": lambda rows: js.entmax(rows["z"], rows["alpha"]),
}
WITH_CAPS = {
    a: lambda rows, a=a: js.capped_entmax(rows["z"], rows["upper"], alpha=a) for a in ALPHAS
} | {"by row": lambda r: js.capped_entmax(r["z"], r["upper"], alpha=r["alpha"])}
WITH_BUDGET = {
    a: lambda rows, a=a: js.topk_entmax(rows["z"], rows["total"], alpha=a) for a in ALPHAS
} | {"by row": lambda r: js.topk_entmax(r["z"], r["total"], alpha=r["alpha"])}


def topk_sigmoid(rows):
    return js.topk_sigmoid(rows["z"], rows["total"])


def limited(rows, kind, limits):
    return {"simplex": lambda: rows, "caps": lambda: capped(rows, limits),
            "budget": lambda: budgeted(rows, limits)}[kind]()  # fmt: skip


def check(kind, alpha, dtype, sizes, spreads, limits, seed=0):
    rows = rows_of(dtype, sizes, spreads, ALPHAS if alpha == "by row" else (alpha,), seed)
    rows = limited(rows, kind, limits)
    function = {"simplex": ON_SIMPLEX, "caps": WITH_CAPS, "budget": WITH_BUDGET}[kind][alpha]
    order = rows.alpha.astype(float)
    p, slope = values_and_slopes(function, rows)
    certify(p, rows, order)
    compare(p, slope, rows, order)


def of_one(choices, i):
    return (choices[i % len(choices)],)


# One program each, and two spreads; sizes, dtypes and limits take turns.
CHOICE = [
    (kind, alpha, DTYPES[(i + j) % 2], of_one(SIZES[:2] if i % 4 else SIZES, i + j), i + 2 * j)
    for j, kind in enumerate(LIMITS)
    for i, alpha in enumerate(ALPHAS)
]


@pytest.mark.parametrize("kind, alpha, dtype, sizes, turn", CHOICE)
def test_every_row_is_right(kind, alpha, dtype, sizes, turn):
    for i in (turn, turn + 2):
        limits = of_one(LIMITS[kind], i)
        check(kind, alpha, dtype, sizes, of_one(SPREADS, i), limits)


@pytest.mark.parametrize(
    "alpha, dtype",
    [
        (1.5, np.float32),
        (2.0, np.float32),
        pytest.param(2.0, np.float64, marks=pytest.mark.slow),
        ("by row", np.float32),
        pytest.param("by row", np.float64, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", LIMITS)
def test_every_row_of_all_settings_together_is_right(kind, alpha, dtype):
    check(kind, alpha, dtype, **MIXED, limits=MIXED_LIMITS[kind])


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", LIMITS)
def test_every_row_of_every_setting_is_right(kind, size, alpha, dtype):
    wrong = []
    for spread, limit in itertools.product(SPREADS, LIMITS[kind]):
        try:
            check(kind, alpha, dtype, (size,), (spread,), (limit,))
        except AssertionError as error:
            wrong.append(f"spread {spread}, limit {limit}: {error}")
    assert not wrong, f"{len(wrong)} settings\n" + "\n\n".join(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", (0.5, 1.0, 1.5, 2.0, 3.0))
def test_every_row_of_binary_entmax_is_right(alpha, dtype):
    """`entmax` of (z, 0): the second entry is one minus the first."""

    def both(rows):
        p = js.binary_entmax(rows["z"][:, :1], alpha)
        return jnp.concatenate([p, 1 - p], -1)

    for spread in (0.3, 3.0):
        rows = rows_of(dtype, (2,), (spread,), (alpha,))
        z, w = rows.z.copy(), rows.cotangent.copy()
        z[:, 1] = w[:, 1] = 0
        rows = dataclasses.replace(rows, z=z, cotangent=w)
        p, slope = values_and_slopes(both, rows)
        exact = oracles.entmax(z, alpha)
        numbers = dict(p=p, exact=exact, z=z)
        every_row(np.abs(p - exact), 8 * rows.eps, "values", **numbers)
        inside = (exact > 0).all(-1, keepdims=True)
        right = oracles.pulled_back(exact, alpha, w.astype(float), 1.0)
        # ds/dp is (2 − α) s/p; beyond α = 2 it is wild at a kink, where p is 0.
        least = np.where(inside, np.maximum(exact.min(-1, keepdims=True), rows.eps), 1)
        bend = np.abs(2 - alpha) * rows.eps / least
        allowed = 16 * (rows.eps + bend) * np.maximum(np.abs(w[:, :1]), np.abs(right[:, :1]))
        error = np.abs(slope - right)[:, :1]
        every_row(error, allowed, "slopes", slope=slope, right=right, **numbers)
        assert (bend > 0.01).mean() < 0.01


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_row_of_topk_sigmoid_is_right(dtype, spread):
    rows = budgeted(rows_of(dtype, (2, 10, 24), (spread,), (1.0,)), BUDGETS)
    p, slope = values_and_slopes(topk_sigmoid, rows)
    z, size, w, eps = rows.z, rows.size, rows.cotangent.astype(float), rows.eps
    total = rows.total.astype(float)
    exact = oracles.topk_sigmoid(z, total)
    numbers = dict(p=p, exact=exact, z=z, total=total)
    every_row(np.abs(p.sum(-1, keepdims=True) - total), eps * (size + 8) * total, "sum", **numbers)
    # σ(x) changes by σ(x) (1 − σ(x)) of a change of x, which is rounded to an eps of it.
    reach = np.where(z > -np.inf, np.abs(z), 0).max(-1, keepdims=True)
    every_row(np.abs(p - exact), 16 * eps * (1 + reach) * exact + eps**4, "values", **numbers)
    s = exact * (1 - exact)
    weight = s.sum(-1, keepdims=True)
    right = s * (w - (s * w).sum(-1, keepdims=True) / np.where(weight > 0, weight, 1))
    # From a p next to 1 its distance is known to an eps of 1.
    lost = np.where(weight > size * eps, size * eps / np.maximum(weight, eps), 1)
    allowed = (64 * eps * (1 + reach) * s + 4 * eps + 4 * lost * s) * np.abs(w).max()
    every_row(np.abs(slope - right), allowed, "slopes", slope=slope, right=right, **numbers)


NORMS = {alpha: lambda rows, alpha=alpha: js.normmax(rows["z"], alpha) for alpha in (1.5, 2.0, 3.0)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", some(NORMS, [2.0]))
def test_every_row_of_normmax_is_right(alpha, dtype):
    """On the support z − μ = g for g = (p/‖p‖)^(α−1), and the slope is M w for the symmetric M.

    M = c (I − p 1ᵀ) diag(s) (I − 1 pᵀ),  s = p^(2−α),  c = ‖p‖^(α−1)/(α−1).
    """
    for spread in (0.1, 1.0, 10.0, 1000.0):
        rows = rows_of(dtype, (10,), (spread,), (alpha,))
        z, w, eps = rows.z.astype(float), rows.cotangent.astype(float), rows.eps
        p, slope = values_and_slopes(NORMS[alpha], rows)
        exact = oracles.normmax(z, alpha)
        numbers = dict(p=p, exact=exact, z=z)
        every_row(np.abs(p.sum(-1, keepdims=True) - 1), 32 * eps, "sum", **numbers)
        # Stationarity is in (p/max p)^(α−1), which is as sure as z; p is its root.
        bent, right = ((x / x.max(-1, keepdims=True)) ** max(1.0, alpha - 1) for x in (p, exact))
        every_row(np.abs(bent - right), 64 * eps, "values", **numbers)
        norm = (p**alpha).sum(-1, keepdims=True) ** (1 / alpha)
        level = spread_of(z - (p / norm) ** (alpha - 1), p > 0)
        every_row(
            level,
            32 * eps * (1 + np.where(p > 0, np.abs(z), 0).max(-1, keepdims=True)),
            "stationarity",
            **numbers,
        )
        # From the support that p has; where the oracle has another, p is 0 but for rounding.
        inside, expected = p > 0, exact > 0
        every_row(
            (inside != expected) & (np.maximum(bent, right) > 64 * eps), 0.5, "support", **numbers
        )
        known = np.where(expected, exact, p)
        some = np.where(inside, known, 1)
        s = np.where(inside, some ** (2 - alpha), 0)
        norm = (known**alpha).sum(-1, keepdims=True) ** (1 / alpha)
        c = norm ** (alpha - 1) / (alpha - 1)
        away = np.where(
            inside.sum(-1, keepdims=True) == 1, 0, w - (known * w).sum(-1, keepdims=True)
        )
        right = c * (s * away - known * (s * away).sum(-1, keepdims=True))
        g = (some / known.max(-1, keepdims=True)) ** (alpha - 1)
        relative = 64 * eps * (1 + np.abs(2 - alpha) / (alpha - 1) / g)
        error = s * relative * np.abs(away) + 64 * eps * s * np.abs(w).max(-1, keepdims=True)
        allowed = c * (error + known * error.sum(-1, keepdims=True)) + eps * eps
        every_row(np.abs(slope - right), allowed, "slopes", slope=slope, right=right, **numbers)
        vague = ((relative > 0.1) & (s > 0.01 * s.max(-1, keepdims=True))).any(-1)
        assert vague.mean() < 0.01, f"the slopes of {vague.sum()} rows are not known"


def conjugate_gap(p, y, z, entropy):
    """Ω*(z) + Ω(y) − ⟨y, z⟩ for the p of z, with −Ω given."""
    return ((p - y) * z).sum(-1, keepdims=True) + entropy(p) - entropy(y)


def of_norm(alpha):
    return lambda p: -((p**alpha).sum(-1, keepdims=True) ** (1 / alpha))


def labels(rows):
    return jnp.argmax(rows["y"], -1)


# Each with α, and whether it reads distributions.
LOSSES = {
    "cross_entropy": (lambda r: js.cross_entropy(r["z"], r["y"]), 1.0, True),
    "cross_entropy of labels": (lambda r: js.cross_entropy(r["z"], labels(r)), 1.0, False),
    "sparsemax_loss": (lambda r: js.sparsemax_loss(r["z"], r["y"]), 2.0, True),
    "sparsemax_loss of labels": (lambda r: js.sparsemax_loss(r["z"], labels(r)), 2.0, False),
    "normmax_loss": (lambda r: js.normmax_loss(r["z"], r["y"], alpha=2.0), 2.0, True),
    "topk_entmax_loss": (
        lambda r: js.topk_entmax_loss(r["z"], labels(r)[:, None], alpha=1.5), 1.5, False,
    ),
    **{
        f"entmax_loss {a:g}": (lambda r, a=a: js.entmax_loss(r["z"], r["y"], alpha=a), a, True)
        for a in (0.5, 1.25, 1.5, 1.75, 3.0, 10.0)
    },
    "fenchel_young_loss": (
        lambda r: js.fenchel_young_loss(r["z"], r["y"], js.Tsallis(1.0)), 1.0, True,
    ),
    "entmax_loss by row": (
        lambda r: js.entmax_loss(r["z"], r["y"], alpha=r["alpha"]), "by row", True,
    ),
}  # fmt: skip


def check_loss(name, dtype, sizes, spreads):
    """The value by its definition; its gradient is p − y."""
    function, alpha, reads_distributions = LOSSES[name]
    rows = rows_of(dtype, sizes, spreads, ALPHAS if alpha == "by row" else (alpha,))
    value, slope = values_and_slopes(function, rows)
    value, eps, y = value[:, None], rows.eps, rows.y.astype(float)
    if not reads_distributions:
        y = (np.arange(y.shape[-1]) == y.argmax(-1)[:, None]).astype(float)
    z = np.where(rows.z > -np.inf, rows.z, 0).astype(float)
    order = rows.alpha.astype(float)
    if name == "normmax_loss":
        p, entropy = oracles.normmax(rows.z, alpha), of_norm(alpha)
    else:
        p = oracles.capped(rows.z, order, 1.0, 1.0 if name == "topk_entmax_loss" else np.inf)
        entropy = functools.partial(oracles.entropy, alpha=order)
    right = conjugate_gap(p, y, z, entropy)
    if name.startswith("cross_entropy"):
        right = right + entropy(y)
    reach = 1 + np.abs(z).max(-1, keepdims=True)
    numbers = dict(z=z, y=y, order=order)
    every_row(
        np.abs(value - right), 64 * eps * reach, "values", value=value, right=right, **numbers
    )
    every_row(-value, eps * eps, "sign", value=value, **numbers)
    w = rows.cotangent[:, :1].astype(float)
    allowed = 64 * eps * np.abs(w)
    every_row(np.abs(slope - w * (p - y)), allowed, "slopes", slope=slope, p=p, **numbers)


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_of_a_loss_is_right(name):
    turn = list(LOSSES).index(name)
    for i in (turn, turn + 2):
        check_loss(name, DTYPES[turn % 2], of_one(SIZES[:2], turn), of_one(SPREADS, i))


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_every_row_of_a_loss_is_right_in_every_setting(name, size, dtype):
    for spread in SPREADS:
        check_loss(name, dtype, (size,), (spread,))


@pytest.mark.parametrize("name", ["capped_entmax", "topk_entmax", "topk_sigmoid"])
def test_a_row_with_caps_does_not_depend_on_its_neighbours(name):
    """Alone among empty rows, turned about, or among its equals: the same bits."""
    z = rows_of(np.float32, **MIXED, alphas=(1.5,)).z
    mapping = jax.jit(
        {
            "topk_entmax": lambda z: js.topk_entmax(z, 1.5, alpha=1.5),
            "capped_entmax": lambda z: js.capped_entmax(z, 0.6, alpha=2.0),
            "topk_sigmoid": lambda z: js.topk_sigmoid(z, 1.5),
        }[name]
    )
    together = np.asarray(mapping(z))
    np.testing.assert_array_equal(np.asarray(mapping(z[::-1]))[::-1], together)
    for row in range(0, ROWS, ROWS // 8):
        alike = np.asarray(mapping(np.broadcast_to(z[row], z.shape)))
        np.testing.assert_array_equal(alike, np.broadcast_to(together[row], z.shape))
        alone = np.asarray(mapping(np.where(np.arange(ROWS)[:, None] == row, z, -np.inf)))
        np.testing.assert_array_equal(alone[row], together[row])
