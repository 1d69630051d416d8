"""Every mapping and loss over ten thousand ordinary rows a setting, each of them asserted.

A few rows a test say little of a search: one that was wrong in a row of twenty passed thousands of
tests. A setting is a function, α, a dtype, a size, a spread, and a cap or a budget; `make test` runs
a choice in which each of these is met, `make nightly` all of them together. What differs from
setting to setting is an array, so that few programs are compiled.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles_by_bisection as oracles
from tests.laws.many_rows import (
    ROWS,
    box_cox,
    budgeted,
    capped,
    certify,
    compare,
    every_row,
    rows_of,
    spread_of,
    values_and_slopes,
)

ALPHAS = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 10.0)
DTYPES = (np.float32, np.float64)
SIZES = (2, 10, 48)
SPREADS = (1e-3, 0.1, 1.0, 10.0, 1000.0)
CAPS = (1.05, 2.0, 5.0)  # times 1/size
BUDGETS = (1.0, 2.5, -0.5, -1.0)
LIMITS = {"simplex": (None,), "caps": CAPS, "budget": BUDGETS}
MIXED = dict(sizes=(2, 10, 24), spreads=(1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1000.0))

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


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", LIMITS)
def test_every_row_is_right_with_an_alpha_of_its_own(kind, dtype):
    check(kind, "by row", dtype, **MIXED, limits=LIMITS[kind])


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
