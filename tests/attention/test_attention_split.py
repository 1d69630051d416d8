"""Attention over parts of a sequence: windows, merged parts, a ring of devices."""

import ast
import functools
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jsoftmax
from jsoftmax.attention import _attend, _ring
from tests.marks import some

AXIS = "parts"
QKV = jax.random.normal(jax.random.key(0), (3, 2, 16, 4, 3))  # batch 2, length 16, 4 heads
WEIGHTS = jax.random.normal(jax.random.key(1), (2, 16, 4, 3))
SEGMENTS = jnp.array([[0] * 5 + [1] * 11, [3] * 12 + [2] * 4])

SPLIT = ("query_segment_ids",)  # of options, along the sequence
RING = {
    "whole": {},
    "causal": {"is_causal": True},
    "window and sink": {"local_window_size": (3, 1), "sinks": jnp.array([0.5, -1.0, 0.0, 2.0])},
    "segments": {"query_segment_ids": SEGMENTS},
    "lengths": {
        "query_seq_lengths": jnp.array([16, 7]),
        "key_value_seq_lengths": jnp.array([5, 16]),
        "logits_soft_cap": 2.0,
    },
    "dropout": {"dropout_rate": 0.3, "dropout_rng": jax.random.key(2), "is_causal": True},
}


def mesh():
    return jax.make_mesh((4,), (AXIS,), axis_types=(AxisType.Auto,))


def value_and_gradients(attention):
    """The mixtures, and the gradients of a weighted sum of them."""

    def weighted(q, k, v):
        out = attention(q, k, v)
        return jnp.sum(out * WEIGHTS), out

    (_, out), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(*QKV)
    return out, gradients


def windowed(T, S, window, **options):
    """Attention with a window and with the mask that says the same, values and gradients."""
    q, k, v, bias = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate(((2, T, 2, 3), (2, S, 1, 3), (2, S, 1, 2), (2, T, S)))
    )
    i, j = jnp.arange(T)[:, None], jnp.arange(S)
    mask = (j >= i - window[0]) & (j <= i + window[1])
    if options.get("is_causal"):
        mask &= j <= i

    def weighted(given, *inputs):
        out = jsoftmax.dot_product_attention(*inputs, **given)
        return jnp.sum(jnp.sin(out)), out

    both = []
    for given in ({"local_window_size": window, "block_q": 4}, {"mask": mask}):
        given = options | given

        def run(*inputs, given=given):
            return weighted(given, *inputs)

        both.append(jax.jit(jax.value_and_grad(run, (0, 1, 2, 3), has_aux=True))(q, k, v, bias))
    return both


@pytest.mark.parametrize(
    ("T", "S", "window", "options"),
    [
        pytest.param(40, 64, (2, 3), {}, id="more keys"),
        pytest.param(64, 41, (0, 5), {"alpha": 1.5}, id="more queries"),
        pytest.param(41, 41, (5, 0), {"is_causal": True, "alpha": 2.0}, id="causal"),
        pytest.param(41, 43, (1, 9), {"sinks": 0.5}, id="sink"),
    ],
)
@pytest.mark.slow
def test_a_window_is_a_mask(T, S, window, options):
    """Though hidden keys are not computed: windows are cut out, with padding at both ends."""
    chex.assert_trees_all_close(*windowed(T, S, window, **options), atol=1e-12)


def test_hidden_blocks_are_not_computed():
    """A window of a few keys takes a small part of the work of all of them, causal about half."""
    q = jnp.zeros((1, 2048, 1, 8))

    def work(**options):
        def attention(q):
            return jsoftmax.dot_product_attention(q, q, q, block_q=32, **options)

        return multiplications(jax.make_jaxpr(attention)(q).jaxpr)

    assert work(is_causal=True) < 0.6 * work()
    assert work(local_window_size=16) < 0.1 * work()


