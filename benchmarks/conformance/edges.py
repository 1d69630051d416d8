"""Infinities, NaN, masks, ties, temperatures, α and k at their limits."""

import jax
import numpy as np

from benchmarks.conformance import oracle
from benchmarks.conformance.functions import (
    FAMILY,
    budget,
    cross_entropy,
    cross_entropy_of,
    entmax_of,
    entmax_traced,
    log_softmax,
    logsumexp,
    mine,
    normmax,
    sparsemax_loss,
)
from benchmarks.conformance.judge import Finite, Near, Refused
from benchmarks.conformance.libraries import ours
from benchmarks.conformance.questions import Section, ask_for, f32, gradient, value

INF, NAN = np.inf, np.nan
WEIGHTS = f32([1, 2, 4])


def sections():
    """Every section of this file, in the order of the page."""
    yield Section("`where` is False", masked())
    yield Section("−inf: probability and gradient exactly 0", minus_infinity())
    yield Section("+inf: the limit, shared", plus_infinity(), convention=True)
    yield Section("An empty row: zeros, its neighbours unharmed", empty_row(), convention=True)
    yield Section("NaN stays in its row", not_a_number())
    yield Section("Ties share equally", ties())
    yield Section("Temperature: below 0, at 0, infinite", temperature(), convention=True)
    yield Section("α at 1, 2, ∞ and near 1", alpha())
    yield Section("α below 1, at 0, negative, NaN", small_alpha(), convention=True)
    yield Section("k-hot mappings: k and caps out of range", k_hot())
    yield Section("Targets on masked classes", masked_targets())


def masked():
    mask = np.array([[True, False, True]])
    for behind in (INF, NAN):
        x = f32([1, behind, 2])
        seen = f32([1, -INF, 2])
        for name, (function, a) in FAMILY.items():
            p, g = oracle.entmax(seen, a), _gradient(seen, a)
            title = f"{name} of (1, {behind:g}, 2), middle masked"
            yield value(title, function(mask), Near(p, exact_zeros=True), x)
            yield gradient(f"gradient of {title}", function(mask), _zeros(g), x, WEIGHTS)
    x = f32([1, NAN, 2])
    title = "cross-entropy of (1, nan, 2), middle masked, label 0"
    right = oracle.cross_entropy([1, 2], 0)
    yield value(title, cross_entropy([0], mask), Near([right]), x)
    p = oracle.softmax([1, -INF, 2]) - [1, 0, 0]
    yield gradient(f"gradient of {title}", cross_entropy([0], mask), _zeros([p]), x, f32(1))


def minus_infinity():
    x = f32([1, -INF, 1.5])
    for name, (function, a) in FAMILY.items():
        title = f"{name} of (1, −inf, 1.5)"
        yield value(title, function(), _zeros(oracle.entmax(x, a)), x)
        yield gradient(f"gradient of {title}", function(), _zeros(_gradient(x, a)), x, WEIGHTS)
    yield value("logsumexp of (1, −inf, 1.5)", logsumexp(), Near(oracle.logsumexp(x)), x)


def plus_infinity():
    x = f32([1, INF, INF], [1, 2, 3])
    for name, (function, a) in FAMILY.items():
        title = f"{name} of (1, inf, inf) beside (1, 2, 3)"
        right = np.stack([[0, 0.5, 0.5], oracle.entmax([1, 2, 3], a)])
        yield value(title, function(), Near(right), x)
        right = np.stack([[0, 0, 0], oracle.gradient([1, 2, 3], WEIGHTS[0], a)])
        yield gradient(f"gradient of {title}", function(), Near(right), x, WEIGHTS)


def empty_row():
    x = f32([-INF, -INF, -INF], [1, 2, 3])
    for name, (function, a) in FAMILY.items():
        title = f"{name} of (−inf, −inf, −inf) beside (1, 2, 3)"
        right = np.stack([[0, 0, 0], oracle.entmax([1, 2, 3], a)])
        yield value(title, function(), Near(right), x)
        right = np.stack([[0, 0, 0], oracle.gradient([1, 2, 3], WEIGHTS[0], a)])
        yield gradient(f"gradient of {title}", function(), Near(right), x, WEIGHTS)
    x, mask = f32([1, 2, 3]), np.zeros((1, 3), bool)
    for name, (function, _) in FAMILY.items():
        title = f"{name} with an all-False mask"
        yield value(title, function(mask), Near(np.zeros((1, 3))), x)
        yield ask_for(
            "checked", f"{title}, jax_debug_nans on", function(mask), Near(np.zeros((1, 3))), x
        )
    x = f32([-INF, -INF, -INF])
    yield value("logsumexp of an empty row", logsumexp(), Near([-INF]), x)
    zeros = Near(np.zeros((1, 3)))
    yield gradient("gradient of logsumexp of an empty row", logsumexp(), zeros, x, f32(1))
    yield value("log-softmax of an empty row", log_softmax(), Near([[-INF] * 3]), x)
    mask = np.zeros((1, 3), bool)
    title = "cross-entropy with an all-False mask"
    yield value(title, cross_entropy([0], mask), Near([0.0]), f32([1, 2, 3]))
    yield gradient(f"gradient of {title}", cross_entropy([0], mask), zeros, f32([1, 2, 3]), f32(1))


def not_a_number():
    x = f32([1, NAN, 3], [1, 2, 3])
    for name, (function, a) in FAMILY.items():
        right = np.stack([[NAN] * 3, oracle.entmax([1, 2, 3], a)])
        yield value(f"{name} of (1, nan, 3) beside (1, 2, 3)", function(), Near(right), x)


