"""Every mapping and loss over tens of thousands of ordinary rows, each of them asserted.

A few rows a test say little of a search: one that was wrong in a row of twenty passed thousands of
tests. Sizes, spreads, caps, budgets and α differ from row to row, so that one program meets all.
Each row has a certificate, which needs no oracle, and then the oracle's values and slopes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles_by_bisection as oracles

ROWS = 10_000
SIZES = (10, 24)
SPREADS = (1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1000.0)
ALPHAS = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 10.0)
DTYPES = (np.float32, np.float64)
CASES = [(1.5, np.float32), (2.0, np.float32), (2.0, np.float64), ("by row", np.float32)]
CASES.append(pytest.param("by row", np.float64, marks=pytest.mark.slow))
WIDE = [(alpha, dtype) for alpha in ALPHAS for dtype in DTYPES]


def table(dtype, sizes=SIZES, seed=0):
    """Rows of several sizes and spreads, the classes beyond a size being −∞, and a cotangent."""
    rng = np.random.default_rng(seed)
    spread = rng.choice(SPREADS, (ROWS, 1))
    size = rng.choice(sizes, (ROWS, 1))
    z = (rng.standard_normal((ROWS, max(sizes))) * spread).astype(dtype)
    z = np.where(np.arange(max(sizes)) < size, z, -np.inf)
    return rng, z, size, rng.standard_normal(z.shape).astype(dtype)


def orders(rng, alpha, dtype):
    """α as the library is given it, and one number a row in float64."""
    if alpha != "by row":
        return alpha, np.full((ROWS, 1), float(alpha))
    by_row = rng.choice(ALPHAS, (ROWS, 1)).astype(dtype)
    return jnp.asarray(by_row), by_row.astype(float)


@functools.partial(jax.jit, static_argnums=0)
def _pulled(mapping, z, cotangent):
    p, pull = jax.vjp(mapping, z)
    return p, pull(cotangent)[0]


def values_and_slopes(mapping, z, cotangent):
    return [np.asarray(x, float) for x in _pulled(mapping, jnp.asarray(z), jnp.asarray(cotangent))]


def every_row(error, allowed, what, /, **numbers):
    """No row may be further off than is allowed; the message has the numbers of the worst one."""
    error = np.where(np.isnan(error), np.inf, error)
    excess = np.broadcast_to(error / allowed, error.shape).reshape(ROWS, -1).max(-1)
    row = int(excess.argmax())
    wrong = int((excess > 1).sum())
    shown = "\n".join(f"{name} = {np.asarray(x)[row]}" for name, x in numbers.items())
    assert not wrong, f"{what}: {wrong} rows of {ROWS}; row {row}, {excess[row]:.3g} ×\n{shown}"


def certify(p, z, total, upper, eps, marginal, **numbers):
    """Sum, bounds, order, and one threshold for all classes strictly between 0 and their caps."""
    upper, total = np.broadcast_to(upper, p.shape), np.broadcast_to(total, (ROWS, 1))
    numbers = dict(numbers, p=p, z=z, upper=upper, total=total)
    size = (z > -np.inf).sum(-1, keepdims=True)
    every_row(p.sum(-1, keepdims=True) - total, eps * (size + 8) * total, "sum", **numbers)
    every_row(total - p.sum(-1, keepdims=True), eps * (size + 8) * total, "sum", **numbers)
    every_row(np.maximum(-p, p - upper), 4 * eps, "bounds", **numbers)
    every_row(np.where(z == -np.inf, p, 0), eps * eps, "excluded", **numbers)
    order = np.argsort(-z, axis=-1, kind="stable")
    sorted_p, sorted_u = (np.take_along_axis(x, order, -1) for x in (p, upper))
    rise = np.diff(sorted_p) * (sorted_u[:, 1:] == sorted_u[:, :-1])
    every_row(rise, 8 * eps * np.maximum(sorted_p[:, 1:], eps), "order", **numbers)
    # A mass so small that it is no normal number has few digits.
    inside = (p > eps**4) & (p < upper)
    bent = marginal(np.where(inside, p, 1))
    tau = np.where(inside, np.where(inside, z, 0) - bent, np.nan)
    some = inside.any(-1, keepdims=True)
    high, low = (
        np.where(some, f(np.where(inside, tau, n), axis=-1, keepdims=True), 0)
        for f, n in ((np.max, -np.inf), (np.min, np.inf))
    )
    scale = 1 + np.where(inside, np.abs(z) + np.abs(bent), 0).max(-1, keepdims=True)
    every_row(high - low, 64 * eps * scale, "stationarity", tau=tau, **numbers)


def compare_slopes(slope, right, p, exact, order, cotangent, upper, eps, /, **numbers):
    """Slopes against the closed form, in rows without a class that is all but at 0 or at its cap.

    There either one-sided derivative is right. 1/ω″ = p^(2−α) changes (2 − α)/p times as fast as p.
    """
    inside, expected = ((x > eps**4) & (x < upper) for x in (p, exact))
    at_cap = np.isfinite(upper) & (np.abs(exact - upper) <= 16 * eps * upper) & (exact > 0)
    sure = (inside == expected) & ~(at_cap & (inside | expected))
    same = sure.all(-1, keepdims=True)
    assert same.mean() > 0.8, f"another support in {(~same).sum()} rows"
    s = np.where(expected, np.where(expected, exact, 1) ** (2 - order), 0)
    bend = (np.abs(2 - order) * eps / np.where(expected, exact, 1)).max(-1, keepdims=True)
    scale = (s * np.abs(cotangent)).sum(-1, keepdims=True) + s * np.abs(cotangent).max()
    allowed = (64 * eps + 16 * bend) * scale + eps * eps
    every_row(np.abs(slope - right) * same, allowed, "slopes", slope=slope, right=right, **numbers)


def box_cox(order):
    """ω′(p) = (p^a − 1)/a."""
    a = order - 1
    some = np.where(a == 0, 1, a)
    return lambda p: np.where(a == 0, np.log(p), np.expm1(some * np.log(p)) / some)


def logit(p):
    return np.log(p) - np.log1p(-p)


def check_entmax(alpha, dtype, **of_table):
    rng, z, _, cotangent = table(dtype, **of_table)
    alpha, order = orders(rng, alpha, dtype)
    eps = float(np.finfo(dtype).eps)
    p, slope = values_and_slopes(lambda z: js.entmax(z, alpha), z, cotangent)
    numbers = dict(alpha=order)
    certify(p, z, 1, np.inf, eps, box_cox(order), **numbers)
    exact = oracles.entmax(z, order)
    every_row(np.abs(p - exact), 64 * eps, "values", p=p, exact=exact, z=z, **numbers)
    right = oracles.pulled_back(exact, order, cotangent.astype(float))
    compare_slopes(
        slope, right, p, exact, order, cotangent, np.inf, eps, p=p, exact=exact, z=z, **numbers
    )


def check_capped(alpha, dtype, kind, **of_table):
    rng, z, size, cotangent = table(dtype, **of_table)
    alpha, order = orders(rng, alpha, dtype)
    eps = float(np.finfo(dtype).eps)
    if kind == "caps":
        # From caps that bind everywhere to caps that never do; in half of the rows one a class.
        cap = (rng.choice([1.05, 1.2, 2.0, 3.0, 5.0, 20.0], size.shape) / size).astype(dtype)
        varied = cap * np.where(rng.random(size.shape) < 0.5, 1, rng.uniform(1, 2, z.shape))
        upper, total = varied.astype(dtype), np.ones((ROWS, 1))
        caps = jnp.asarray(upper)
        p, slope = values_and_slopes(lambda z: js.capped_entmax(z, caps, alpha=alpha), z, cotangent)
    else:
        k = np.where(rng.random(size.shape) < 0.5, rng.integers(1, size), rng.uniform(0.1, size))
        k = np.where(rng.random(size.shape) < 0.5, np.minimum(k, 3), k).astype(dtype)
        upper, total, budget = np.ones(z.shape), k.astype(float), jnp.asarray(k)
        p, slope = values_and_slopes(lambda z: js.topk_entmax(z, budget, alpha=alpha), z, cotangent)
    numbers = dict(alpha=order)
    certify(p, z, total, upper, eps, box_cox(order), **numbers)
    exact = oracles.capped(z, order, total, upper)
    exact = np.where(exact > upper * (1 - 1e-14), upper, exact)  # a bisection ends next to it
    allowed = 64 * eps * np.maximum(total, 1)
    every_row(np.abs(p - exact), allowed, "values", p=p, exact=exact, z=z, **numbers)
    right = oracles.pulled_back(exact, order, cotangent.astype(float), upper)
    compare_slopes(
        slope, right, p, exact, order, cotangent, upper, eps, p=p, exact=exact, z=z, **numbers
    )


@pytest.mark.parametrize("alpha, dtype", CASES)
def test_every_row_of_entmax_is_right(alpha, dtype):
    check_entmax(alpha, dtype)


@pytest.mark.parametrize("alpha, dtype", CASES)
def test_every_row_of_capped_entmax_is_right(alpha, dtype):
    check_capped(alpha, dtype, "caps")


@pytest.mark.parametrize("alpha, dtype", CASES)
def test_every_row_of_topk_entmax_is_right(alpha, dtype):
    check_capped(alpha, dtype, "budget")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_row_of_topk_sigmoid_is_right(dtype):
    rng, z, size, cotangent = table(dtype)
    eps = float(np.finfo(dtype).eps)
    k = np.where(rng.random(size.shape) < 0.5, rng.integers(1, size), rng.uniform(0.1, size))
    k = k.astype(dtype)
    budget = jnp.asarray(k)
    p, slope = values_and_slopes(lambda z: js.topk_sigmoid(z, budget), z, cotangent)
    total = k.astype(float)
    assert (np.abs(p.sum(-1, keepdims=True) - total) <= eps * (size + 8) * total).all()
    exact = oracles.topk_sigmoid(z, total)
    # σ(x) changes by σ(x) (1 − σ(x)) of a change of x, which is rounded to an eps of it.
    numbers = dict(p=p, exact=exact, z=z, total=total)
    reach = np.where(z > -np.inf, np.abs(z), 0).max(-1, keepdims=True)
    allowed = 16 * eps * (1 + reach) * exact + eps**4
    every_row(np.abs(p - exact), allowed, "values", **numbers)
    s = exact * (1 - exact)
    weight = s.sum(-1, keepdims=True)
    mean = (s * cotangent).sum(-1, keepdims=True) / np.where(weight > 0, weight, 1)
    right = s * (cotangent - mean)
    # From a p next to 1 its distance is known to an eps of 1.
    lost = np.minimum(1, size * eps / np.where(weight > 0, weight, 1))
    allowed = (64 * eps * (1 + reach) * s + 4 * eps + 4 * lost * s) * np.abs(cotangent).max()
    every_row(np.abs(slope - right), allowed, "slopes", slope=slope, right=right, **numbers)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_every_row_of_normmax_is_right(alpha):
    _, z, _, cotangent = table(np.float32)
    eps = float(np.finfo(np.float32).eps)
    p, _ = values_and_slopes(lambda z: js.normmax(z, alpha), z, cotangent)
    exact = oracles.normmax(z, alpha)
    numbers = dict(p=p, exact=exact, z=z)
    every_row(np.abs(p.sum(-1, keepdims=True) - 1), 32 * eps, "sum", **numbers)
    # Stationarity is in (p/max p)^(α−1), which is as sure as z; p is its root.
    power = max(1.0, alpha - 1)
    bent, right = ((x / x.max(-1, keepdims=True)) ** power for x in (p, exact))
    every_row(np.abs(bent - right), 64 * eps, "values", **numbers)


@pytest.mark.parametrize("name", ["softmax", "entmax", "topk_entmax"])
def test_every_row_of_a_loss_is_right(name):
    """The value by its definition, Ω*(z) + Ω(y) − ⟨y, z⟩; its gradient is p − y."""
    rng, z, size, _ = table(np.float32)
    eps = float(np.finfo(np.float32).eps)
    label = (rng.random(size.shape) * size).astype(int)
    y = (np.arange(z.shape[-1]) == label).astype(float)
    loss, order = {
        "softmax": (lambda z: js.cross_entropy(z, label[:, 0]), 1.0),
        "entmax": (lambda z: js.entmax_loss(z, label[:, 0], alpha=1.5), 1.5),
        "topk_entmax": (lambda z: js.topk_entmax_loss(z, label, alpha=1.5), 1.5),
    }[name]
    value, slope = values_and_slopes(loss, z, np.ones(ROWS, np.float32))
    upper = 1 if name == "topk_entmax" else np.inf
    p = oracles.capped(z, order, 1.0, upper)
    finite = np.where(z > -np.inf, z, 0).astype(float)
    omega = oracles.entropy(p, order)
    right = ((p - y) * finite).sum(-1, keepdims=True) + omega
    reach = 1 + np.abs(finite).max(-1, keepdims=True)
    numbers = dict(value=value, right=right, z=z, label=label)
    every_row(np.abs(value[:, None] - right), 64 * eps * reach, "values", **numbers)
    every_row(-value[:, None], eps * eps, "sign", **numbers)
    every_row(np.abs(slope - (p - y)), 64 * eps, "slopes", slope=slope, p=p, **numbers)


@pytest.mark.parametrize("name", ["capped_entmax", "topk_entmax", "topk_sigmoid"])
def test_a_row_with_caps_does_not_depend_on_its_neighbours(name):
    """Alone among empty rows, turned about, or among its equals: the same bits."""
    _, z, _, _ = table(np.float32)
    mapping = jax.jit(
        {
            "topk_entmax": lambda z: js.topk_entmax(z, 3, alpha=1.5),
            "capped_entmax": lambda z: js.capped_entmax(z, 0.3, alpha=2.0),
            "topk_sigmoid": lambda z: js.topk_sigmoid(z, 3),
        }[name]
    )
    together = np.asarray(mapping(z))
    np.testing.assert_array_equal(np.asarray(mapping(z[::-1]))[::-1], together)
    for row in range(0, ROWS, ROWS // 8):
        alike = np.asarray(mapping(np.broadcast_to(z[row], z.shape)))
        np.testing.assert_array_equal(alike, np.broadcast_to(together[row], z.shape))
        alone = np.asarray(mapping(np.where(np.arange(ROWS)[:, None] == row, z, -np.inf)))
        np.testing.assert_array_equal(alone[row], together[row])


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("alpha, dtype", WIDE)
@pytest.mark.parametrize("kind", ["simplex", "caps", "budget"])
def test_every_longer_row_is_right(kind, alpha, dtype):
    options = dict(sizes=(3, 64, 300), seed=1)
    if kind == "simplex":
        check_entmax(alpha, dtype, **options)
    else:
        check_capped(alpha, dtype, kind, **options)
