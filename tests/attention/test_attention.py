"""Attention equals its dense formula: value and derivatives, for all options in combination."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests import oracles
from tests.attention import attention_oracle
from tests.attention.attention_table import (
    NARROW,
    PLAIN,
    ROWS,
    N,
    S,
    T,
    arrays,
    directions,
    expected,
    gradient,
    name,
    orders,
)

near = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)
# α of each kind: two closed forms, a power of the link that is not an integer, and none at all.
MORE = [PLAIN._replace(alpha=alpha) for alpha in (1.25, 2.5, np.inf)]


# Of the table the first of every α that is a number and streamed, all options of a narrow window,
# and α by head.
TWICE = [
    next(row for row in ROWS if row.alpha == alpha and row.blocks != (None, None))
    for alpha in (1.0, 1.5, 2.0, 3.0)
]
TWICE += [NARROW[0], PLAIN._replace(alpha="N", bias="NT1", sinks="N", scale="N")]


def each(rows):
    """Every row is a program of its own and compiles slowly; a few stand for all in `make test`."""
    few = [row for row in rows if row.alpha in (1.0, 1.5)][:4]
    marked = [pytest.param(row, marks=[] if row in few else [pytest.mark.slow]) for row in rows]
    return pytest.mark.parametrize("row", marked, ids=name)


@each(ROWS + NARROW + MORE)
def test_value_and_first_derivatives_are_those_of_the_dense_formula(row):
    moving, fixed = arrays(row)
    tangents, weights = directions(row, moving)
    right = expected(row, moving, fixed, tangents, weights)
    near(orders(row, moving, fixed, tangents, weights), right._replace(hessian_vector=None))


@pytest.mark.slow
@pytest.mark.parametrize("row", TWICE, ids=name)
def test_second_derivatives_are_those_of_the_dense_formula(row):
    """The Hessian times a vector, forward over reverse and reverse over reverse.

    Where α = 3 a weight p passes p⁻⁵ times the rounding of its score on to them, so that arrays are
    taken where none but zero is below 0.15: 10⁴ roundings are 10⁻¹².
    """
    moving, fixed = arrays(row, seed=351 if row.alpha == 3 else 0)
    tangents, weights = directions(row, moving)
    right = expected(row, moving, fixed, tangents, weights).hessian_vector
    for actual in hessian_vector(row, moving, fixed, tangents, weights):
        near(actual, right)


@functools.partial(jax.jit, static_argnums=0)
def hessian_vector(row, moving, fixed, tangents, weights):
    slope = functools.partial(gradient, lambda x: row(x, fixed), weights=weights)
    return jax.jvp(slope, (moving,), (tangents,))[1], jax.vjp(slope, moving)[1](tangents)[0]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 3.0, np.inf])
def test_a_traced_order_is_any_order(alpha):
    """Value and derivatives, in α too, by one compiled function."""
    row = PLAIN._replace(alpha="")
    moving, fixed = arrays(row)
    moving["alpha"] = np.array(alpha)
    tangents, weights = directions(row, moving)
    right = expected(row, moving, fixed, tangents, weights)
    near(orders(row, moving, fixed, tangents, weights), right._replace(hessian_vector=None))


@pytest.mark.law  # so that loops within loops are differentiated with the oldest JAX too
@pytest.mark.parametrize("blocks", [(1, 2), (None, 4), (2, S)])
def test_any_blocks_will_do(blocks):
    """Of one query, for keys alone, and of all keys."""
    row = PLAIN._replace(alpha=1.5, blocks=blocks)
    moving, fixed = arrays(row)
    tangents, weights = directions(row, moving)
    right = expected(row, moving, fixed, tangents, weights)
    near(orders(row, moving, fixed, tangents, weights), right._replace(hessian_vector=None))


RESIDUAL = [
    PLAIN,
    PLAIN._replace(alpha=1.5, mask="B1TS", sinks="N", logits_soft_cap=1.5, key_heads=2),
    PLAIN._replace(alpha=np.inf, sinks="N", bias="NT1", blocks=(None, None)),
    PLAIN._replace(alpha="N", lengths="keys", bias="NT1", scale="N", sinks=0.0, batch=()),
]


@each(RESIDUAL)
def test_the_residual_is_the_threshold_with_its_derivatives(row):
    """At α = 1 it is logsumexp, at α = ∞ the top score; a row without keys has −∞."""
    moving, fixed = arrays(row)
    tangents, weights = directions(row, moving)
    weights = weights, np.random.default_rng(2).normal(size=(*row.batch, T, N))
    right = expected(row, moving, fixed, tangents, weights)
    actual = orders(row, moving, fixed, tangents, weights, return_residual=True)
    near(actual, right._replace(hessian_vector=None))


@each([*ROWS[::7], MORE[-1]])
def test_the_weights_to_look_at_are_those_that_mix(row):
    moving, fixed = arrays(row)
    options = {x: row.options[x] for x in row.options if not x.startswith("block")}

    @jax.jit
    def mixed(value, **without_value):
        p = js.attention_weights(**without_value, **fixed, **options)
        assert p.shape == (*row.batch, N, T, S)
        return jnp.einsum("...nts,...snh->...tnh", p, jnp.repeat(value, N // row.key_heads, -2))

    right = expected(row, moving, fixed, *directions(row, moving))
    near(mixed(**moving), right.out)


def test_one_head_of_keys_serves_consecutive_heads_of_queries():
    rng = np.random.default_rng(5)
    q, k, v = (rng.normal(size=(1, 5, heads, 3)) for heads in (4, 2, 2))
    attend = jax.jit(js.dot_product_attention)
    near(attend(q, k, v), attend(q, *(x[:, :, [0, 0, 1, 1]] for x in (k, v))))


@pytest.mark.parametrize("regularizer", [js.FermiDirac(), js.Laplace()], ids=repr)
def test_a_query_that_sees_nothing_moves_nothing_under_a_link_with_a_bound(regularizer):
    """There ω′ is infinite at p = 1, which is the log-mass that an empty row is given."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 1, 3)))

    def loss(x):
        out = js.dot_product_attention(
            x, x, x, regularizer=regularizer, query_seq_lengths=np.array([2])
        )
        return jnp.sum(out**2)

    value, slopes = jax.value_and_grad(loss)(x)
    alone = js.dot_product_attention(x[:, :2], x, x, regularizer=regularizer)
    np.testing.assert_allclose(value, jnp.sum(alone**2), rtol=1e-12)
    check_grads(loss, (x,), order=1, modes=["rev"])
    assert np.isfinite(slopes).all()


