"""Attention split over a vmap axis or a mesh, by keys, batch or heads, gives the same."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax as js

pytestmark = pytest.mark.slow  # together some minutes

B, T, S, N, K, H = 2, 6, 8, 4, 2, 3
PARTS = 4
near = functools.partial(chex.assert_trees_all_close, rtol=0, atol=1e-12)
rng = np.random.default_rng(0)
# Each argument, and its axis of keys and of heads, if it has one.
ARRAYS = {
    "query": rng.normal(size=(B, T, N, H)),
    "key": rng.normal(size=(B, S, K, H)),
    "value": rng.normal(size=(B, S, K, H + 1)),
    "bias": rng.normal(size=(B, N, T, S)),
    "sinks": rng.normal(size=N),
}
MASK = rng.random((B, 1, T, S)) < 0.8
MASK[0, 0, 2] = False
WEIGHTS = rng.normal(size=(B, T, N, H + 1))
ALPHAS = {"1": 1.0, "1.5": 1.5, "by head": np.array([1.0, 1.5, 2.0, 1.25])}
each_alpha = pytest.mark.parametrize("name", ALPHAS)
BY_KEYS = {
    "query": P(),
    "key": P(None, "k"),
    "value": P(None, "k"),
    "bias": P(None, None, None, "k"),
}
BY_KEYS |= {"sinks": P()}
BY_HEADS = {
    "query": P("b", None, "h"),
    "key": P("b", None, "h"),
    "value": P("b", None, "h"),
    "bias": P("b", "h"),
    "sinks": P("h"),
}


def mesh(shape, names, kind=AxisType.Auto):
    devices = np.array(jax.devices()[: math.prod(shape)]).reshape(shape)
    return Mesh(devices, names, axis_types=(kind,) * len(names))


def attend(arrays, mask, alpha, **options):
    return js.dot_product_attention(**arrays, mask=mask, alpha=alpha, **options)


def with_gradient(function):
    """Value and gradient of ⟨weights, value⟩ in all arrays, in one compilation."""

    @jax.jit
    def both(arrays, weights):
        out, pull = jax.vjp(function, arrays)
        return out, pull(weights)[0]

    return both


@functools.cache
def whole(name):
    return with_gradient(lambda x: attend(x, MASK, ALPHAS[name]))(ARRAYS, WEIGHTS)


@each_alpha
def test_keys_split_over_a_vmap_axis(name):
    """Value and gradient, differentiated outside; every part has the mixtures."""
    axes = {"query": None, "key": 1, "value": 1, "bias": 3, "sinks": None}

    def parts(x, axis):
        return x.reshape(*x.shape[:axis], PARTS, -1, *x.shape[axis + 1 :])

    def split(arrays):
        cut = {x: arrays[x] if (i := axes[x]) is None else parts(arrays[x], i) for x in arrays}
        function = functools.partial(attend, alpha=ALPHAS[name], axis_name="k")
        outs = jax.vmap(function, (axes, 3), axis_name="k")(cut, parts(MASK, 3))
        return outs.mean(0)

    near(with_gradient(split)(ARRAYS, WEIGHTS), whole(name))


@each_alpha
def test_keys_split_over_devices_in_shard_map(name):
    split = jax.shard_map(
        functools.partial(attend, alpha=ALPHAS[name], axis_name="k", block_q=4, block_k=1),
        mesh=mesh((PARTS,), ("k",)),
        in_specs=(BY_KEYS, P(None, None, None, "k")),
        out_specs=P(),
    )
    near(with_gradient(lambda x: split(x, MASK))(ARRAYS, WEIGHTS), whole(name))


@each_alpha
def test_batch_and_heads_split_over_devices_in_shard_map(name):
    """Without a word from one part to another."""
    alphas = np.broadcast_to(ALPHAS[name], (N,))

    def function(arrays, mask, alphas):
        return attend(arrays, mask, alphas if name == "by head" else ALPHAS[name])

    split = jax.shard_map(
        function,
        mesh=mesh((2, 2), ("b", "h")),
        in_specs=(BY_HEADS, P("b"), P("h")),
        out_specs=P("b", None, "h"),
    )
    near(with_gradient(lambda x: split(x, MASK, alphas))(ARRAYS, WEIGHTS), whole(name))


@each_alpha
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_batch_and_heads_split_under_plain_jit(name, kind):
    """On a mesh of either kind; no product of queries and keys is gathered."""
    grid = mesh((2, 2), ("b", "h"), kind)
    with jax.set_mesh(grid):
        arrays = {x: place(ARRAYS[x], grid, BY_HEADS[x]) for x in ARRAYS}
        weights, mask = place(WEIGHTS, grid, P("b", None, "h")), place(MASK, grid, P("b"))
        both = with_gradient(lambda x: attend(x, mask, ALPHAS[name]))
        actual = both(arrays, weights)
        assert actual[0].sharding.is_equivalent_to(weights.sharding, weights.ndim)
        near(jax.tree.map(np.asarray, actual), whole(name))


def place(x, grid, spec):
    return jax.device_put(jnp.asarray(x), NamedSharding(grid, spec))


def test_places_are_counted_over_all_parts():
    """Causal order, a window, lengths and segments, where keys are split."""
    options = {"is_causal": True, "local_window_size": 4, "alpha": 1.5}
    lengths, of_queries = np.array([5, 8], np.int32), np.sort(rng.integers(0, 2, (B, T)))
    of_keys = np.sort(rng.integers(0, 2, (B, S)))
    q, k, v = (ARRAYS[x] for x in ("query", "key", "value"))

    def function(q, k, v, of_keys, **more):
        return js.dot_product_attention(
            q, k, v, key_value_seq_lengths=lengths, query_segment_ids=of_queries,
            key_value_segment_ids=of_keys, **options, **more,
        )  # fmt: skip

    split = jax.shard_map(
        functools.partial(function, axis_name="k"),
        mesh=mesh((PARTS,), ("k",)),
        in_specs=(P(), P(None, "k"), P(None, "k"), P(None, "k")),
        out_specs=P(),
    )
    near(jax.jit(split)(q, k, v, of_keys), jax.jit(function)(q, k, v, of_keys))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (P(None, "h"), "sequence split over the mesh axis 'h'. Either call `ring_attention`"),
        (P(None, None, None, "h"), "features split over the mesh axis 'h'.*split its heads"),
    ],
)
def test_a_split_sequence_on_explicit_axes_is_refused(spec, message):
    """With the remedy; JAX's own error tells of an axis inside of a loop."""
    grid = mesh((2, 2), ("b", "h"), AxisType.Explicit)
    with jax.set_mesh(grid):
        q = place(jnp.ones((2, 8, 2, 4)), grid, spec)
        with pytest.raises(ValueError, match=message):
            js.dot_product_attention(q, q, q)