def multiplications(jaxpr):
    """In the matrix products of a jaxpr; those in a loop count as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            sizes = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += equation.outvars[0].aval.size * math.prod(sizes)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                times = equation.params.get("length", 1)
                total += times * multiplications(getattr(inner, "jaxpr", inner))
    return total


@pytest.mark.slow
def test_batch_and_heads_may_come_one_after_another(monkeypatch):
    """As they do on a CPU, in parts that fit its caches; with dropout, which draws by place."""
    q, k, v, w = jax.random.normal(jax.random.key(4), (4, 2, 700, 2, 4))

    def gradients(alpha):
        def weighted(q, k, v):
            out = jsoftmax.dot_product_attention(
                q, k, v, alpha=alpha, dropout_rate=0.5, dropout_rng=jax.random.key(5)
            )
            return jnp.sum(out * w), out

        return jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True))(q, k, v)

    for alpha in (1.0, jnp.array([1.2, 1.8])):
        apart = gradients(alpha)
        with monkeypatch.context() as patch:
            patch.setattr(_attend, "may_be_split", lambda *arrays: True)
            together = gradients(alpha)
        chex.assert_trees_all_close(together, apart, atol=1e-12)


@pytest.mark.parametrize("name", some(RING, ["causal"]))
def test_a_ring_finds_what_the_whole_sequence_does(name):
    options = RING[name]
    """Queries and keys are split over devices, and the keys go round."""
    segments = options.get("query_segment_ids", jnp.zeros_like(SEGMENTS))
    others = {name: x for name, x in options.items() if name != "query_segment_ids"}
    split = PartitionSpec(None, AXIS)

    def part(q, k, v, segments):
        return jsoftmax.ring_attention(
            q, k, v, axis_name=AXIS, query_segment_ids=segments, **others
        )

    ring = jax.shard_map(part, mesh=mesh(), in_specs=(split,) * 4, out_specs=split)
    found = value_and_gradients(lambda q, k, v: ring(q, k, v, segments))
    whole = value_and_gradients(lambda q, k, v: jsoftmax.dot_product_attention(q, k, v, **options))
    chex.assert_trees_all_close(found, whole, atol=1e-12)


def in_zigzag(x, axis=1, back=False):
    """Put eight chunks in the order 0, 7, 1, 6, …, or back."""
    order = [i for pair in zip(range(4), range(7, 3, -1), strict=True) for i in pair]
    order = np.argsort(order) if back else order
    chunks = jnp.split(x, 8, axis=axis)
    return jnp.concatenate([chunks[i] for i in order], axis=axis)


@pytest.mark.parametrize("name", some(RING, ["causal", "window and sink", "lengths"]))
def test_a_ring_in_zigzag_order_is_the_whole_sequence(name):
    """Values and gradients, for chunks 0 and 7, 1 and 6, 2 and 5, 3 and 4 on four devices."""
    options = RING[name]
    segments = options.get("query_segment_ids", jnp.zeros_like(SEGMENTS))
    others = {name: x for name, x in options.items() if name not in SPLIT}
    split = PartitionSpec(None, AXIS)

    def part(q, k, v, segments):
        return jsoftmax.ring_attention(
            q, k, v, axis_name=AXIS, order="zigzag", query_segment_ids=segments, **others
        )

    ring = jax.shard_map(part, mesh=mesh(), in_specs=(split,) * 4, out_specs=split)

    def attend(q, k, v):
        return in_zigzag(ring(*map(in_zigzag, (q, k, v, segments))), back=True)

    found = value_and_gradients(attend)
    whole = value_and_gradients(lambda q, k, v: jsoftmax.dot_product_attention(q, k, v, **options))
    chex.assert_trees_all_close(found, whole, atol=1e-12)


def test_causal_work_in_zigzag_order_is_the_same_on_every_device():
    """Of four pairs of chunks all see two at each turn, and three where the keys are their own.

    In the order of places a device sees as many parts as its number says.
    """
    work = {}
    for order, pieces in (("contiguous", 1), ("zigzag", 2)):
        ring = _ring.Ring(AXIS, order == "zigzag", False)
        x = jnp.zeros((1, 4, 1, 1))

        def starts(device, ring=ring, x=x):
            given = SimpleNamespace(query=x)
            return [
                int(start) for start, _, _ in ring.chunks(given, {"query": -3}, device, 4, None)
            ]

        work[order] = [
            [
                sum(k <= q for q in starts(device) for k in starts(owner)) / pieces
                for owner in range(4)
            ]
            for device in range(4)
        ]
    assert work["zigzag"] == [[1.5 if i == j else 1 for i in range(4)] for j in range(4)]
    assert [sum(row) for row in work["contiguous"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", some(RING, ["whole", "causal", "window and sink"]))
def test_a_ring_of_uneven_parts_is_the_whole_sequence(name):
    """Of 11 places on four devices, 4, 0, 5 and 2, with unused places NaN."""
    options, used = RING[name], np.array([4, 0, 5, 2])
    if "query_segment_ids" in options or "dropout_rate" in options:
        options = {"is_causal": True, "local_window_size": 6}
    q, k, v = QKV[:, :, :11]
    starts = np.cumsum(used) - used

    def spread(x):  # (batch, 11, ...) → (batch, 4 × 5, ...)
        parts = [x[:, start : start + n] for start, n in zip(starts, used, strict=True)]
        rest = [(0, 0)] * (x.ndim - 2)
        padded = [jnp.pad(y, [(0, 0), (0, 5 - y.shape[1]), *rest]) for y in parts]
        return jnp.concatenate(padded, axis=1)

    split = PartitionSpec(None, AXIS)

    def part(q, k, v, n):
        return jsoftmax.ring_attention(q, k, v, axis_name=AXIS, part_length=n[0], **options)

    ring = jax.shard_map(
        part, mesh=mesh(), in_specs=(split,) * 3 + (PartitionSpec(AXIS),), out_specs=split
    )

    def both(attend):
        def loss(q, k, v):
            out = attend(q, k, v)
            return jnp.sum(out * WEIGHTS[:, :11]), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    def in_parts(q, k, v):
        out = ring(*map(spread, (q, k, v)), jnp.asarray(used))
        return jnp.concatenate([out[:, 5 * i : 5 * i + n] for i, n in enumerate(used)], axis=1)

    whole = both(lambda *x: jsoftmax.dot_product_attention(*x, **options))
    chex.assert_trees_all_close(both(in_parts), whole, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"order": "spiral"}, "'contiguous' or 'zigzag', got 'spiral'"),
        ({"order": "zigzag", "part_length": 2}, "`part_length` is for the contiguous order"),
        ({"part_length": jnp.ones(2, int)}, r"one integer on each device, got shape \(2,\)"),
    ],
)
def test_orders_that_are_none_are_answered(given, words):
    attend = functools.partial(jsoftmax.ring_attention, axis_name=AXIS, **given)
    with pytest.raises(ValueError, match=words):
        jax.vmap(attend, axis_name=AXIS)(*QKV[:, :, None])
    if given.get("order") == "spiral":
        with pytest.raises(ValueError, match="lengths must be even"):
            odd = functools.partial(jsoftmax.ring_attention, axis_name=AXIS, order="zigzag")
            jax.vmap(odd, axis_name=AXIS)(*QKV[:, :, None, :3])


def test_a_causal_ring_moves_half():
    """And with a window no more than it shows; counted in the program, for four devices."""
    split = PartitionSpec(None, AXIS)

    def moves(**options):
        def part(q, k, v):
            return jsoftmax.ring_attention(q, k, v, axis_name=AXIS, **options)

        ring = jax.shard_map(part, mesh=mesh(), in_specs=(split,) * 3, out_specs=split)
        text = str(jax.make_jaxpr(ring)(*QKV))
        perms = [ast.literal_eval(x) for x in re.findall(r"perm=(\(.*?\))\n", text)]
        (turns,) = (int(n) for n in re.findall(r"length=(\d+)", text) if int(n) < 4)
        # Two arrays at each turn, keys and values; where there is a choice, each turn has its own.
        sizes = [len(perm) for perm in perms[: 2 * turns]]
        return sum(sizes) * (turns if len(perms) == 2 else 1) / 2

    assert moves() == 3 * 4
    assert moves(is_causal=True) == 3 + 2 + 1
    assert moves(is_causal=True, local_window_size=4) == 3
    assert moves(is_causal=True, local_window_size=5) == 3 + 2


def test_a_ring_has_forward_mode_and_residuals():
    """Also where the mapped axis is one of vmap."""
    parts = QKV.reshape(3, 2, 4, 4, 4, 3).swapaxes(1, 2)  # (q k v, parts, batch, length, ...)

    def whole(q, k, v):
        return jsoftmax.dot_product_attention(q, k, v, return_residual=True)

    def ring(q, k, v):
        return jsoftmax.ring_attention(q, k, v, axis_name=AXIS, return_residual=True)

    found = jax.jit(lambda x: jax.jvp(jax.vmap(ring, axis_name=AXIS), (*x,), (*jnp.sin(x),)))(parts)
    expected = jax.jit(lambda x: jax.jvp(whole, (*x,), (*jnp.sin(x),)))(QKV)
    found = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(2, 16, *x.shape[3:]), found)
    chex.assert_trees_all_close(found, expected, atol=1e-12)


@pytest.mark.slow
def test_batch_and_heads_are_split_by_the_compiler():
    """Under plain jit: nothing travels."""
    placed = PartitionSpec(AXIS, None, "heads", None)
    grid = jax.make_mesh((2, 2), (AXIS, "heads"), axis_types=(AxisType.Auto,) * 2)
    options = {"alpha": 1.5, "is_causal": True, "block_q": 4}
    with jax.set_mesh(grid):
        qkv = [jax.device_put(x, jax.NamedSharding(grid, placed)) for x in QKV]
        attention = jax.jit(lambda q, k, v: jsoftmax.dot_product_attention(q, k, v, **options))
        compiled = attention.lower(*qkv).compile()
        assert not re.search(r"all-gather|all-to-all|collective-permute", compiled.as_text())
        out = jnp.asarray(attention(*qkv))
    chex.assert_trees_all_close(out, jsoftmax.dot_product_attention(*QKV, **options), atol=1e-12)


@pytest.mark.law
def test_parts_merge_in_any_grouping():
    """Also if a query sees no key in a part, and with derivatives of both results."""
    mask = jnp.arange(16)[:, None] >= jnp.arange(16)  # later keys are not seen by early queries

    def merged(q, k, v, *ends):
        parts = [
            jsoftmax.dot_product_attention(
                q, k[:, a:b], v[:, a:b], mask=mask[:, a:b], return_residual=True
            )
            for a, b in zip((0, *ends), (*ends, 16), strict=True)
        ]
        return jsoftmax.merge_attention(*(jnp.stack(x) for x in zip(*parts, strict=True)))

    def whole(q, k, v):
        return jsoftmax.dot_product_attention(q, k, v, mask=mask, return_residual=True)

    def derivative(function, *ends):
        tangents = (*jnp.sin(QKV),)
        return jax.jit(lambda *x: jax.jvp(lambda *x: function(*x, *ends), x, tangents))(*QKV)

    for ends in ((3,), (1, 5, 12)):
        chex.assert_trees_all_close(derivative(merged, *ends), derivative(whole), atol=1e-12)


def test_pairs_that_do_not_fit_are_refused():
    """The message says how pairs are stacked."""
    out, tau = jsoftmax.dot_product_attention(*QKV, return_residual=True)
    with pytest.raises(ValueError, match=r"merge_attention: `mixtures` of shape .* one new axis"):
        jsoftmax.merge_attention(jnp.stack([out, out]), tau)
    with pytest.raises(ValueError, match=r"merge_attention: axis 7 is out of range"):
        jsoftmax.merge_attention(jnp.stack([out, out]), jnp.stack([tau, tau]), axis=7)


@pytest.mark.slow
@pytest.mark.parametrize(("T", "S", "is_causal"), [(300, 300, 0), (20, 700, 0), (300, 300, 1)])
def test_second_derivatives_of_long_rows_are_right_however_they_are_cut(T, S, is_causal):
    """In float32, with the sizes that the library chooses; XLA on CPU once got them wrong."""
    q, k, v = (
        jax.random.normal(jax.random.key(i), (n, 1, 16), jnp.float32)
        for i, n in enumerate((T, S, S))
    )

    def bend(**blocks):
        def loss(q):
            options = blocks | {"alpha": 1.5, "is_causal": bool(is_causal)}
            return jnp.sum(jsoftmax.dot_product_attention(q, k, v, **options) ** 2)

        return jax.jit(lambda q: jax.jvp(jax.grad(loss), (q,), (jnp.sin(q),))[1])(q)

    chex.assert_trees_all_close(bend(), bend(block_q=8), atol=1e-3)


def test_a_program_does_not_depend_on_the_host():
    """Nor on its number of devices: programs exported for a TPU are equal on all hosts."""
    program = """
