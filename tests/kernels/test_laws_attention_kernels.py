"""The laws of attention hold for its kernels, interpreted in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.attention import test_attention_edges as edges
from tests.attention.attention_table import (
    NARROW,
    PLAIN,
    ROWS,
    arrays,
    directions,
    expected,
    name,
    orders,
)
from tests.kernels.by_kernels import platform, take

__all__ = ["platform"]
pytestmark = [pytest.mark.kernels, pytest.mark.slow]
near = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)
MORE = [PLAIN._replace(alpha=alpha) for alpha in (1.25, 2.5, np.inf)]
# Tiles of a TPU are large compared with these few queries and keys. So most rows of the table, with
# masks that cut through blocks, are those of a GPU.
TABLE = [*((row, "gpu") for row in ROWS + NARROW + MORE), *((row, "tpu") for row in ROWS[::4])]


@pytest.mark.parametrize(("row", "kind"), TABLE, ids=lambda x: x if isinstance(x, str) else name(x))
def test_value_and_derivatives_are_those_of_the_dense_formula(row, kind, monkeypatch):
    """In the table where every two levels of different options meet."""
    take(monkeypatch, kind)
    moving, fixed = arrays(row)
    tangents, weights = directions(row, moving)
    right = expected(row, moving, fixed, tangents, weights)
    near(orders(row, moving, fixed, tangents, weights), right._replace(hessian_vector=None))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_second_derivatives_are_those_of_the_dense_formula(alpha, platform):
    row = PLAIN._replace(alpha=alpha, window="causal", bias="NT1", sinks="N")
    moving, fixed = arrays(row)
    tangents, weights = directions(row, moving)
    right = expected(row, moving, fixed, tangents, weights).hessian_vector

    def slope(moving):
        return jax.vjp(lambda x: row(x, fixed), moving)[1](weights)[0]

    forward = jax.jit(lambda: jax.jvp(slope, (moving,), (tangents,))[1])()
    reverse = jax.jit(lambda: jax.vjp(slope, moving)[1](tangents)[0])()
    near(forward, right)
    near(reverse, right)


def test_the_threshold_and_its_derivatives(platform):
    row = PLAIN._replace(alpha=1.5, window="causal", key_heads=2)
    moving, fixed = arrays(row)
    tangents, weights = directions(row, moving)
    pair = weights, np.random.default_rng(3).normal(size=weights.shape[:-1])
    right = expected(row, moving, fixed, tangents, pair)
    actual = orders(row, moving, fixed, tangents, pair, return_residual=True)
    near(actual, right._replace(hessian_vector=None))


@pytest.mark.parametrize("alpha", [1.0, 1.5, "N"])
def test_what_is_hidden_does_not_matter_whatever_it_is(alpha, platform):
    edges.test_what_is_hidden_does_not_matter_whatever_it_is(alpha)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_a_query_that_takes_no_part_may_be_nan(alpha, platform):
    edges.test_a_query_that_takes_no_part_may_be_nan(alpha)


@pytest.mark.parametrize("alpha", [1.0, 1.5, "N"])
def test_a_row_that_sees_nothing_is_zero_and_so_are_all_its_derivatives(alpha, platform):
    edges.test_a_row_that_sees_nothing_is_zero_and_so_are_all_its_derivatives(alpha)


def test_dropout_drops_the_same_weights_as_that_of_xla(platform):
    """Those of a batch entry and a head, and those that all share."""
    row = PLAIN._replace(alpha=1.5, key_heads=2)
    moving, fixed = arrays(row)
    for shared in (False, True):
        options = dict(
            alpha=1.5, dropout_rng=jax.random.key(1), dropout_rate=0.4, broadcast_dropout=shared
        )

        def loss(moving, implementation, options=options):
            out = _plain(**moving, **fixed, **options, implementation=implementation)
            return jnp.sum(jnp.sin(out))

        found = jax.jit(jax.value_and_grad(loss), static_argnums=1)
        near(found(moving, "pallas"), found(moving, "xla"))


_plain = js.dot_product_attention
