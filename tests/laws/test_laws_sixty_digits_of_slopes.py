"""Derivatives of bounded links against sixty digits, where a p rounds to its bound.

With t = z − τ, slopes s = q slope(t) and shares e = s/Σ s, ṗ = s (ż − τ̇) for τ̇ = Σ e ż. Rounding
leaves Δt = C ε (|t| + max z − z) of every t, as in the other files of sixty digits, and Σ e Δt of
the threshold that all of them share. Since |d log s/dt| ≤ 1, a slope is known to the factor 1 ± δ,

    δ_i = Δt_i + Σ e Δt + C ε,    and so    |Δṗ_i| ≤ s_i (δ_i |ż_i − τ̇| + 2 Σ e δ |ż − τ̇| + C ε |ż|).

A second derivative is a sum of products of three such factors, s (1 − 2p) (ż − τ̇) (z̈ − τ̈) and the
like, each known to δ: 3 δ times what they sum to when none of them cancels, 8 s |v| |w| at most.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf

import jsoftmax as js
from tests import oracle_of_sixty_digits as oracle
from tests.laws.test_laws_sixty_digits import DTYPES, C
from tests.oracle_of_sixty_digits import Link, Row, exact

GAPS = (1, 10, 30, 60, 100, 1e3)
SHAPES = {  # of a row with a gap: below the first class, and below the second
    "first": lambda gap: [0.7, 0.4, -0.4, 0.7 + gap],
    "second": lambda gap: [0.4, 0.7 + gap, -0.3, gap],
}
PRIORS = {"no prior": None, "prior": (0.9, 0.6, 1.3, 0.2), "prior of two": (1.0, 0.5, 0.25, 0.5)}
V, W = np.array([0.3, -1.2, 0.8, 0.5]), np.array([-0.4, 0.9, 0.1, -1.1])


@dataclasses.dataclass(frozen=True)
class Case:
    regularizer: Any
    link: Link
    log_slope: Any  # of t ≥ 0


LINKS = {
    "FermiDirac": Case(js.FermiDirac(), oracle.FERMI, lambda t: -t - 2 * mp.log1p(mp.exp(-t))),
    "Laplace": Case(js.Laplace(), oracle.LAPLACE, lambda t: -t - mp.log(2)),
}


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Exact ones of a row, and their relative uncertainties."""

    t: Row
    s: Row
    e: Row
    delta: Row
    spread: mpf  # Σ e Δt

    def mean(self, x: Row) -> mpf:
        return sum(a * b for a, b in zip(self.e, x, strict=True))

    def tangent(self, v: Row) -> Row:
        """ṗ."""
        mean = self.mean(v)
        return [s * (x - mean) for s, x in zip(self.s, v, strict=True)]

    def bounds(self, v: Row, eps: float) -> Row:
        mean, most = self.mean(v), max(map(abs, v))
        away = [abs(x - mean) for x in v]
        shared = 2 * self.mean([d * a for d, a in zip(self.delta, away, strict=True)])
        entries = zip(self.s, self.delta, away, strict=True)
        return [s * (d * a + shared + C * eps * most) for s, d, a in entries]


def slopes(case: Case, y: Row, eps: float, k: int = 1, prior: Row | None = None) -> Slopes:
    tau = oracle.threshold(case.link, y, k, prior)
    q = prior or [mpf(1)] * len(y)
    t = [x - tau for x in y]
    s = [a * mp.exp(case.log_slope(abs(x))) for a, x in zip(q, t, strict=True)]
    e = [x / sum(s) for x in s]
    moved = [C * eps * (abs(x) + max(y) - z) for x, z in zip(t, y, strict=True)]
    spread = sum(a * b for a, b in zip(e, moved, strict=True))
    return Slopes(t, s, e, [x + spread + C * eps for x in moved], spread)


def of_every(names, values):
    return pytest.mark.parametrize(names, values)


EVERY = [
    of_every("name", LINKS),
    of_every("shape", SHAPES),
    pytest.mark.parametrize("dtype", **DTYPES),
]


def every(test):
    for mark in EVERY:
        test = mark(test)
    return test


def misfit(found, right, bounds, dtype, factor=1):
    """The entries out of bounds. Sums of numbers below the normal ones may be lost."""
    tiny = float(np.finfo(dtype).tiny)
    entries = zip(exact(np.asarray(found)), right, bounds, strict=True)
    return [
        (i, float(x), float(a), float(b))
        for i, (x, a, b) in enumerate(entries)
        if not abs(x - a) <= factor * b + 8 * tiny
    ]


def inputs(shape, gap, dtype):
    z = np.asarray(SHAPES[shape](gap), dtype)
    return z, V.astype(dtype), W.astype(dtype), float(np.finfo(dtype).eps)


@every
@of_every("of", PRIORS)
def test_probabilities_and_their_logarithms(of, dtype, shape, name):
    """Forwards and backwards, and of log p, where nothing underflows."""
    case = LINKS[name]
    q = None if PRIORS[of] is None else np.asarray(PRIORS[of], dtype)
    f = functools.partial(js.regularized_argmax, regularizer=case.regularizer, prior=q)

    @jax.jit
    def derivatives(z, v):
        return jax.jvp(f, (z,), (v,))[1], jax.vjp(f, z)[1](v)[0]

    for gap in GAPS:
        z, v, _, eps = inputs(shape, gap, dtype)
        with mp.workdps(oracle.DIGITS):
            row = slopes(case, exact(z), eps, prior=None if q is None else exact(q))
            right, bounds = row.tangent(exact(v)), row.bounds(exact(v), eps)
            for found in derivatives(z, v):  # the Jacobian is symmetric
                assert misfit(found, right, bounds, dtype) == [], gap


