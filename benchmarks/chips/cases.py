"""The programs that are compiled: functions at real sizes, their peers, and limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsoftmax
from jsoftmax import vocabulary

BF16, F32, I32 = jnp.bfloat16, jnp.float32, jnp.int32
WHOLE = P()
Shape = tuple[tuple[int, ...], Any, P]  # shape, dtype, how it is split


@dataclasses.dataclass(frozen=True)
class Case:
    """A program; `limits` bound its figures, divided by those of the peer."""

    group: str
    name: str
    function: Callable
    shapes: tuple[Shape, ...]
    peer: str | None = None  # the name of another case of the group
    axes: AxisType | None = None  # of a mesh of 2 × 4; None for one device
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: int | None = None  # of a device, if no more than the peer's and some numbers a row travel
    is_quick: bool = False
    platform: str | None = None  # the only one


def cases() -> Iterator[Case]:
    """All of them; a peer stands before those that are divided by it."""
    yield from mappings()
    yield from losses()
    yield from rows_by_kernels()
    yield from linear_losses()
    yield from block_sizes()
    yield from linear_losses_on_a_mesh()
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


def rows_by_kernels() -> Iterator[Case]:
    """A row is read once and written once, by one kernel; pulled back from a given cotangent."""
    kernel = {"implementation": "pallas"}
    mappings: dict[str, tuple[Callable, tuple[Shape, ...]]] = {
        "softmax": (jax.tree_util.Partial(jsoftmax.softmax, **kernel), ()),
        **{
            f"entmax, α = {alpha}": (
                jax.tree_util.Partial(jsoftmax.entmax, alpha=alpha, **kernel),
                (),
            )
            for alpha in (1.5, 2.0, 3.0)
        },
        "entmax, traced α": (
            jax.tree_util.Partial(jsoftmax.entmax, **kernel),
            (((), F32, P()),),
        ),
    }
    of_labels = {"cross_entropy": jsoftmax.cross_entropy, "entmax_loss": jsoftmax.entmax_loss}
    for rows, classes in ((4096, 512), (128, 32000), (16, 128256)):
        group = f"Rows by kernels, [{rows}, {classes}] float32"
        z, y, number = ((rows, classes), F32, P()), ((rows,), I32, P()), ((rows,), F32, P())
        limits = {"traffic": 1.05, "launches": 1.0}
        for kind, way in (("forward", lambda f: f), ("gradient", _pulled_back)):
            more = (z,) if kind == "gradient" else ()
            peer = f"jax.nn.softmax, {kind}"
            yield Case(group, peer, way(jax.nn.softmax), (*more, z))
            for name, (function, others) in mappings.items():
                # A traced α is one number, which a program of its own makes one of each row.
                launches = 2.0 if others else 1.0
                yield Case(
                    group, f"{name}, {kind}", way(function), (*more, z, *others), peer,
                    limits=limits | {"launches": launches},
                    is_quick=classes == 512 and name == "entmax, α = 1.5",
                )  # fmt: skip
            more = (number,) if kind == "gradient" else ()
            for name, loss in of_labels.items():
                function = way(jax.tree_util.Partial(loss, **kernel))
                yield Case(group, f"{name}, {kind}", function, (*more, z, y), peer, limits=limits)


def _pulled_back(function):
    def gradient(cotangent, x, *others):
        return jax.vjp(lambda x: function(x, *others), x)[1](cotangent)[0]

    return gradient


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


_FORMS = {
    "linear_cross_entropy": _per_token,
    "linear_cross_entropy_sum": jsoftmax.linear_cross_entropy_sum,
    "linear_cross_entropy_terms": _terms,
    "linear_entmax_loss": _entmax,
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


def _flash(q, k, v, causal=False):
    from jax.experimental.pallas.ops.tpu import flash_attention

    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = flash_attention.flash_attention(q, k, v, causal=causal, sm_scale=q.shape[-1] ** -0.5)
    return jnp.swapaxes(out, 1, 2)


def attention_by_kernels() -> Iterator[Case]:
    """The same layer beside JAX's own Pallas kernel, long sequences, a mesh, and decoding."""
    qkv = (((4, 4096, 8, 128), BF16, P()),) * 3
    group = "Attention by kernels, 4 × 4096, 8 heads of 128, bfloat16"

    def by_kernel(alpha, **options):
        return jax.tree_util.Partial(
            jsoftmax.dot_product_attention, alpha=alpha, implementation="pallas", **options
        )

    def gradients(function):
        return jax.grad(lambda *xs: jnp.sum(function(*xs).astype(F32) ** 2), (0, 1, 2))

    limits = {"temporaries": 1.1, "traffic": 1.2}
    for kind, of in (("forward", lambda f: f), ("gradient", gradients)):
        for causal in (False, True):
            name = f"{', causal' if causal else ''}, {kind}"
            flash, peer = jax.tree_util.Partial(_flash, causal=causal), f"Pallas flash{name}"
            yield Case(group, peer, of(flash), qkv, platform="tpu")
            for alpha in (1.0, 1.5, None):
                ours = by_kernel(alpha or 1.5, is_causal=causal)
                shapes, title = qkv, f"α = {alpha}"
                if alpha is None:
                    if causal:
                        continue
                    title, shapes = "traced α by head", (*qkv, ((8,), F32, P()))

                    def ours(q, k, v, alpha):
                        return by_kernel(alpha)(q, k, v)

                yield Case(
                    group, f"{title}{name}", of(ours), shapes, peer, limits=limits,
                    is_quick=alpha == 1.5 and causal, platform="tpu",
                )  # fmt: skip
                yield Case(group, f"{title}{name}, Triton", of(ours), shapes, platform="gpu")
    group, long = (
        "Attention by kernels, long sequences, causal, 4 heads of 128",
        "α = 1.5, T = {:,}, {}",
    )
    for length in (32768, 131072):
        qkv = (((1, length, 4, 128), BF16, P()),) * 3
        for kind, of in (("forward", lambda f: f), ("gradient", gradients)):
            ours = of(by_kernel(1.5, is_causal=True))
            yield Case(group, long.format(length, kind), ours, qkv, platform="tpu")
    group, cache = (
        "Decoding by kernels, 8 × 4096 cache, bfloat16",
        lambda heads: ((8, 4096, heads, 128), BF16, P()),
    )
    for heads, key_heads in ((16, 16), (16, 2)):
        few = ((8, 1, heads, 128), BF16, P()), cache(key_heads), cache(key_heads)
        name = f"{heads} heads, {key_heads} of keys"
        yield Case(group, f"jax.nn, {name}", jax.nn.dot_product_attention, few, platform="tpu")
        for alpha in (1.0, 1.5):
            yield Case(
                group, f"α = {alpha}, {name}", by_kernel(alpha), few, f"jax.nn, {name}",
                limits=limits, platform="tpu",
            )  # fmt: skip
    few, indices = ((8, 1, 32, 128), BF16, P()), ((8, 64), I32, P())
    pages = ((1024, 64, 8, 128), BF16, P())  # of 64 keys
    for alpha in (1.0, 1.5):
        paged = jax.tree_util.Partial(
            jsoftmax.paged_attention, alpha=alpha, implementation="pallas"
        )
        shapes = few, pages, pages, indices, ((8,), I32, P())
        yield Case(group, f"α = {alpha}, 64 pages of 64 keys", paged, shapes, platform="tpu")
    group, spec = "Attention by kernels in shard_map on 2 × 4, gradient", P("data", None, "model")
    split = jax.shard_map(by_kernel(1.5, is_causal=True), in_specs=(spec,) * 3, out_specs=spec)
    qkv = (((4, 4096, 8, 128), BF16, spec),) * 3
    yield Case(
        group, "α = 1.5, causal", gradients(split), qkv, axes=AxisType.Auto, rows=0, platform="tpu"
    )


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