# Made of an array, and how its heads and batch entries lie on the mesh.
SCORE_FUNCTIONS = {
    "ALiBi": (js.ALiBi, rng.random(N), P("h")),
    "buckets": (js.T5Buckets, rng.normal(size=(32, N)), P(None, "h")),
    "a gate": (js.ForgettingGate, -np.cumsum(rng.random((B, T, N)), axis=1), P("b", None, "h")),
    "a pytree": (
        lambda x: jax.tree_util.Partial(
            lambda x, score, batch, head, i, j: score + x[head] * (i - j) + batch, x
        ),
        rng.normal(size=N),
        P("h"),
    ),
    "a closure": (
        lambda x: lambda score, batch, head, i, j: score + x * (i - j) + batch * head,
        rng.normal(),
        P(),
    ),
}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("name", SCORE_FUNCTIONS)
def test_functions_of_scores_on_a_mesh_of_two_by_four(name, kind):
    """With a scale of each query, under plain jit; and, of heads apart, in shard_map."""
    make, x, spec = SCORE_FUNCTIONS[name]
    q, k, v, weights = rng.normal(size=(4, B, T, N, H))
    moving = {"q": q, "k": k, "v": v, "x": x, "s": rng.random(N)}
    whole_specs = dict.fromkeys("qkv", P("b", None, "h")) | {"x": spec, "s": P("h")}

    def attend(moving):
        n = js.visible_keys(moving["q"], moving["k"], is_causal=True)
        return js.dot_product_attention(
            moving["q"], moving["k"], moving["v"], is_causal=True, alpha=1.5,
            score_fn=make(moving["x"]), scale=1 + moving["s"] * jnp.log(n),
        )  # fmt: skip

    expected = with_gradient(attend)(moving, weights)
    grid = mesh((2, 4), ("b", "h"), kind)
    with jax.set_mesh(grid):
        placed = {name: place(y, grid, whole_specs[name]) for name, y in moving.items()}
        found = with_gradient(attend)(placed, place(weights, grid, P("b", None, "h")))
        near(jax.tree.map(np.asarray, found), expected)
    if kind == AxisType.Auto and name in ("ALiBi", "buckets", "a gate"):  # others count heads
        apart = jax.shard_map(
            attend, mesh=grid, in_specs=(whole_specs,), out_specs=P("b", None, "h")
        )
        near(jax.tree.map(np.asarray, with_gradient(apart)(moving, weights)), expected)
