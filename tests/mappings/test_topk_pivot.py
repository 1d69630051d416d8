"""The pivot of `topk_entmax`: by bisection on CPUs, and by rank elsewhere."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax.core import _capped_simplex
from jsoftmax.core._axis import ClassAxis

ROWS, CLASSES = 10_000, 20
rng = np.random.default_rng(0)


def scores(dtype):
    """With ties, and classes that take no part."""
    z = rng.normal(size=(ROWS, CLASSES)).round(1)
    z[rng.random(z.shape) < 0.2] = -np.inf
    return jnp.asarray(z, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [0.3, 1, 2.5, 6, 20])
def test_both_ways_find_the_same_score(k, dtype):
    z = scores(dtype)
    upper = jnp.where(z == -jnp.inf, 0, jnp.ones_like(z))
    has_room = jnp.sum(upper, -1) >= k  # other rows are not solved
    total = jnp.full((1, 1), k, dtype)
    by_bits = _capped_simplex._bisected(z, upper, total, ClassAxis((-1,), None))
    ranked = functools.partial(_capped_simplex._ranked, rank=math.ceil(k))
    by_rank = ranked(z, upper, total, ClassAxis((-1,), None))
    np.testing.assert_array_equal(by_rank[has_room], by_bits[has_room])
    along_first = ranked(z.T, upper.T, total, ClassAxis((-2,), None))
    np.testing.assert_array_equal(along_first.T, by_rank)
    if k <= CLASSES // 4:
        parts = jnp.moveaxis(z.reshape(ROWS, 4, -1), 1, 0)
        split = functools.partial(ranked, classes=ClassAxis((-1,), "parts"))
        found = jax.vmap(lambda z: split(z, z, total), axis_name="parts")(parts)
        for part in found:
            np.testing.assert_array_equal(part, by_rank)
