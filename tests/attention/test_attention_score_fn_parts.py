"""Functions of scores where a sequence is split over a ring of devices, and beside pages."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jsoftmax as js

AXIS, DEVICES = "parts", 4
B, T, N, K, H = 2, 16, 4, 2, 3
rng = np.random.default_rng(0)
Q, KEY, V = (rng.normal(size=(B, T, n, H)) for n in (N, K, K))
WEIGHTS = rng.normal(size=(B, T, N, H))
near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-11)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["x"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Stranger:
    x: jax.Array

    def __call__(self, score, batch, head, query, key):
        return score + self.x[query] * self.x[key]


FUNCTIONS = {
    "ALiBi": (js.ALiBi, rng.random(N)),
    "buckets": (functools.partial(js.T5Buckets, max_distance=6), rng.normal(size=(8, N))),
    "a forgetting gate": (js.ForgettingGate, -np.cumsum(rng.random((B, T, N)), axis=1)),
    "a gate of all entries": (js.ForgettingGate, -np.cumsum(rng.random((T, 1)), axis=0)),
    "a stranger": (Stranger, rng.normal(size=T)),
}  # fmt: skip
each = pytest.mark.parametrize("name", FUNCTIONS)
ALONG = "a forgetting gate", "a gate of all entries"


def chunks_in_zigzag(x, axis, back=False):
    """Put eight chunks in the order 0, 7, 1, 6, …, or back."""
    order = [i for pair in zip(range(4), range(7, 3, -1), strict=True) for i in pair]
    order = np.argsort(order) if back else order
    parts = jnp.split(x, 8, axis=axis)
    return jnp.concatenate([parts[i] for i in order], axis=axis)


def value_and_gradients(attention, x):
    def loss(q, k, v, x):
        out = attention(q, k, v, x)
        return jnp.sum(out * WEIGHTS), out

    (_, out), found = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(Q, KEY, V, x)
    return out, *found


@each
@pytest.mark.parametrize("order", ["contiguous", "zigzag"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_a_ring_finds_what_the_whole_sequence_does(name, order, is_causal):
    """Values and gradients, also of the function's arrays, on two mesh axes."""
    make, x = FUNCTIONS[name]
    mesh = jax.make_mesh((2, DEVICES), ("data", AXIS), axis_types=(AxisType.Auto,) * 2)
    split, of_x = PartitionSpec("data", AXIS), PartitionSpec()
    if name in ALONG:
        of_x = PartitionSpec(*("data",) * (x.ndim > 2), AXIS)
    laid = functools.partial(chunks_in_zigzag, axis=1) if order == "zigzag" else lambda y: y

    def part(q, k, v, x):
        return js.ring_attention(
            q, k, v, axis_name=AXIS, order=order, is_causal=is_causal, score_fn=make(x)
        )

    ring = jax.shard_map(part, mesh=mesh, in_specs=(split,) * 3 + (of_x,), out_specs=split)

    def in_parts(q, k, v, x):
        if name in ALONG and order == "zigzag":
            x = chunks_in_zigzag(x, axis=-2)
        out = ring(laid(q), laid(k), laid(v), x)
        return chunks_in_zigzag(out, 1, back=True) if order == "zigzag" else out

    def whole(q, k, v, x):
        return js.dot_product_attention(q, k, v, is_causal=is_causal, score_fn=make(x))

    for found, right in zip(
        value_and_gradients(in_parts, x), value_and_gradients(whole, x), strict=True
    ):
        near(found, right)


def test_a_gate_goes_round_on_explicit_axes():
    """Called eagerly and twice, with arrays that are placed on a mesh as `make_mesh` gives it."""
    make, x = FUNCTIONS["a forgetting gate"]
    mesh = jax.make_mesh((2, DEVICES), ("data", AXIS))
    split = PartitionSpec("data", AXIS)

    def part(q, k, v, x):
        return js.ring_attention(q, k, v, axis_name=AXIS, is_causal=True, score_fn=make(x))

    right = js.dot_product_attention(Q, KEY, V, is_causal=True, score_fn=make(x))
    with jax.set_mesh(mesh):
        ring = jax.shard_map(part, mesh=mesh, in_specs=(split,) * 4, out_specs=split)
        placed = [jax.device_put(y, jax.NamedSharding(mesh, split)) for y in (Q, KEY, V, x)]
        for _ in range(2):
            near(ring(*placed), right)