def ties():
    x = f32([1, 5, 5])
    for name, (function, a) in FAMILY.items():
        yield value(f"{name} of (1, 5, 5)", function(), Near(oracle.entmax(x, a)), x)
    right = Near([[0, 0.5, 0.5]])
    yield value("hardmax of (1, 5, 5)", mine(lambda z: ours.hardmax(z)), right, x)


def temperature():
    for t, right in (
        (-1.0, oracle.softmax([[-1, -5, -5]])),
        (0.0, [[0, 0.5, 0.5]]),
        (INF, [[1 / 3] * 3]),
        (-INF, [[1 / 3] * 3]),
    ):
        function = mine(lambda z, t=t: ours.softmax(z, temperature=t))
        yield value(f"softmax of (1, 5, 5) at T = {t:g}", function, Near(right), f32([1, 5, 5]))
    function = mine(lambda z: ours.softmax(z, temperature=0.0))
    zeros = Near(np.zeros((1, 3)), 0, 0)
    yield gradient("its gradient at T = 0", function, zeros, f32([1, 5, 5]), WEIGHTS)
    function = mine(lambda z: ours.softmax(z, temperature=-1.0))
    yield value("softmax of (1, −inf, 3) at T = −1", function, Near([[0, 1, 0]]), f32([1, -INF, 3]))
    right = oracle.softmax([[-1, -INF, -3]])
    yield value("softmax of (1, inf, 3) at T = −1", function, Near(right), f32([1, INF, 3]))
    function = mine(lambda z: ours.softmin(z))
    right = oracle.softmax([[-1, -2, -3]])
    yield value("softmin of (1, 2, 3)", function, Near(right), f32([1, 2, 3]))
    function = mine(lambda z: ours.logsumexp(z, temperature=0.0))
    yield value("T·logsumexp(z/T) of (1, 5, 5) at T = 0", function, Near([5.0]), f32([1, 5, 5]))
    right = Near([[0, 0.5, 0.5]])
    yield gradient("its gradient", function, right, f32([1, 5, 5]), f32(1))


def alpha():
    x = f32([0, 0.5, 1])
    for a in (1.0, 2.0, INF, 1 + 1e-6, 1 + 1e-4, 3.0):
        right = oracle.softmax(x) if abs(a - 1) < 1e-5 else oracle.entmax(x, a)
        yield value(f"entmax of (0, 0.5, 1) at α = {a:.7g}", entmax_of(a), Near(right), x)
    for a in (1.5, 1 + 1e-4):
        yield gradient(
            f"d/dα of Σ w·entmax at α = {a:.7g} (relative 1e-3)",
            entmax_traced(x),
            Near([[oracle.d_alpha(x, WEIGHTS, a, step=3e-5)]], 1e-3, 0),
            f32([a]),
            WEIGHTS,
        )


def small_alpha():
    x = f32([0, 0.5, 1])
    yield value("entmax at α = 0.5", entmax_of(0.5), Near(oracle.entmax(x, 0.5)), x)
    for a in (0.0, -1.0, NAN):
        right = Refused(or_nan=np.isnan(a))
        yield value(f"entmax at a static α = {a:g}", entmax_of(a), right, x)
    for a in (-1.0, NAN):
        yield value(f"a traced α = {a:g}", entmax_traced(x), Refused(or_nan=True), f32([a]))
    yield value("normmax at α = 1", normmax(1.0), Refused(), x)


def k_hot():
    x = f32([0.2, 0.5, 1])
    yield value("k = 2 of 3", budget(2), Near(oracle.budget(x, 2)), x)
    yield value("k = 3 of 3: ones", budget(3), Near(np.ones((1, 3))), x)
    for k in (-1, 5):
        yield value(f"k = {k} of 3", budget(k), Refused(or_nan=True), x)
    none = mine(lambda z: ours.topk_entmax(z, 0, alpha=2))
    yield value("k = 0 of 3", none, Refused(), x)
    traced = mine(lambda z: jax.jit(ours.topk_entmax)(z, 5.0))
    yield value("a traced k = 5 of 3", traced, Refused(or_nan=True), x)
    capped = mine(lambda z: ours.capped_entmax(z, np.array([0.2, 0.2, 0.2], np.float32)))
    yield value("caps that sum to 0.6", capped, Refused(), x)


def masked_targets():
    x = f32([1, -INF, 3])
    bad, good = [[0, 1, 0]], [[1, 0, 0]]
    title = "cross-entropy of (1, −inf, 3), target "
    yield value(f"{title}(0, 1, 0)", cross_entropy_of(bad), Near([INF]), x)
    yield gradient(f"gradient of {title}(0, 1, 0)", cross_entropy_of(bad), Finite(), x, f32(1))
    right = oracle.cross_entropy([1, 3], 0)
    yield value(f"{title}(1, 0, 0)", cross_entropy_of(good), Near([right]), x)
    right = Near(oracle.softmax(x) - good)
    yield gradient(f"gradient of {title}(1, 0, 0)", cross_entropy_of(good), right, x, f32(1))
    x = f32([1, -INF, 1.5])
    title = "sparsemax loss of (1, −inf, 1.5), label 0"
    yield value(title, sparsemax_loss([0]), Near([oracle.loss(x[0, ::2], 0, 2)]), x)
    right = Near(oracle.sparsemax(x) - good)
    yield gradient(f"gradient of {title}", sparsemax_loss([0]), right, x, f32(1))


def _gradient(x: np.ndarray, a: float) -> np.ndarray:
    return oracle.gradient(x, WEIGHTS, a)


def _zeros(right) -> Near:
    return Near(right, exact_zeros=True)
