"""The programs that are compiled: functions at real sizes, their peers, and limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsoftmax
from benchmarks.chips.case import BF16, F32, I32, WHOLE, Case, Shape
from benchmarks.chips.kernel_cases import attention_by_kernels, rows_by_kernels
from jsoftmax import vocabulary


def cases() -> Iterator[Case]:
    """All of them; a peer stands before those that are divided by it."""
    yield from mappings()
    yield from losses()
    yield from rows_by_kernels()
    yield from linear_losses()
    yield from block_sizes()
    yield from linear_losses_on_a_mesh()
    yield from two_models()
    yield from two_models_on_a_mesh()
    yield from attention()
    yield from attention_by_kernels()
    yield from attention_on_a_mesh()
    yield from large_vocabularies()


def both(group: str, name: str, function: Callable, *shapes: Shape, **more: Any) -> Iterator[Case]:
    """A function, and the gradient of its sum of squares in the first argument."""
    peer = more.pop("peer", None)

    def gradient(*arrays):
        return jax.grad(lambda *xs: jnp.sum(function(*xs).astype(F32) ** 2))(*arrays)

    for kind, run in (("forward", function), ("gradient", gradient)):
        of = None if peer is None else f"{peer}, {kind}"
        yield Case(group, f"{name}, {kind}", run, shapes, peer=of, **more)


def mappings() -> Iterator[Case]:
    """From scores to probabilities."""
    z, number = ((128, 32000), F32, P()), ((), F32, P())
    group, peer = "Mappings, [128, 32000] float32", "jax.nn.softmax"
    yield from both(group, peer, jax.nn.softmax, z, is_quick=True)
    yield from both(group, "softmax", jsoftmax.softmax, z, peer=peer, is_quick=True,
                    limits={"traffic": 1.25})  # fmt: skip
    yield from both(group, "sparsemax", jsoftmax.sparsemax, z, peer=peer)
    for alpha in (1.5, 3.0):
        entmax = jax.tree_util.Partial(jsoftmax.entmax, alpha=alpha)
        yield from both(group, f"entmax, α = {alpha}", entmax, z, peer=peer)
    yield from both(group, "entmax, traced α", jsoftmax.entmax, z, number, peer=peer)
    yield from both(group, "topk_entmax, k = 8", lambda z: jsoftmax.topk_entmax(z, 8), z, peer=peer)


def losses() -> Iterator[Case]:
    """Of labels."""
    z, y = ((128, 32000), F32, P()), ((128,), I32, P())
    group, peer = "Losses, [128, 32000] float32", "optax"
    yield from both(group, peer, optax.softmax_cross_entropy_with_integer_labels, z, y)
    yield from both(group, "cross_entropy", jsoftmax.cross_entropy, z, y, peer=peer,
                    limits={"traffic": 1.1})  # fmt: skip
    yield from both(group, "entmax_loss", jsoftmax.entmax_loss, z, y, peer=peer)


def _dense(h, w, y, weights):
    logits = jnp.dot(h, w, preferred_element_type=F32)
    return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, y))


def _per_token(h, w, y, weights, **options):
    return jnp.sum(weights * jsoftmax.linear_cross_entropy(h, w, y, **options))


def _terms(h, w, y, weights, **options):
    terms = jsoftmax.linear_cross_entropy_terms(h, w, y, **options)
    return jnp.sum(weights * (terms.loss + terms.log_partition**2 + terms.entropy))


def _entmax(h, w, y, weights, **options):
    return jnp.sum(weights * jsoftmax.linear_entmax_loss(h, w, y, **options))


def _log_prob_terms(h, w, y, weights, **options):
    terms = jsoftmax.linear_log_prob_terms(h, w, y, **options)
    return jnp.sum(weights * (terms.log_prob + terms.entropy)) + jnp.sum(terms.rank)


_FORMS = {
    "linear_cross_entropy": _per_token,
    "linear_cross_entropy_sum": jsoftmax.linear_cross_entropy_sum,
    "linear_cross_entropy_terms": _terms,
    "linear_entmax_loss": _entmax,
    "linear_log_prob_terms": _log_prob_terms,
}


def _linear(tokens, classes, width=2048, rows=WHOLE, table=WHOLE) -> tuple[Shape, ...]:
    return (
        ((tokens, width), BF16, rows), ((width, classes), BF16, table),
        ((tokens,), I32, rows), ((tokens,), F32, rows),
    )  # fmt: skip


def linear_losses() -> Iterator[Case]:
    """On one device, value and gradient."""
    group = "Linear losses, 8192 × 2048 × 128,256 bfloat16, value and gradient"
    shapes = _linear(8192, 128256)
    yield Case(group, "dense optax", jax.value_and_grad(_dense, (0, 1)), shapes, is_quick=True)
    for name, loss in _FORMS.items():
        # The dense way launches 12 programs on an H100, and 500 are allowed.
        limits = {"temporaries": 0.3, "traffic": 1.5, "cycles": 1.4, "launches": 500 / 12}
        yield Case(
            group, name, jax.value_and_grad(loss, (0, 1)), shapes, "dense optax",
            limits={} if name == "linear_entmax_loss" else limits, is_quick="entmax" not in name,
        )  # fmt: skip


def _dense_divergence(direction):
    def loss(h, w, teacher, table, weights):
        log_q, log_p = (
            jax.nn.log_softmax(jnp.dot(x, y, preferred_element_type=F32))
            for x, y in ((h, w), (teacher, table))
        )
        if direction == "forward":
            loss = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
        else:
            log_m = jnp.logaddexp(log_p, log_q) - np.log(2)
            loss = sum(jnp.sum(jnp.exp(x) * (x - log_m), -1) / 2 for x in (log_p, log_q))
        return jnp.sum(weights * loss)

    return loss


def _divergence(direction, **options):
    def loss(h, w, teacher, table, weights):
        given = teacher, table, h, w
        losses = jsoftmax.linear_kl_divergence(*given, direction=direction, **options)
        return jnp.sum(weights * losses)

    return loss


_DIRECTIONS = ("forward", "jensen_shannon")
_MOVING = {"of the student": (0, 1), "of both models": (0, 1, 2, 3)}


def _models(classes, rows=WHOLE, table=WHOLE) -> tuple[Shape, ...]:
    one = (((8192, 2048), BF16, rows), ((2048, classes), BF16, table))
    return (*one, *one, ((8192,), F32, rows))


def two_models() -> Iterator[Case]:
    """Divergences on one device: distillation, and between two models that learn."""
    for direction in _DIRECTIONS:
        group = f"Two models, {direction}, 8192 × 2048 × 128,256 bfloat16, value and gradient"
        for whose, places in _MOVING.items():
            dense, ours = (
                jax.value_and_grad(of(direction), places) for of in (_dense_divergence, _divergence)
            )
            peer = f"dense, {whose}"
            yield Case(group, peer, dense, _models(128256))
            yield Case(
                group, f"linear_kl_divergence, {whose}", ours, _models(128256), peer,
                limits={"temporaries": 0.3},
            )  # fmt: skip


def two_models_on_a_mesh() -> Iterator[Case]:
    """The same on 2 × 4, tokens over data."""
    for place in ("over model", "over data and model"):
        group = f"Two models on 2 × 4, tables {place}, 8192 × 2048 × 131,072, value and gradient"
        shapes = _models(131072, P("data"), TABLES[place])
        for whose, places in _MOVING.items():
            dense = jax.value_and_grad(_dense_divergence("forward"), places)
            peer = f"dense, {whose}"
            yield Case(group, peer, dense, shapes, axes=AxisType.Auto)
            for way, options in (("Explicit", {}), ("Auto", {"axis_name": "model"})):
                ours = jax.value_and_grad(_divergence("forward", **options), places)
                axes = AxisType.Explicit if way == "Explicit" else AxisType.Auto
                yield Case(
                    group, f"linear_kl_divergence, {whose}, {way}", ours, shapes, peer, axes,
                    {"temporaries": 0.6}, rows=4096,
                    platform="tpu" if way == "Explicit" else None,
                )  # fmt: skip


def block_sizes() -> Iterator[Case]:
    """The rule for blocks: tokens × classes."""
    group = "The rule for blocks, width 1024, value and gradient"
    for tokens in (1024, 4096, 16384):
        for classes in (8192, 32000, 50257, 131072):
            size = f"{tokens:,} × {classes:,}"
            shapes = _linear(tokens, classes, 1024)
            peer = f"dense optax, {size}"
            # Classes that are no multiple of 128 lanes have no aligned blocks: slices are copied.
            traffic = 1.5 if classes % 128 == 0 else 2.0
            yield Case(group, peer, jax.value_and_grad(_dense, (0, 1)), shapes, platform="tpu")
            yield Case(
                group, f"linear_cross_entropy, {size}", jax.value_and_grad(_per_token, (0, 1)),
                shapes, peer, limits={"temporaries": 1.0, "traffic": traffic}, platform="tpu",
            )  # fmt: skip


TABLES = {
    "over model": P(None, "model"),
    "over data and model": P("data", "model"),
    "over data": P("data", None),
    "whole": P(),
}


def linear_losses_on_a_mesh() -> Iterator[Case]:
    """Tokens over data; on Explicit axes, on Auto axes, and in `shard_map`."""
    for place, spec in TABLES.items():
        group = f"Linear losses on 2 × 4, table {place}, 8192 × 2048 × 131,072, value and gradient"
        shapes = _linear(8192, 131072, rows=P("data"), table=spec)
        auto = AxisType.Auto
        yield Case(
            group, "dense optax", jax.value_and_grad(_dense, (0, 1)), shapes, axes=auto,
            is_quick=True,
        )  # fmt: skip
        for name, loss in _FORMS.items():
            named = {"axis_name": "model"} if "model" in spec else {}
            ways = {
                "Explicit": (loss, AxisType.Explicit),
                "Auto": (jax.tree_util.Partial(loss, **named), auto),
                "shard_map": (_mapped(loss, spec, named), auto),
            }
            for way, (function, axes) in ways.items():
                yield Case(
                    group, f"{name}, {way}", jax.value_and_grad(function, (0, 1)), shapes,
                    "dense optax", axes, {"temporaries": 0.6}, rows=4096,
                    is_quick=way == "Explicit" and "entmax" not in name,
                    # On a GPU JAX asks for a backend where axes are Explicit.
                    platform="tpu" if way == "Explicit" else None,
                )  # fmt: skip


def _mapped(loss, spec, named):
    def part(h, w, y, weights):
        if "data" in spec:
            w = jax.lax.all_gather(w, "data", axis=0, tiled=True)
        return jax.lax.psum(loss(h, w, y, weights, **named), "data")

    rows = P("data")
    return jax.shard_map(part, in_specs=(rows, spec, rows, rows), out_specs=P())


def attention() -> Iterator[Case]:
    """One layer, and a step of decoding."""
    qkv = (((4, 4096, 8, 128), BF16, P()),) * 3
    group, peer = "Attention, 4 × 4096, 8 heads of 128, bfloat16", "jax.nn"

    def gradients(function):
        return jax.grad(lambda *xs: jnp.sum(function(*xs).astype(F32)), (0, 1, 2))

    for kind, of in (("forward", lambda f: f), ("gradient", gradients)):
        for causal in (False, True):
            order = ", causal" if causal else ""
            of_jax = jax.tree_util.Partial(jax.nn.dot_product_attention, is_causal=causal)
            yield Case(group, f"{peer}{order}, {kind}", of(of_jax), qkv)
            for alpha in (1.0, 1.5):
                ours = jax.tree_util.Partial(
                    jsoftmax.dot_product_attention, alpha=alpha, is_causal=causal
                )
                name = f"α = {alpha}{order}, {kind}"
                yield Case(group, name, of(ours), qkv, f"{peer}{order}, {kind}")
    group, cache = (
        "Decoding, 8 × 4096 cache, 8 heads of 128, bfloat16",
        ((8, 4096, 8, 128), BF16, P()),
    )
    for heads in (8, 32):
        few = ((8, 1, heads, 128), BF16, P()), cache, cache
        of_jax = f"jax.nn, {heads} heads"
        yield Case(group, of_jax, jax.nn.dot_product_attention, few)
        for alpha in (1.0, 1.5):
            ours = jax.tree_util.Partial(jsoftmax.dot_product_attention, alpha=alpha)
            yield Case(group, f"α = {alpha}, {heads} heads", ours, few, of_jax)


def attention_on_a_mesh() -> Iterator[Case]:
    """Batch over data and heads over model; a ring over model."""
    group = "Attention on 2 × 4, batch over data, heads over model, gradient"
    qkv = (((4, 4096, 8, 128), BF16, P("data", None, "model")),) * 3
    for causal in (False, True):

        def loss(q, k, v, causal=causal):
            mixed = jsoftmax.dot_product_attention(q, k, v, is_causal=causal)
            return jnp.sum(mixed.astype(F32))

        name = "softmax, causal" if causal else "softmax"
        yield Case(group, name, jax.grad(loss, (0, 1, 2)), qkv, axes=AxisType.Auto, rows=0)
    group, spec = "A ring of 4 on 2 × 4, T = 32,768, 8 heads of 128", P("data", "model")
    qkv = (((2, 32768, 8, 128), BF16, spec),) * 3
    for causal in (False, True):
        ring = jax.tree_util.Partial(jsoftmax.ring_attention, axis_name="model", is_causal=causal)
        mapped = jax.shard_map(ring, in_specs=(spec,) * 3, out_specs=spec)
        yield Case(group, "causal" if causal else "full", mapped, qkv, axes=AxisType.Auto)


def large_vocabularies() -> Iterator[Case]:
    """Trees and clusters, 4096 × 512 × 128,256 float32."""
    tokens, width, classes = 4096, 512, 128256
    group = f"Large vocabularies, {tokens} × {width} × {classes:,} float32, value and gradient"
    h, y = ((tokens, width), F32, P()), ((tokens,), I32, P())

    def dense(h, w, y):
        return optax.softmax_cross_entropy_with_integer_labels(h @ w, y).sum()

    table = ((width, classes), F32, P())
    yield Case(group, "dense optax", jax.value_and_grad(dense, (0, 1)), (h, table, y))
    tree = vocabulary.two_level_tree(np.arange(classes, 0, -1))

    def by_tree(h, table, y):
        return vocabulary.hierarchical_cross_entropy(h, table, tree, y).sum()

    rows = ((tree.table_rows, width), F32, P())
    yield Case(
        group, "two-level tree", jax.value_and_grad(by_tree, (0, 1)), (h, rows, y), "dense optax",
        limits={"temporaries": 1.0},
    )  # fmt: skip
