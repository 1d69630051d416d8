"""Derivatives of bounded links against sixty digits, where a p rounds to its bound.

With t = z − τ, slopes s = q slope(t) and shares e = s/Σ s, ṗ = s (ż − τ̇) for τ̇ = Σ e ż. Rounding
leaves Δt = C ε (|t| + max z − z) of every t, as in the other files of sixty digits, and Σ e Δt of
the threshold that all of them share. Since |d log s/dt| ≤ 1, a slope is known to the factor 1 ± δ,

    δ_i = Δt_i + Σ e Δt + C ε,     |Δṗ_i| ≤ s_i (δ_i |ż_i − τ̇| + 2 Σ e δ |ż − τ̇| + C ε |ż|).

A second derivative is a sum of products of three such factors, s (1 − 2p) (ż − τ̇) (z̈ − τ̈) and
the like, each known to δ: 3 δ times the sum of their absolute values, 8 s |v| |w| at most.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf

import jsoftmax as js
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._simplex import log_probabilities
from tests import oracle_of_sixty_digits as oracle
from tests.laws.test_laws_sixty_digits import C
from tests.marks import some
from tests.oracle_of_sixty_digits import Link, Row, exact

GAPS = (1, 10, 30, 60, 100, 1e3)
SHAPES = {  # of a row with a gap: below the first class, and below the second
    "first": lambda gap: [0.7, 0.4, -0.4, 0.7 + gap],
    "second": lambda gap: [0.4, 0.7 + gap, -0.3, gap],
}
PRIORS = {"no prior": None, "prior": (0.9, 0.6, 1.3, 0.2), "prior of two": (1.0, 0.5, 0.25, 0.5)}
V, W = np.array([0.3, -1.2, 0.8, 0.5]), np.array([-0.4, 0.9, 0.1, -1.1])
each = functools.partial(zip, strict=True)


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

    def mean(self, x: Row) -> mpf:
        return sum(a * b for a, b in each(self.e, x))

    def tangent(self, v: Row) -> Row:
        """ṗ."""
        mean = self.mean(v)
        return [s * (x - mean) for s, x in each(self.s, v)]

    def bounds(self, v: Row, eps: float) -> Row:
        mean, most = self.mean(v), max(map(abs, v))
        away = [abs(x - mean) for x in v]
        shared = 2 * self.mean([d * a for d, a in each(self.delta, away)])
        entries = each(self.s, self.delta, away)
        return [s * (d * a + shared + C * eps * most) for s, d, a in entries]


def slopes(case: Case, y: Row, eps: float, k: int = 1, prior: Row | None = None) -> Slopes:
    tau = oracle.threshold(case.link, y, k, prior)
    q = prior or [mpf(1)] * len(y)
    t = [x - tau for x in y]
    s = [a * mp.exp(case.log_slope(abs(x))) for a, x in each(q, t)]
    e = [x / sum(s) for x in s]
    moved = [C * eps * (abs(x) + max(y) - z) for x, z in each(t, y)]
    spread = sum(a * b for a, b in each(e, moved))
    return Slopes(t, s, e, [x + spread + C * eps for x in moved])


QUICK = {("FermiDirac", "first", np.float32), ("Laplace", "second", np.float64)}
NIGHTLY = [pytest.mark.nightly, pytest.mark.slow]
every = pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        pytest.param(*case, marks=[] if case in QUICK else NIGHTLY)
        for case in itertools.product(LINKS, SHAPES, (np.float32, np.float64))
    ],
)


def misfit(found, right, bounds, dtype):
    """The entries out of bounds. Sums of numbers below the normal ones may be lost."""
    tiny, entries = float(np.finfo(dtype).tiny), each(exact(np.asarray(found)), right, bounds)
    return [tuple(map(float, x)) for x in entries if not abs(x[0] - x[1]) <= x[2] + 8 * tiny]


def inputs(shape, gap, dtype):
    z = np.asarray(SHAPES[shape](gap), dtype)
    return z, V.astype(dtype), W.astype(dtype), float(np.finfo(dtype).eps)


@every
@pytest.mark.parametrize("of", PRIORS)
def test_probabilities_and_their_logarithms(of, dtype, shape, name):
    """Forwards and backwards, and of log p also where p underflows."""
    case = LINKS[name]
    q = None if PRIORS[of] is None else jnp.asarray(PRIORS[of], dtype)
    f = functools.partial(js.regularized_argmax, regularizer=case.regularizer, prior=q)

    def logarithm(z):
        return log_probabilities(z, q, case.regularizer, ClassAxis((-1,)))

    @jax.jit
    def derivatives(z, v):
        along = (jax.jvp(f, (z,), (v,))[1], jax.vjp(f, z)[1](v)[0])
        return along, jax.jvp(logarithm, (z,), (v,))[1]

    for gap in GAPS:
        z, v, _, eps = inputs(shape, gap, dtype)
        with mp.workdps(oracle.DIGITS):
            row = slopes(case, exact(z), eps, prior=None if q is None else exact(q))
            right, bounds = row.tangent(exact(v)), row.bounds(exact(v), eps)
            along, relative = derivatives(z, v)
            for found in along:  # the Jacobian is symmetric
                assert misfit(found, right, bounds, dtype) == [], gap
            p = [case.link.link(t) * a for t, a in each(row.t, [1] * 4 if q is None else exact(q))]
            right, bounds = ([x / a for x, a in each(xs, p)] for xs in (right, bounds))
            assert misfit(relative, right, bounds, dtype) == [], gap


@every
def test_losses_attention_and_smooth_maxima(dtype, shape, name):
    """The Hessian of a loss and of a smooth maximum is the Jacobian of p, and of attention."""
    case = LINKS[name]

    def loss(z, label):
        return js.fenchel_young_loss(z, label, case.regularizer)

    def linear(z, label):
        return js.linear_fenchel_young_loss(jnp.ones(1, z.dtype), z[None], label, case.regularizer)

    def maximum(z, label):
        return js.smoothmax(z, regularizer=case.regularizer)

    def attended(z):
        k, v = z[None, :, None, None], jnp.eye(4, dtype=z.dtype)[None, :, None]
        one = jnp.ones((1, 1, 1, 1), z.dtype)
        attend = functools.partial(js.dot_product_attention, regularizer=case.regularizer, scale=1)
        return attend(one, k, v)[0, 0, 0]

    @jax.jit
    def derivatives(z, v):
        labels = jnp.arange(4)
        gradients = jax.vmap(jax.grad(loss), (None, 0))(z, labels)
        along = [
            jax.jvp(functools.partial(jax.grad(f), label=label), (z,), (v,))[1]
            for f, label in ((loss, 1), (loss, 3), (maximum, 0), (linear, 1), (linear, 3))
        ]
        return gradients, [*along, jax.jvp(attended, (z,), (v,))[1], jax.vjp(attended, z)[1](v)[0]]

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
    right = [-case.link.rest(t) if i in labels else case.link.link(t) for i, t in enumerate(row.t)]
    # For the class with almost all mass 1 − p is the sum of all others.
    others = [sum(abs(x) * d for x, d in each(right, row.delta))] * len(right)
    own = [abs(x) * d for x, d in each(right, row.delta)]
    return right, [b if i in labels else a for i, (a, b) in enumerate(each(own, others))]


@every
@pytest.mark.parametrize("k", some([1, 2, 3], [2]))
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
        along_z = jax.jvp(lambda z: mapping(z, k), (z,), (v,))[1]
        along_k = jax.jacfwd(lambda k: mapping(z, k))(jnp.asarray(k, z.dtype))
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
            bounds = [e * (d + row.mean(row.delta)) for e, d in each(row.e, row.delta)]
            assert misfit(along_k, row.e, bounds, dtype) == [], gap
            move = _surplus(case, row, labels)
            assert misfit(gradient, *move, dtype) == [], gap
            p = [case.link.link(t) for t in row.t]
            right = sum(a * x - case.link.value(a) for a, x in each(p, y))
            right -= sum(y[i] for i in labels)
            moved = sum(abs(a) * d for a, d in each(move[0], row.delta))
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
            moved = ([a + h * b for a, b in each(exact(z), exact(w))] for h in (step, -step))
            high, low = (slopes(case, y, eps).tangent(exact(v)) for y in moved)
            right = [(a - b) / (2 * step) for a, b in each(high, low)]
            row = slopes(case, exact(z), eps)
            size = 8 * float(abs(v).max()) * float(abs(w).max())
            bounds = [3 * size * s * (d + row.mean(row.delta)) for s, d in each(row.s, row.delta)]
            assert misfit(second(z, v, w), right, bounds, dtype) == [], gap
