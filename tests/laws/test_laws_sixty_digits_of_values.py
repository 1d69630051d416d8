"""Smooth maxima, losses, attention and inverses against sixty digits, at gaps of 1 to 1e5.

The error explained by rounding: scores are known to δ = c ε of their distance from the largest, so
that a smooth maximum moves by Σ p δ and a loss by Σ |p − y| δ; and c ε of the value itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf

import jsoftmax as js
from tests import oracle_of_sixty_digits as oracle
from tests.laws.test_laws_sixty_digits import DTYPES, REGULARIZERS, C, gaps_and_temperatures
from tests.oracle_of_sixty_digits import exact

CLASSES = 3
QUICK = ("Tsallis 1", "Tsallis 1.5", "FermiDirac")


def some(names):
    nightly = [pytest.mark.nightly, pytest.mark.slow]
    return [pytest.param(n, marks=[] if n in names else nightly) for n in REGULARIZERS]


def digits_for(dtype):
    """Enough to tell the smallest normal number from 0 beside 1."""
    return oracle.DIGITS if dtype == np.float32 else 400


@functools.cache
def solved(name, dtype, number, with_temperature=True):
    z, t = gaps_and_temperatures(CLASSES, dtype)[number]
    z, t = (z, t) if with_temperature else (z / t, dtype(1))
    with mp.workdps(digits_for(dtype)):
        y, eps = [x / mpf(float(t)) for x in exact(z)], float(np.finfo(dtype).eps)
        noise = oracle.spread(y, C * eps)
        link = REGULARIZERS[name][1]
        right = oracle.solution(link, y, noise, C * eps, digits=digits_for(dtype))
    return z, t, y, noise, right


def rows(dtype, every):
    return range(1, len(gaps_and_temperatures(CLASSES, dtype)), every)


@pytest.mark.parametrize("dtype", **DTYPES)
@pytest.mark.parametrize("name", some(QUICK))
def test_smooth_maxima(name, dtype):
    """T Ω*(z/T), relative to the largest score and to its distance above that."""
    regularizer, link = REGULARIZERS[name]
    function = jax.jit(lambda z, t: js.smoothmax(z, regularizer=regularizer, temperature=t))
    eps = float(np.finfo(dtype).eps)
    for number in rows(dtype, 12 if dtype == np.float32 else 40):
        z, t, y, noise, right = solved(name, dtype, number)
        with mp.workdps(digits_for(dtype)):
            top, t_exact = max(y), mpf(float(t))
            excess = sum(p * (x - top) - link.value(p) for p, x in zip(right.p, y, strict=True))
            moved = sum(p * d for p, d in zip(right.most, noise, strict=True))
            error = abs(mpf(float(function(z, t))) - t_exact * (top + excess))
            assert error <= t_exact * (C * eps * (abs(top) + max(excess, 1)) + moved), (z, t)


@pytest.mark.parametrize("dtype", **DTYPES)
@pytest.mark.parametrize("name", some(QUICK))
def test_losses_of_labels(name, dtype):
    """Ω*(z) + Ω(y) − ⟨y, z⟩, relative to itself however small it is."""
    regularizer, link = REGULARIZERS[name]
    eps, tiny = (float(getattr(np.finfo(dtype), x)) for x in ("eps", "tiny"))

    @jax.jit
    def losses(z):
        z = jnp.broadcast_to(z, (CLASSES, CLASSES))
        return js.fenchel_young_loss(z, jnp.arange(CLASSES), regularizer)

    wrong = []
    for number in rows(dtype, 12 if dtype == np.float32 else 40):
        z, _, y, noise, right = solved(name, dtype, number, False)
        with mp.workdps(digits_for(dtype)):
            for label, loss in enumerate(np.asarray(losses(z))):
                value = sum(
                    p * (x - y[label]) - link.value(p) for p, x in zip(right.p, y, strict=True)
                )
                moved = sum(
                    max(abs(p - (i == label)) for p in (right.least[i], right.most[i])) * noise[i]
                    for i in range(CLASSES)
                )
                error = abs(mpf(float(loss)) - value)
                if not error <= 4 * C * eps * abs(value) + moved + tiny:
                    wrong.append((z, label, float(loss), float(value), float(moved)))
    assert wrong == []


@pytest.mark.parametrize("dtype", **DTYPES)
def test_temperatures_at_which_classes_enter(dtype):
    """The inverse of entmax: T_k = a (Σ (z_j − z_k)₊^(1/a))^a."""
    eps = float(np.finfo(dtype).eps)
    for alpha in (1.2, 1.5, 2.0, 3.0):
        function = jax.jit(functools.partial(js.calibration.entmax_scores, alpha=alpha))
        for z, _ in gaps_and_temperatures(6, dtype)[::3]:
            with mp.workdps(oracle.DIGITS):
                scores, a, x = np.asarray(function(z)), mpf(alpha) - 1, exact(z)
                for score, lowest in zip(scores, x, strict=True):
                    gaps = [v - lowest for v in x if v > lowest]
                    right = a * sum((g ** (1 / a) for g in gaps), mpf(0)) ** a
                    # Differences of differences from the largest are as far off as these.
                    off = sum((eps * max(gaps) for _ in gaps), mpf(0))
                    bound = C * eps * right + a * off
                    assert abs(mpf(float(score)) - right) <= bound, (z, alpha)


@pytest.mark.parametrize("dtype", **DTYPES)
def test_the_temperature_of_mellowmax(dtype):
    """β = 1/T with Σ p x = mm(x), to C ε of the spread of ωx, and the policy to that of βx."""
    function, eps = jax.jit(js.mellowmax_temperature), float(np.finfo(dtype).eps)
    wrong = []
    for x, t in gaps_and_temperatures(3, dtype)[::2]:
        found = function(x, 1 / t)
        with mp.workdps(oracle.DIGITS):
            w = mpf(float(1 / t))
            v = [w * (s - max(exact(x))) for s in exact(x)]
            level = mp.log(sum(mp.exp(s) for s in v) / 3)
            low, high = mpf(0), mpf(1)
            for _ in range(190):
                r = (low + high) / 2
                weights = [mp.exp(r * s) for s in v]
                enough = sum(q * (s - level) for q, s in zip(weights, v, strict=True)) >= 0
                low, high = (low, r) if enough else (r, high)
            error = abs(w * mpf(float(found[0])) * r - 1)
            if not error <= C * eps * max(1, -min(v)):
                wrong.append((x, float(t), float(found[0]), float(1 / (w * r)), float(error / eps)))
    assert wrong == []


@pytest.mark.parametrize("name", some(("Tsallis 1.5", "FermiDirac")))
def test_attention_and_its_weights(name):
    """Keys that are scores; the weights again where they are recomputed for the backward pass."""
    regularizer, link = REGULARIZERS[name]
    eps, tiny = (float(getattr(np.finfo(np.float32), x)) for x in ("eps", "tiny"))
    values = jnp.eye(CLASSES, dtype=np.float32)[None, :, None, :]

    def attend(z, v):
        q, k = jnp.ones((1, 1, 1, 1), z.dtype), z[None, :, None, None]
        return js.dot_product_attention(q, k, v, regularizer=regularizer, scale=1.0)[0, 0, 0]

    forward = jax.jit(attend)
    backward = jax.jit(lambda z, v: jax.grad(lambda v: attend(z, v)[0])(v)[0, :, 0, 0])
    for z, t in gaps_and_temperatures(CLASSES, np.float32)[2::13]:
        z = z / t
        with mp.workdps(oracle.DIGITS):
            y = exact(z)
            right = oracle.solution(link, y, oracle.spread(y, C * eps), C * eps)
            for p in (forward(z, values), backward(z, values)):
                assert oracle.misfits(np.asarray(p), right, tiny) == [], (z, p)
