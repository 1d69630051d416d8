"""Attention at the edges: fully masked queries, NaN, infinities, and difficult parameters."""

import functools

import chex
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jsoftmax as js
from tests.attention.attention_table import (
    PLAIN,
    B,
    N,
    S,
    T,
    arrays,
    directions,
    expected,
    gradient,
    orders,
)

pytestmark = pytest.mark.slow  # together a minute

INF, NAN = np.inf, np.nan
near = functools.partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)
# Those by head, which compile slowly, are 1, 1.5, 2 and ∞.
ALPHAS = [1.0, 1.5, pytest.param("N", marks=pytest.mark.slow)]
# Everything that may hide a key. Keys 7 and 8 come after all queries.
HIDING = PLAIN._replace(
    bias="BNTS", mask="BNTS", window="causal", lengths="keys", segments="B", sinks="N", scale="N",
    blocks=(8, 4),
)  # fmt: skip


def everything_seen(row):
    moving, fixed = arrays(row)
    fixed["mask"] = np.ones((B, N, T, S), bool)
    fixed["key_value_seq_lengths"] = np.full(B, S, np.int32)
    fixed["query_segment_ids"] = np.zeros((B, T), int)
    fixed["key_value_segment_ids"] = np.zeros((B, S), int)
    return moving, fixed


def hide_key(fixed, by):
    """The key that is hidden from every query, in all entries of the batch and all heads."""
    key = {"causal": 8, "keys": 6, "mask": 2, "segments": 3}[by]
    if by == "keys":
        fixed["key_value_seq_lengths"][:] = key
    if by == "mask":
        fixed["mask"][..., key] = False
    if by == "segments":
        fixed["key_value_segment_ids"][:, key] = 1
    return key


@pytest.mark.parametrize("alpha", ALPHAS)
def test_what_is_hidden_does_not_matter_whatever_it_is(alpha):
    """NaN or ∞ in a key, a value or a bias: value and derivatives are those with 0 in its place."""
    row = HIDING._replace(alpha=alpha)
    for by in ("causal", "keys", "mask", "segments"):
        moving, fixed = everything_seen(row)
        key = hide_key(fixed, by)
        tangents, weights = directions(row, moving)
        for name, place in {"key": (0, key, 1, 2), "value": (1, key, 3, 0)}.items():
            moving[name][place] = tangents[name][place] = 0
        moving["bias"][0, 1, :, key] = tangents["bias"][0, 1, :, key] = 0
        right = orders(row, moving, fixed, tangents, weights)
        for spoil in (NAN, INF):
            spoiled = jax.tree.map(np.array, moving)
            spoiled["key"][0, key, 1, 2] = spoiled["value"][1, key, 3, 0] = spoil
            spoiled["bias"][0, 1, :, key] = spoil
            actual = orders(row, spoiled, fixed, tangents, weights)
            near(actual, right)
            assert not np.asarray(actual.gradient["key"])[:, key].any()
            assert not np.asarray(actual.gradient["value"])[:, key].any()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("spoil", [NAN, INF])
def test_nan_reaches_the_rows_that_see_it_and_no_others(alpha, spoil):
    """In the values, and in the derivatives in the queries of those rows."""
    row = HIDING._replace(alpha=alpha)
    moving, fixed = everything_seen(row)
    tangents, weights = directions(row, moving)
    right = orders(row, moving, fixed, tangents, weights)
    for name in ("key", "value", "query"):
        spoiled = jax.tree.map(np.array, moving)
        spoiled[name][1, 4, 2, 1] = spoil
        actual = orders(row, spoiled, fixed, tangents, weights)
        reached = np.zeros((B, T, N), bool)
        reached[1, 4 if name == "query" else slice(4, None), 2] = True  # it is causal
        assert np.isnan(np.asarray(actual.out)[reached]).all()
        for one, other in (
            (actual.out, right.out),
            (actual.tangent, right.tangent),
            (actual.gradient["query"], right.gradient["query"]),
        ):
            near(np.asarray(one)[~reached], np.asarray(other)[~reached])


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_a_query_that_takes_no_part_may_be_nan(alpha):
    row = PLAIN._replace(alpha=alpha, lengths="queries")
    moving, fixed = arrays(row)
    length = fixed["query_seq_lengths"][0]
    tangents, weights = directions(row, moving)
    moving["query"][0, length:] = tangents["query"][0, length:] = 0
    right = orders(row, moving, fixed, tangents, weights)
    moving["query"][0, length:] = NAN
    near(orders(row, moving, fixed, tangents, weights), right)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_row_that_sees_nothing_is_zero_and_so_are_all_its_derivatives(alpha):
    """Exactly; with a sink beside, and hidden by a mask, by −∞ in the bias, or by lengths."""
    row = HIDING._replace(alpha=alpha)
    moving, fixed = everything_seen(row)
    fixed["mask"][0, :, 3] = False
    moving["bias"][0, :, 5] = -INF
    fixed["key_value_seq_lengths"][2] = 0
    unseen = np.zeros((B, T), bool)
    unseen[0, [3, 5]] = unseen[2] = True
    tangents, weights = directions(row, moving)
    weights[~unseen] = 0
    actual = orders(row, moving, fixed, tangents, weights)
    assert not np.asarray(actual.out)[unseen].any()
    assert not np.asarray(actual.tangent)[unseen].any()
    for slope in actual.gradient.values():
        chex.assert_trees_all_equal(slope, np.zeros_like(slope))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_minus_infinity_in_the_bias_hides_as_a_mask_does(alpha):
    row = HIDING._replace(alpha=alpha)
    moving, fixed = everything_seen(row)
    hidden = np.random.default_rng(3).random((B, N, T, S)) < 0.3
    tangents, weights = directions(row, moving)
    masked = orders(row, moving, fixed | {"mask": ~hidden}, tangents, weights)
    moving["bias"][hidden] = -INF
    near(orders(row, moving, fixed, tangents, weights), masked)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_keys_of_infinite_bias_share_a_row_equally(alpha):
    """And no score moves it, while the shared values do."""
    row = HIDING._replace(alpha=alpha)
    moving, fixed = everything_seen(row)
    moving["bias"][:, :, 5, [1, 4]] = INF
    tangents, weights = directions(row, moving)
    weights[:, [0, 1, 2, 3, 4, 6]] = 0
    actual = orders(row, moving, fixed, tangents, weights)
    near(actual.out[:, 5], moving["value"][:, [1, 4]].mean(1))
    near(actual.tangent[:, 5], tangents["value"][:, [1, 4]].mean(1))
    shares = np.zeros_like(moving["value"])
    shares[:, [1, 4]] = weights[:, 5, None] / 2
    near(actual.gradient.pop("value"), shares)
    for slope in actual.gradient.values():
        near(slope, np.zeros_like(slope))