@every
def test_losses_and_their_gradients_have_these_slopes(dtype, shape, name):
    """The Hessian of a loss and of a smooth maximum is that of p, at every label."""
    case = LINKS[name]

    def loss(z, label):
        return js.fenchel_young_loss(z, label, case.regularizer)

    def maximum(z, _):
        return js.smoothmax(z, regularizer=case.regularizer)

    @jax.jit
    def derivatives(z, v):
        labels = jnp.arange(4)
        each = jax.vmap(jax.grad(loss), (None, 0))(z, labels)
        along = [
            jax.jvp(lambda z: jax.grad(f)(z, label), (z,), (v,))[1]
            for f, label in ((loss, 1), (loss, 3), (maximum, 0))
        ]
        return each, along

    for gap in GAPS:
        z, v, _, eps = inputs(shape, gap, dtype)
        with mp.workdps(oracle.DIGITS):
            row = slopes(case, exact(z), eps)
            right, bounds = row.tangent(exact(v)), row.bounds(exact(v), eps)
            gradients, along = derivatives(z, v)
            for found in along:
                assert misfit(found, right, bounds, dtype) == [], gap
            for label, found in enumerate(gradients):
                assert misfit(found, *_surplus(case, row, {label}), dtype) == [], (gap, label)


def _surplus(case, row, labels):
    """p − y, relative to itself: |dp| and |d(1 − p)| are s δ, and s is below both."""
    right = [
        -case.link.rest(t) if i in labels else case.link.link(t) for i, t in enumerate(row.t)
    ]
    # For the class with almost all mass 1 − p is the sum of all others.
    others = [sum(abs(x) * d for x, d in zip(right, row.delta, strict=True))] * len(right)
    own = [abs(x) * d for x, d in zip(right, row.delta, strict=True)]
    return right, [b if i in labels else a for i, (a, b) in enumerate(zip(own, others, strict=True))]


@every
@of_every("k", [1, 2, 3])
def test_top_k(k, dtype, shape, name):
    """Mapping, its change with k, and the loss with its gradient, however little is left."""
    case = LINKS[name]
    labels = {1, 3} if k == 2 else set(range(k))

    def mapping(z, k):
        return js.topk_entmax(z, k, regularizer=case.regularizer)

    def loss(z):
        return js.topk_entmax_loss(z, jnp.array(sorted(labels)), regularizer=case.regularizer)

    @jax.jit
    def derivatives(z, v):
        mass, one, still = jnp.asarray(k, z.dtype), jnp.ones((), z.dtype), jnp.zeros((), z.dtype)
        along_z = jax.jvp(mapping, (z, mass), (v, still))[1]
        along_k = jax.jvp(mapping, (z, mass), (0 * v, one))[1]
        return along_z, along_k, *jax.value_and_grad(loss)(z)

    for gap in GAPS:
        z, v, _, eps = inputs(shape, gap, dtype)
        with mp.workdps(500):
            y = exact(z)
            row = slopes(case, y, eps, k)
            along_z, along_k, value, gradient = derivatives(z, v)
            tangent, bounds = row.tangent(exact(v)), row.bounds(exact(v), eps)
            assert misfit(along_z, tangent, bounds, dtype) == [], gap
            # A share is known to its own δ and to that of their sum.
            shared = row.mean(row.delta)
            bounds = [e * (d + shared) for e, d in zip(row.e, row.delta, strict=True)]
            assert misfit(along_k, row.e, bounds, dtype) == [], gap
            move = _surplus(case, row, labels)
            assert misfit(gradient, *move, dtype) == [], gap
            p = [case.link.link(t) for t in row.t]
            right = sum(
                a * x - case.link.value(a) - (i in labels) * x
                for i, (a, x) in enumerate(zip(p, y, strict=True))
            )
            moved = sum(abs(a) * d for a, d in zip(move[0], row.delta, strict=True))
            assert misfit([value], [right], [4 * C * eps * right + moved], dtype) == [], gap


@every
def test_second_derivatives(dtype, shape, name):
    """Against central differences of the exact first ones."""
    case, step = LINKS[name], mpf("1e-18")
    f = functools.partial(js.regularized_argmax, regularizer=case.regularizer)

    @jax.jit
    def second(z, v, w):
        return jax.jvp(lambda z: jax.jvp(f, (z,), (v,))[1], (z,), (w,))[1]

    for gap in GAPS:
        z, v, w, eps = inputs(shape, gap, dtype)
        with mp.workdps(oracle.DIGITS):
            y, v_exact = exact(z), exact(v)
            ends = (
                slopes(case, [a + sign * step * b for a, b in zip(y, exact(w), strict=True)], eps)
                for sign in (1, -1)
            )
            high, low = (end.tangent(v_exact) for end in ends)
            right = [(a - b) / (2 * step) for a, b in zip(high, low, strict=True)]
            row = slopes(case, y, eps)
            size = 8 * float(abs(v).max()) * float(abs(w).max())
            bounds = [3 * size * s * (d + row.mean(row.delta)) for s, d in zip(row.s, row.delta)]
            assert misfit(second(z, v, w), right, bounds, dtype) == [], gap