@pytest.mark.parametrize("name", ["ALiBi", "a forgetting gate"])
def test_uneven_parts_of_a_ring_have_their_own_places(name):
    """Of 16 places on four devices 4, 0, 7 and 5 in arrays of seven; unused places are NaN."""
    make, x = FUNCTIONS[name]
    used = np.array([4, 0, 7, 5])
    ends = np.cumsum(used)

    def spread(y, axis):
        parts = np.split(y, ends[:-1], axis=axis)
        sizes = [(0, 7 - n) for n in used]
        pads = [[(0, 0)] * y.ndim for _ in used]
        for pad, size in zip(pads, sizes, strict=True):
            pad[axis] = size
        return np.stack(
            [np.pad(p, pad, constant_values=np.nan) for p, pad in zip(parts, pads, strict=True)]
        )

    given = [spread(y, 1) for y in (Q, KEY, V)]
    x_parts = spread(x, 1) if name in ALONG else np.stack([x] * DEVICES)

    def part(q, k, v, x, n):
        return js.ring_attention(
            q, k, v, axis_name=AXIS, part_length=n, is_causal=True, score_fn=make(x)
        )

    out = jax.jit(jax.vmap(part, axis_name=AXIS))(*given, x_parts, used)
    out = np.concatenate([out[i, :, :n] for i, n in enumerate(used)], axis=1)
    near(out, js.dot_product_attention(Q, KEY, V, is_causal=True, score_fn=make(x)))


def test_a_function_without_arrays_goes_round_and_a_closure_is_refused():
    mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType.Auto,))
    split = PartitionSpec(None, AXIS)

    def attend(score_fn):
        def part(q, k, v):
            return js.ring_attention(q, k, v, axis_name=AXIS, score_fn=score_fn)

        ring = jax.shard_map(part, mesh=mesh, in_specs=(split,) * 3, out_specs=split)
        return jax.jit(ring)(Q, KEY, V)

    def near_alone(score, batch, head, query, key):
        return jnp.where(abs(query - key) <= 3, score, -jnp.inf)

    near(attend(near_alone), js.dot_product_attention(Q, KEY, V, local_window_size=3))
    x = jnp.ones(T)
    with pytest.raises(NotImplementedError, match=r"closes over arrays.*a callable pytree"):
        attend(lambda score, batch, head, query, key: score + x[query])


def test_a_gate_on_a_ring_needs_its_queries_at_the_places_of_keys():
    gate = js.ForgettingGate(np.zeros((8, 1)))

    def ring(q, k, v):
        return js.ring_attention(q, k, v, axis_name=AXIS, score_fn=gate)

    with pytest.raises(ValueError, match="ForgettingGate gives one number for each position"):
        jax.vmap(ring, axis_name=AXIS)(*(np.ones((2, n, 1, 3)) for n in (4, 8, 8)))


@each
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_queries_beside_pages_stand_at_the_last_places(name, queries, alpha):
    """Requests of 14, of 5 and of 3 keys in pages of four; unused places are NaN."""
    make, x = FUNCTIONS[name]
    keys, values = (rng.normal(size=(10, 4, K, H)) for _ in range(2))
    table = np.array([[3, 1, 5, 8], [7, 2, 0, 0], [4, 0, 0, 0]])
    lengths = np.array([14, 5, 3])
    x = np.concatenate([x, x[:1]]) if x.ndim == 3 else x
    query = rng.normal(size=(3, queries, N, H))
    out = js.paged_attention(
        query, keys, values, table, lengths, alpha=alpha, is_causal=True, score_fn=make(x)
    )
    for i, length in enumerate(lengths):
        own = [y[table[i]].reshape(1, 16, K, H)[:, :length] for y in (keys, values)]
        of_entry = x
        if name == "a forgetting gate":
            of_entry = x[i : i + 1, :length]
        elif name in ALONG:
            of_entry = x[:length]
        right = js.dot_product_attention(
            query[i : i + 1], *own, alpha=alpha, is_causal=True,
            query_offset=int(length) - queries, score_fn=make(of_entry),
        )  # fmt: skip
        near(out[i : i + 1], right)


def test_what_the_kernel_of_pages_lacks_is_named():
    query, pages = np.ones((1, 2, 2, 2)), np.ones((2, 64, 2, 2))

    def attend(lengths, **options):
        return js.paged_attention(query, pages, pages, np.zeros((1, 2), int), lengths, **options)

    for options, words in (
        ({"is_causal": True}, "`is_causal` with several queries"),
        ({"score_fn": js.ALiBi(0.1)}, "`score_fn`"),
    ):
        with pytest.raises(NotImplementedError, match=f"does not take {words}; let"):
            attend(np.array([3]), implementation="pallas", **options)
    with pytest.raises(ValueError, match="`lengths` must not be negative"):
        attend(np.array([-3]))
    with pytest.raises(TypeError, match="`lengths` has dtype float"):
        attend(np.ones(1))