# Products and sums of these are exact, so that scores are equal in whatever order they are summed.
EXACT = [0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -3.0, 1024.0, -(2.0**20)]


def elements(*more):
    return st.sampled_from([*EXACT, *more])


@st.composite
def values(draw):
    """Ties, huge scores of both signs, and −∞ in the bias."""
    moving, _ = arrays(DRAWN)
    for name, more in {"query": (), "key": (), "bias": (1e300, -1e300, -INF)}.items():
        shape = moving[name].shape
        fill = st.just(draw(elements(*more)))
        moving[name] = draw(hnp.arrays(float, shape, elements=elements(*more), fill=fill))
    moving["scale"] = draw(hnp.arrays(float, N, elements=st.sampled_from([0.25, 1.0, 8.0])))
    return moving


DRAWN = PLAIN._replace(bias="BNTS", scale="N", window="pair", sinks=0.0, blocks=(8, 4))


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
@settings(max_examples=25)
@given(moving=values())
def test_any_scores_will_do(alpha, moving):
    """Value, and the derivative where it exists: at α = 2 it jumps where a class leaves."""
    row = DRAWN._replace(alpha=alpha)
    tangents, weights = directions(row, moving)
    actual = orders(row, moving, {}, tangents, weights)
    right = expected(row, moving, {}, tangents, weights)
    near(actual.out, right.out)
    if alpha < 2:
        q, k, scale = (np.abs(moving[x]).max() for x in ("query", "key", "scale"))
        terms = {"query": scale * k, "key": scale * q, "scale": q * k}  # sums that may cancel
        for name, slope in right.gradient.items():
            near(actual.gradient[name], slope, atol=1e-10 * max(1, terms.get(name, 1)))
    else:
        assert all(np.isfinite(slope).all() for slope in actual.gradient.values())


ROUNDED = PLAIN._replace(bias="NT1", sinks="N", key_heads=2)


@pytest.mark.parametrize("dtype, alpha", [(jnp.bfloat16, 1.0), (jnp.float16, 1.5)])
def test_short_floats_are_computed_in_float32_and_rounded_once(dtype, alpha):
    row = ROUNDED._replace(alpha=alpha)
    moving, fixed = arrays(row)
    tangents, weights = directions(row, moving)
    short = jax.tree.map(lambda x: jnp.asarray(x, dtype), (moving, tangents, weights))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), short)
    actual = value_and_gradient(row, short[0], fixed, short[2])
    right = value_and_gradient(row, wide[0], fixed, wide[2])
    chex.assert_trees_all_equal(actual, jax.tree.map(lambda x: x.astype(dtype), right))


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(row, moving, fixed, weights):
    return row(moving, fixed), gradient(lambda x: row(x, fixed), moving, weights)


def test_each_gradient_has_the_dtype_of_its_argument():
    row = ROUNDED._replace(alpha="N", scale="")
    moving, fixed = arrays(row)
    dtypes = {"query": jnp.bfloat16, "key": jnp.float16, "alpha": jnp.float64}
    moving = {x: jnp.asarray(moving[x], dtypes.get(x, jnp.float32)) for x in moving}
    out, slopes = jax.eval_shape(
        lambda moving: value_and_gradient(row, moving, fixed, row(moving, fixed)), moving
    )
    assert out.dtype == jnp.float32
    assert {x: slopes[x].dtype for x in slopes} == {x: moving[x].dtype for x in moving}


def test_integers_are_promoted_before_anything_else():
    q = np.random.default_rng(0).integers(0, 250, (1, 3, 2, 4)).astype(np.uint8)
    attend = jax.jit(functools.partial(js.dot_product_attention, scale=1e-3))
    actual, right = (attend(x, x, x) for x in (q, q.astype(float)))
    assert actual.dtype == right.dtype
    near(actual, right)


def test_an_empty_batch_has_an_empty_result():
    q = np.ones((0, T, N, 3))
    assert js.dot_product_attention(q, q, q, alpha=1.5).shape == q.shape
    q = np.ones((2, 0, N, 3))
    assert js.dot_product_attention(q, np.ones((2, S, N, 3)), np.ones((2, S, N, 5))).shape == (
        2, 0, N, 5,
    )  # fmt: skip
