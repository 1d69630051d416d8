"""Every search against sixty digits, at gaps of 1 to 1e5 and temperatures of 1 to 1e-3.

A search may stop where no float is nearer. So every entry must be between two exact answers. For
one, every score is lowered by c ε of its distance from the anchor of the library, or from the
threshold, and every mass by c ε (and as much for every 8 of its exponent). For the other both are
raised. That is the effect of rounding on the input of any search; an error of the search adds to it
and shows. No entry is too small to count, if it is a normal number.

Here are the searches of `core`: by a bracketed secant along each curve (`_threshold.py`), between
two places (`_capped_threshold.py`), for a link (`_inverse_marginal.py`), over the floats
(`_floats.py`). Those of attention and of linear losses are the same with other storage. Not here:
fits of a loss to data, and searches over integers, which are exact.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf

import jsoftmax as js
from tests import oracle_of_sixty_digits as oracle
from tests.a_regularizer_of_a_stranger import Blend
from tests.oracle_of_sixty_digits import Link, Solution, exact

C = 8  # of rounding: the quotient by T, the difference, its scale, the link, the stop at 4 eps
GAPS = (1, 10, 1e2, 1e3, 1e4, 1e5)
TEMPERATURES = (1, 0.1, 0.01, 1e-3)
STEPS = np.array([0.3, 0.7, 0.05, 1.1, 0.4, 0.2, 0.9, 0.15, 0.6, 0.35, 0.8])
DTYPES = {"argvalues": [np.float32, np.float64], "ids": ["float32", "float64"]}


def gaps_and_temperatures(classes: int, dtype: Any) -> list[tuple[np.ndarray, Any]]:
    """Rows with one wide gap: below the first, the second, or all but the last; steps of 1 or T."""
    rows = []
    for number, (t, gap) in enumerate((t, gap) for t in TEMPERATURES for gap in GAPS):
        for place in sorted({0, 1, classes - 2} & set(range(classes - 1))):
            for unit in (1, t):
                steps = unit * STEPS[: classes - 1]
                steps[place] = gap
                z = (2.5 if unit == 1 else 0) - np.concatenate([[0], np.cumsum(steps)])
                order = np.random.default_rng([number, place]).permutation(classes)
                rows.append((z[order].astype(dtype), dtype(t)))
    return rows


@dataclasses.dataclass(frozen=True)
class Search:
    """A mapping, its exact answer, and the rank of its anchor, the origin of its scores."""

    name: str
    function: Callable[..., Any]  # (z, T) → p
    right: Callable[..., Solution]  # (y, noise, ε, dtype) → p and its bounds
    rank: int = 1
    sizes: tuple[int, ...] = (3, 6)

    def fails(self, classes: int, dtype: Any, every: int = 1, first: int = 0) -> list[Any]:
        """Find rows with an entry out of bounds, with the entry and its right value."""
        found, function = [], jax.jit(self.function)
        eps, tiny = (float(getattr(np.finfo(dtype), name)) for name in ("eps", "tiny"))
        for z, t in gaps_and_temperatures(classes, dtype)[first::every]:
            p = np.asarray(function(z, t))
            assert p.dtype == dtype
            with mp.workdps(oracle.DIGITS):
                y = [x / mpf(float(t)) for x in exact(z)]
                anchor = sorted(y, reverse=True)[min(self.rank, classes) - 1]
                right = self.right(y, oracle.spread(y, C * eps, anchor), C * eps, dtype)
                wrong = oracle.misfits(p, right, tiny)
                found += [(z, t, i, p[i], float(right.p[i])) for i in wrong]
        return found


def prior_of(classes: int, dtype: Any) -> np.ndarray:
    return np.random.default_rng(3).permutation(np.geomspace(1, 0.02, classes)).astype(dtype)


def _plain(name: str, regularizer: Any, link: Link) -> list[Search]:
    """Over the simplex, without and with a prior."""

    def function(z, t):
        return js.regularized_argmax(z, regularizer, temperature=t)

    def under_prior(z, t):
        q = prior_of(z.shape[0], z.dtype.type)
        return js.regularized_argmax(z, regularizer, prior=q, temperature=t)

    def right(y, noise, eps, dtype):
        return oracle.solution(link, y, noise, eps)

    def right_under_prior(y, noise, eps, dtype):
        return oracle.solution(link, y, noise, eps, prior=exact(prior_of(len(y), dtype)))

    return [
        Search(name, function, right),
        Search(f"{name}, prior", under_prior, right_under_prior),
    ]


def _traced(alpha: float) -> Search:
    def function(z, t):
        return js.entmax(z, jnp.asarray(alpha, z.dtype), temperature=t)

    def right(y, noise, eps, dtype):
        return oracle.solution(oracle.tsallis(float(dtype(alpha))), y, noise, eps)

    return Search(f"entmax traced {alpha:g}", function, right)


def _topk(name: str, k: Callable[[int], int], function: Callable, link: Link) -> list[Search]:
    def at(z, t):
        return function(z, k(z.shape[0]), temperature=t)

    def right(y, noise, eps, dtype):
        return oracle.solution(link, y, noise, eps, k(len(y)), upper=[mpf(1)] * len(y))

    return [
        dataclasses.replace(Search(name, at, right), rank=k(classes), sizes=(classes,))
        for classes in (3, 6)
    ]


def _topk_all(name: str, function: Callable, link: Link) -> list[Search]:
    budgets = {"1": lambda n: 1, "2": lambda n: 2, "n−1": lambda n: n - 1}
    return [s for k, of in budgets.items() for s in _topk(f"{name} k={k}", of, function, link)]


def caps_of(classes: int, dtype: Any) -> np.ndarray:
    return np.linspace(0.3, 0.6, classes).astype(dtype)


def _capped(alpha: float) -> Search:
    def function(z, t):
        return js.capped_entmax(z, caps_of(z.shape[0], z.dtype.type), alpha=alpha, temperature=t)

    def right(y, noise, eps, dtype):
        caps = exact(caps_of(len(y), dtype))
        return oracle.solution(oracle.tsallis(alpha), y, noise, eps, upper=caps)

    return Search(f"capped_entmax {alpha:g}", function, right, rank=2)


def _binary(alpha: float) -> Search:
    """Of z and 0: both scores of a pair, measured from the other."""

    def function(z, t):
        x = jnp.stack([z[0] - z[1], z[1] - z[0]])
        return js.binary_entmax(x, alpha, temperature=t)

    def right(y, noise, eps, dtype):
        return oracle.solution(oracle.tsallis(alpha), y, noise, eps)

    return Search(f"binary_entmax {alpha:g}", function, right, sizes=(2,))


def _normmax(alpha: float) -> Search:
    def function(z, t):
        return js.normmax(z, alpha, temperature=t)

    def right(y, noise, eps, dtype):
        # p ∝ q^(1/α) for q = entmax of order 2 − 1/α of the scores α/(α−1) y
        ratio = 1 - 1 / mpf(alpha)
        y, noise = ([x / ratio for x in xs] for xs in (y, noise))
        q = oracle.solution(oracle.tsallis(1 + ratio), y, noise, eps)
        return oracle.escort(q, mpf(alpha))

    return Search(f"normmax {alpha:g}", function, right)


ORDERS = (0.5, 1, 1.2, 1.5, 1.9, 2, 3, 10)
REGULARIZERS = {
    **{f"Tsallis {alpha:g}": (js.Tsallis(alpha), oracle.tsallis(alpha)) for alpha in ORDERS},
    "FermiDirac": (js.FermiDirac(), oracle.FERMI),
    "Elastic": (js.Elastic(2.0), oracle.elastic(2.0)),
    "JensenShannon": (js.JensenShannon(), oracle.BOSE),
    "Laplace": (js.Laplace(), oracle.LAPLACE),
    "a stranger's": (Blend(), oracle.blend(1.5)),
}
SEARCHES = [
    *(search for name, pair in REGULARIZERS.items() for search in _plain(name, *pair)),
    *map(_traced, (0.5, 1.0, 1.2, 1.5, 2.0, 3.0)),
    *_topk_all("topk_sigmoid", js.topk_sigmoid, oracle.FERMI),
    *_topk_all(
        "topk_entmax Laplace",
        functools.partial(js.topk_entmax, regularizer=js.Laplace()),
        oracle.LAPLACE,
    ),
    *(
        search
        for alpha in (0.5, 1, 1.5, 2, 3)
        for search in _topk_all(
            f"topk_entmax {alpha:g}",
            functools.partial(js.topk_entmax, alpha=alpha),
            oracle.tsallis(alpha),
        )
    ),
    *map(_capped, (0.5, 1, 1.2, 1.5, 2, 3, 10)),
    *map(_binary, (0.5, 1, 1.2, 1.5, 2, 3, 10)),
    *map(_normmax, (1.5, 2, 5)),
]
CASES = [(search, size) for search in SEARCHES for size in search.sizes]
# One of every way to search.
WAYS = {
    "Tsallis 0.5", "Tsallis 1.5", "Tsallis 3", "FermiDirac", "FermiDirac, prior", "Elastic",
    "a stranger's", "entmax traced 1.2", "topk_sigmoid k=n−1", "topk_entmax 0.5 k=2",
    "topk_entmax 3 k=2", "capped_entmax 0.5", "capped_entmax 1.5", "normmax 2",
}  # fmt: skip


def of(cases):
    return {
        "argnames": ("search", "classes"),
        "argvalues": cases,
        "ids": [f"{search.name}-{size}" for search, size in cases],
    }


@pytest.mark.parametrize(**of([c for c in CASES if c[0].name in WAYS and c[1] != 6]))
def test_every_way_to_search_is_right_to_rounding(search, classes):
    assert search.fails(classes, np.float32, every=11, first=3) == []


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("dtype", **DTYPES)
@pytest.mark.parametrize(**of(CASES))
def test_every_search_is_right_to_rounding(search, classes, dtype):
    """A fifth of all rows, which is of every place, gap and temperature some."""
    assert search.fails(classes, dtype, every=5, first=int(dtype == np.float64)) == []


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Tsallis 1.2", "Tsallis 3", "FermiDirac, prior", "a stranger's"])
def test_rows_of_twelve(name):
    search = next(s for s in SEARCHES if s.name == name)
    assert search.fails(12, np.float32, every=9) == []


def test_the_bounds_are_narrow():
    """A few C ε of the exponent at most: they do not accept wrong answers."""
    eps = float(np.finfo(np.float32).eps)
    y = exact([0.0, -3.0, -40.0])
    for link in (oracle.tsallis(1), oracle.tsallis(0.5), oracle.FERMI):
        right = oracle.solution(link, y, oracle.spread(y, C * eps), C * eps)
        for p, least, most in zip(right.p, right.least, right.most, strict=True):
            assert (most - least) / p < 250 * C * eps
        assert (right.most[0] - right.least[0]) / right.p[0] < 8 * C * eps