import hashlib, jax, jax.numpy as jnp, jsoftmax
q = jax.ShapeDtypeStruct((2, 2048, 8, 16), jnp.bfloat16)
few = jax.ShapeDtypeStruct((2, 1, 8, 16), jnp.bfloat16)
w, y = jax.ShapeDtypeStruct((16, 8192), jnp.float32), jax.ShapeDtypeStruct((4096,), jnp.int32)
h = jax.ShapeDtypeStruct((4096, 16), jnp.float32)
z, key = jax.ShapeDtypeStruct((64, 4096), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))

def attention(q, k):
    return jnp.sum(jsoftmax.dot_product_attention(q, k, k, alpha=1.5, is_causal=True) ** 2)

for function, arguments in (
    (jax.grad(attention), (q, q)),
    (jsoftmax.dot_product_attention, (few, q, q)),
    (jax.grad(jsoftmax.linear_cross_entropy_sum, (0, 1)), (h, w, y)),
    (jax.grad(lambda z: jnp.sum(jsoftmax.topk_entmax(z, 8) ** 2)), (z,)),
    (jsoftmax.categorical, (key, z)),
):
    for platform in ("cpu", "tpu", "cuda"):
        exported = jax.export.export(jax.jit(function), platforms=[platform])(*arguments)
        print(platform, hashlib.sha256(exported.mlir_module().encode()).hexdigest())
"""
    found = []
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        found.append(run.stdout.split())
    assert len(found[0]) == 2 * 15
    assert found[0] == found[1]
    # A program exported for a CPU differs: otherwise the test could not fail.
    assert found[0][1] != found[0][3]
