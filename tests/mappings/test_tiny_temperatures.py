"""Derivatives where z/T² overflows, and computations that form no infinity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.mappings.mapping_helpers import AT_A_TEMPERATURE
from tests.marks import some

LOGITS = np.array([2.875, 2.9551, 11.0625, -3.0, 11.0615])
POWERS = {
    "float32": range(1, 46),
    "float64": [*range(1, 46, 4), 100, 150, 160, 200, 290, 300, 307, 310, 320, 323],
}
# Their slope in T is that of a score over T, which has no bound.
UNBOUNDED = {"log_softmax", "log_partition"}
# Their slope in T tends to an entropy of ties, or as slowly to 0 as heavy tails vanish.
WITH_A_LIMIT = {"logsumexp", "smoothmax", "smoothmax at 2", "free_energy", "entmax at 0.5"}


ALWAYS = {(name, "float32") for name in ("softmax", "log_softmax", "topk_entmax", "heat_capacity")}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[] if (name, dtype) in ALWAYS else pytest.mark.slow)
        for name in AT_A_TEMPERATURE
        for dtype in POWERS
    ],
)
def test_values_and_slopes_at_any_temperature_are_numbers(name, dtype):
    """From 1/10 to the least subnormal, of both signs; far below all gaps the limits."""

    def at(z, t):
        return AT_A_TEMPERATURE[name](z, temperature=t)

    @jax.jit
    @jax.vmap
    def everything(t):
        z = jnp.asarray(LOGITS, dtype)
        _, along = jax.jvp(lambda t: at(z, t), (t,), (jnp.ones_like(t),))
        return at(z, t), jax.jacrev(at)(z, t), jax.jacrev(at, 1)(z, t), along

    temperatures = np.array([s * 10.0**-k for k in POWERS[dtype] for s in (1, -1)], dtype)
    value, *slopes = (np.asarray(x) for x in everything(temperatures))
    assert not np.isnan(value).any()
    for slope in slopes:
        assert np.isfinite(slope).all()
    if name not in UNBOUNDED:
        assert np.isfinite(value).all()
        np.testing.assert_allclose(*slopes[1:], rtol=1e-5, atol=1e-30)
        if name not in WITH_A_LIMIT:
            assert (slopes[1][np.abs(temperatures) < 1e-8] == 0).all()


TIES = np.array([1.0, 3.0, 3.0, -2.0, 0.5])
TINY = {
    "float32": [0, 1e-38, 1.2e-38, 1e-30, 1e-19, 1e-13, 1e-6],
    "float64": [0, 1e-308, 1e-200, 1e-160, 1e-150, 1e-38, 1e-13, 1e-6],
}
BENT = {name: f for name, f in AT_A_TEMPERATURE.items() if name not in UNBOUNDED}
BENT |= {
    type(r).__name__: functools.partial(js.regularized_argmax, regularizer=r)
    for r in (js.FermiDirac(), js.Elastic(2.0), js.JensenShannon(), js.Laplace())
}
BENT["cross_entropy"] = lambda z, **options: js.cross_entropy(z, 2, **options)


@pytest.mark.parametrize("dtype", TINY)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("softmax", "entmax") else pytest.mark.slow)
        for name in BENT
    ],
)
def test_second_derivatives_in_the_temperature_are_numbers(name, dtype):
    """Forward and reverse; 0 where p is the limit, with ties and without."""

    def at(z, t):
        return BENT[name](z, temperature=t)

    @jax.jit
    def second(z, t):
        forward, reverse = jax.jacfwd(at, 1), jax.jacrev(at, 1)
        return jax.jacfwd(forward, 1)(z, t), jax.jacfwd(reverse, 1)(z, t), jax.jacfwd(reverse)(z, t)

    for row in (LOGITS, TIES):
        for t in TINY[dtype]:
            bends = second(jnp.asarray(row, dtype), jnp.asarray(t, dtype))
            assert not any(np.isnan(np.asarray(x)).any() for x in bends), (row, t)
            if name not in WITH_A_LIMIT and (row is TIES or t < 1e-6):
                assert (np.asarray(bends[0]) == 0).all(), (row, t)


def test_a_slope_at_a_small_temperature_is_right_to_rounding():
    """Where scores are as near to one another as T is small: d/dT of σ(d/T) is −σ(1−σ) d/T²."""
    for dtype, t in (("float32", 1e-24), ("float64", 1e-200)):
        d = np.asarray(0.3 * t, dtype)
        z = jnp.stack([jnp.asarray(0, dtype), jnp.asarray(d)])
        slope = jax.grad(lambda t, z=z: js.softmax(z, temperature=t)[1])(jnp.asarray(t, dtype))
        sigma = 1 / (1 + np.exp(-0.3))
        np.testing.assert_allclose(float(slope) * t, -sigma * (1 - sigma) * 0.3, rtol=1e-6)


QUIET = ["entmax", "entmax at 3.0", "log_softmax", "log_partition", "heat_capacity"]


@pytest.mark.parametrize("name", some(["softmax", *QUIET], ["softmax"]))
def test_no_infinity_or_nan_is_formed_of_finite_scores(name):
    """Eagerly, where every operation is looked at, and compiled."""
    z = jnp.asarray(LOGITS, jnp.float32)
    for t in (1.0, jnp.float32(0.7), 1e-25):

        def both(z, t=t):
            return AT_A_TEMPERATURE[name](z, temperature=t)

        with jax.debug_nans(True), jax.debug_infs(True):
            for f in (both, jax.jit(both)):
                jax.block_until_ready(f(z))
                jax.block_until_ready(jax.grad(lambda z, f=f: f(z).sum())(z))