def test_a_sink_of_zero_is_softmax_off_by_one():
    """exp z / (1 + Σ exp z)."""
    rng = np.random.default_rng(6)
    q, k, v = rng.normal(size=(3, 5, 1, 4))
    z = q[:, 0] @ k[:, 0].T / 2
    p = np.exp(z) / (1 + np.exp(z).sum(-1, keepdims=True))
    near(js.dot_product_attention(q, k, v, sinks=0.0)[:, 0], p @ v[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.25, 1.5, 2.0, 3.0, np.inf])
def test_the_dense_formula_has_the_right_weights_and_derivatives(alpha):
    """Against the oracles of the mappings, and by differences of order 1 and 2."""
    z = np.random.default_rng(7).normal(size=(4, 6))
    z[1, 2], z[2] = -np.inf, [1, 1, 1, 0, 0, -1]
    alphas = np.full((4, 1), alpha)
    p, tau = dense_entmax(z, alphas)
    near(p, np.asarray(oracles.entmax(z, alpha), float), atol=1e-14)
    if alpha < np.inf:
        rows, orders = z[[0, 3]], alphas[[0, 3]]
        if alpha == 1:  # a difference would leave the series for a power of almost 1/0

            def along_z(z):
                return dense_entmax(z, orders)

            check_grads(along_z, (rows,), order=2, rtol=1e-5, atol=1e-5)
        else:
            check_grads(dense_entmax, (rows, orders), order=2, rtol=1e-5, atol=1e-5)
        a, t = alpha - 1, z - tau[:, None]
        positive = np.where(p > 0, p, 1)
        right = np.log(positive) if a == 0 else (positive**a - 1) / a
        near(np.where(p > 0, t, 0), np.where(p > 0, right, 0), atol=1e-13)


dense_entmax = jax.jit(attention_oracle.entmax)
