"""Scales per query, and the number of keys that each query sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.test_util import check_grads

import jsoftmax as js
import jsoftmax.linen
import jsoftmax.nnx
from tests.attention import attention_table as table

B, T, N, K, H = 2, 7, 4, 2, 3
rng = np.random.default_rng(0)
Q, KEY, V = (rng.normal(size=(B, T, n, w)) for n, w in ((N, H), (K, H), (K, 2)))
near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
SHAPES = [(B, T, N), (1, T, 1), (T, N), (B, 1, 1), (T, 1)]


@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_scale_of_queries_is_that_of_queries_multiplied(shape, alpha):
    """However queries are cut into blocks; its gradient is that of the product."""
    scale = np.abs(rng.normal(size=shape)) + 0.3
    options = {"alpha": alpha, "is_causal": True, "local_window_size": 3}

    def ours(q, k, v, scale):
        blocks = {"block_q": 2, "block_k": 4}
        return js.dot_product_attention(q, k, v, scale=scale, **options, **blocks)

    def multiplied(q, k, v, scale):
        return js.dot_product_attention(q * scale[..., None], k, v, scale=1.0, **options)

    near(ours(Q, KEY, V, scale), multiplied(Q, KEY, V, scale))
    near(
        js.attention_weights(Q, KEY, scale=scale, **options),
        js.attention_weights(Q * scale[..., None], KEY, scale=1.0, **options),
    )
    slopes = [
        jax.grad(lambda *x, f=f: jnp.sin(f(*x)).sum(), (0, 1, 2, 3))(Q, KEY, V, scale)
        for f in (ours, multiplied)
    ]
    for mine, theirs in zip(*slopes, strict=True):
        near(mine, theirs)


def test_a_scale_of_queries_has_derivatives_of_both_modes():
    scale = np.abs(rng.normal(size=(B, T, N))) + 0.3

    def attend(q, scale):
        return js.dot_product_attention(q, KEY, V, scale=scale, is_causal=True, block_q=2)

    check_grads(attend, (Q, scale), 2, ["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", table.ROWS[::3] + table.NARROW, ids=table.name)
def test_visible_keys_are_counted_as_defined(row):
    """Against the definition, entry by entry, at every third row of the table."""
    moving, fixed = table.arrays(row)
    options = {x: y for x, y in row.options.items() if x in ("is_causal", "local_window_size")}
    n = jax.jit(functools.partial(js.visible_keys, **options))(
        moving["query"], moving["key"], **fixed
    )
    expected = np.swapaxes(table.seen(row, fixed).sum(-1), -1, -2)
    np.testing.assert_array_equal(np.broadcast_to(n, expected.shape), expected)
    assert n.dtype == jnp.int32


def test_a_mask_by_head_is_counted_by_head():
    mask = rng.random((B, N, T, T)) < 0.5
    n = js.visible_keys(Q, KEY, mask)
    np.testing.assert_array_equal(n, np.swapaxes(mask.sum(-1), -1, -2))
    assert js.visible_keys(Q, KEY, mask[:, :1]).shape == (B, T, 1)
    assert js.visible_keys(Q, KEY).tolist() == np.full((B, T, 1), T).tolist()


def test_split_keys_are_counted_over_all_parts():
    keys = np.zeros((4, B, 3, K, H))
    count = jax.vmap(
        lambda k: js.visible_keys(Q, k, is_causal=True, query_offset=2, axis_name="k"),
        axis_name="k",
    )
    np.testing.assert_array_equal(count(keys)[1, 0, :, 0], np.minimum(np.arange(T) + 3, 12))


def test_counting_takes_no_memory_of_all_pairs():
    """Of 4096 queries and keys with segments, a bit for two pairs at most."""
    x = jax.ShapeDtypeStruct((4096, 1, 8), jnp.float32)
    ids = jax.ShapeDtypeStruct((4096,), jnp.int32)
    count = jax.jit(lambda q, ids: js.visible_keys(q, q, is_causal=True, query_segment_ids=ids))
    memory = count.lower(x, ids).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096**2 / 16


def test_scalable_attention_restarts_with_each_packed_document():
    """Two documents in one row have the results of each alone."""
    ids = jnp.array([0] * 4 + [1] * 3)
    options = {"is_causal": True, "alpha": 1.5}
    q, k, v = Q[0], KEY[0], V[0]

    def attend(q, k, v, **documents):
        n = js.visible_keys(q, k, is_causal=True, **documents)
        scale = (1 + jnp.array([0.2, 0.4, 0.1, 0.3]) * jnp.log(n) ** 1.3) / H**0.5
        return js.dot_product_attention(q, k, v, scale=scale, **options, **documents)

    packed = attend(q, k, v, query_segment_ids=ids)
    for part in (slice(0, 4), slice(4, 7)):
        near(packed[part], attend(q[part], k[part], v[part]))


def test_kernels_refuse_a_scale_of_queries():
    scale = np.ones((T, N))
    with pytest.raises(NotImplementedError, match=r"`scale` of each query.*'xla'"):
        js.dot_product_attention(Q, KEY, V, scale=scale, implementation="pallas")
    with pytest.raises(NotImplementedError, match="`scale`"):
        js.dot_product_attention(Q, KEY, V, scale=scale, implementation="cudnn")
    with pytest.raises(
        ValueError, match=r"`scale` has shape \(3, 4\).*\(\*batch, queries, heads\)"
    ):
        js.dot_product_attention(Q, KEY, V, scale=np.ones((3, N)))


HEADS, FEATURES = 2, 8
X = rng.normal(size=(3, 6, FEATURES))
CAUSAL = nn.make_causal_mask(X[..., 0])


def twins(**options):
    left = jsoftmax.nnx.ScalableAttention(
        HEADS, FEATURES, decode=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options
    )
    right = jsoftmax.linen.ScalableAttention(HEADS, param_dtype=jnp.float64, **options)
    return left, right, {"params": nnx.to_pure_dict(nnx.state(left, nnx.Param))}


def test_scalable_attentions_are_twins_of_the_formula():
    """With equal parameters they agree, and the scale is that of the formula."""
    options = {"alpha": 1.5, "delta": 0.5, "beta": np.array([0.3, 0.7]), "gamma": 1.2}
    left, right, variables = twins(**options)
    shapes = jax.eval_shape(right.init, jax.random.key(0), X)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    out = left(X, mask=CAUSAL)
    near(out, right.apply(variables, X, mask=CAUSAL))
    q, k, v = (layer(jnp.asarray(X)) for layer in (left.query, left.key, left.value))
    n = np.maximum(np.arange(1, 7), 2)[:, None]
    scale = (0.5 + np.array([0.3, 0.7]) * np.log(n) ** 1.2) / 2
    mixed = js.dot_product_attention(q, k, v, is_causal=True, alpha=1.5, scale=scale)
    near(out, left.out(mixed))
    slopes = jax.grad(lambda p: jnp.sin(right.apply(p, X, mask=CAUSAL)).sum())(variables)
    for name in ("learned_beta", "learned_gamma"):
        assert (np.abs(slopes["params"][name]) > 0).all()


def test_scalable_attention_starts_as_plain_attention_and_decodes_alike():
    """δ = 1 and β = 0 leave Flax's attention as it is; a cache counts as a causal mask does."""
    left, _, variables = twins(alpha=1.0)
    plain = nn.MultiHeadDotProductAttention(HEADS, param_dtype=jnp.float64)
    bare = {x: y for x, y in variables["params"].items() if not x.startswith("learned")}
    near(left(X, mask=CAUSAL), plain.apply({"params": bare}, X, mask=CAUSAL))
    layer = jsoftmax.nnx.ScalableAttention(
        HEADS, FEATURES, beta=0.4, param_dtype=jnp.float64, decode=True, rngs=nnx.Rngs(0),
        attention={"is_causal": True, "local_window_size": 3},
    )  # fmt: skip
    whole = layer(X, decode=False)
    layer.init_cache(X.shape, X.dtype)
    step = nnx.jit(lambda layer, x: layer(x))
    steps = [step(layer, X[:, t : t + 1]) for t in range(6)]
    near(jnp.concatenate(steps, axis=1), whole)


@pytest.mark.parametrize(
    "module", [jsoftmax.nnx.ScalableAttention, jsoftmax.linen.ScalableAttention]
)
def test_options_that_are_not_free_are_told(module):
    given = {"rngs": nnx.Rngs(0), "in_features": 8} if "nnx" in module.__module__ else {}
    with pytest.raises(TypeError, match="`scale` is set by the module"):
        module(num_heads=2, attention={"scale": 1.0}, **given)
    with pytest.raises(ValueError, match=r"`beta` has shape \(3,\).*each of the 2 heads"):
        layer = module(num_heads=2, beta=np.ones(3), **given)
        layer.init(jax.random.key(0), X)
