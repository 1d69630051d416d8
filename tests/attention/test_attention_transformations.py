"""Attention under JAX's transformations: vmap, remat, export, strictness, NaN debugging."""

import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.attention.attention_table import PLAIN, B, N, S, T, arrays, directions, gradient

pytestmark = pytest.mark.slow  # together some minutes

near = functools.partial(chex.assert_trees_all_close, rtol=1e-12, atol=1e-13)
# Everything at once, streamed: softmax in one pass and, which compiles slowly, α by head.
ROWS = {
    f"alpha={alpha}": PLAIN._replace(
        alpha=alpha, bias="BNTS", mask="BNTS", window="causal", lengths="keys", segments="B",
        logits_soft_cap=1.5, sinks="N", scale="N", key_heads=2, blocks=(8, 4),
    )
    for alpha in (1.0, "N")
}  # fmt: skip
each_row = pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))


def value_and_gradient(row, moving, fixed, weights):
    return row(moving, fixed), gradient(lambda x: row(x, fixed), moving, weights)


@functools.cache
def whole(row):
    """Return arguments, and the result for them under jit."""
    moving, fixed = arrays(row)
    arguments = moving, fixed, directions(row, moving)[1]
    return arguments, jax.jit(functools.partial(value_and_gradient, row))(*arguments)


@each_row
def test_vmap_over_the_batch_is_a_batch(row):
    (moving, fixed, weights), (out, slopes) = whole(row)
    shared = ("alpha", "scale", "sinks")
    of_all = {x: None if x in shared else 0 for x in moving}
    one = functools.partial(value_and_gradient, row._replace(batch=()))
    entries = jax.jit(jax.vmap(one, (of_all, 0, 0)))(moving, fixed, weights)
    near(entries[0], out)
    for x in moving:
        near(entries[1][x].sum(0) if x in shared else entries[1][x], slopes[x])


def test_rematerialising_changes_nothing():
    row = ROWS["alpha=1.0"]
    (moving, fixed, weights), (_, slopes) = whole(row)
    again = jax.checkpoint(lambda *inputs: row(*inputs))
    near(jax.jit(lambda x: gradient(lambda x: again(x, fixed), x, weights))(moving), slopes)


@pytest.mark.slow
def test_it_is_the_same_without_jit_and_nothing_leaks():
    row = ROWS["alpha=1.0"]
    (moving, fixed, weights), right = whole(row)
    with jax.checking_leaks():
        near(value_and_gradient(row, moving, fixed, weights), right)


def test_vmap_maps_over_orders_and_over_queries_alone():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(n, heads, 3)) for n, heads in ((T, N), (S, 2), (S, 2)))
    attend = functools.partial(js.dot_product_attention, block_q=3, block_k=4)
    alphas = jnp.array([1.0, 1.5, 2.0, 1.7])

    def by_order(q, k, v):
        one = jax.vmap(lambda q, k, v, alpha: attend(q, k, v, alpha=alpha), (1, 1, 1, 0), 1)
        return one(q[:, :, None], k[:, :, None], v[:, :, None], alphas)[:, :, 0]

    def by_query(q, k, v):
        return jax.vmap(lambda q: attend(q[None], k, v, alpha=alphas)[0])(q)

    whole = jax.jit(attend)(q, k, v, alpha=alphas)
    near(jax.jit(by_order)(q, *(jnp.repeat(x, 2, axis=1) for x in (k, v))), whole)
    near(jax.jit(by_query)(q, k, v), whole)


@each_row
def test_strict_promotion_of_dtypes_and_ranks_finds_nothing(row):
    (moving, fixed, weights), _ = whole(row)
    arguments = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if x.dtype == float else None),
        (moving, fixed, weights),
    )
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(functools.partial(value_and_gradient, row), *arguments)


@each_row
@pytest.mark.parametrize("jitted", [False, True])
def test_no_nan_is_formed_on_the_way(row, jitted):
    """Of −∞ in the bias, of huge scores, and in rows that see nothing."""
    (moving, fixed, weights), _ = whole(row)
    moving, fixed = moving | {"bias": moving["bias"].copy()}, fixed | {"mask": fixed["mask"].copy()}
    moving["bias"][0, :, 3] = -np.inf
    moving["bias"][0, :, 4, :3] = [1e300, -1e300, -np.inf]
    moving["query"] = moving["query"] * np.where(np.arange(T) == 5, 1e30, 1)[:, None, None]
    fixed["mask"][1, :, 2] = False
    function = functools.partial(value_and_gradient, row)
    with jax.debug_nans(True):
        out = (jax.jit(function) if jitted else function)(moving, fixed, weights)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(out))


def test_equal_shapes_are_traced_once():
    traces = []

    @jax.jit
    def counted(q, alpha, scale, lengths):
        traces.append(q.shape)
        return js.dot_product_attention(
            q, q, q, alpha=alpha, scale=scale, key_value_seq_lengths=lengths
        )

    for number in (1.0, 1.5, 2.5):
        counted(np.ones((B, T, N, 3)), jnp.asarray(number), jnp.asarray(number), np.full(B, 3))
    assert len(traces) == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_value_and_gradient_are_exported(platform, alpha):
    row = ROWS["alpha=1.0"]._replace(alpha=alpha)
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32 if x.dtype == float else x.dtype),
        whole(ROWS["alpha=1.0"])[0],
    )
    function = jax.jit(functools.partial(value_and_gradient, row))
    assert jax.export.export(function, platforms=[platform])(*arguments).platforms == (platform,)
