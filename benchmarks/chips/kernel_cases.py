"""Programs of kernels that are compiled: rows, attention, decoding, beside their peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsoftmax
from benchmarks.chips.case import BF16, F32, I32, Case, Shape


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


def _flash(q, k, v, causal=False):
    from jax.experimental.pallas.ops.tpu import flash_attention

    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = flash_attention.flash_attention(q, k, v, causal=causal, sm_scale=q.shape[-1] ** -0.5)
    return jnp.swapaxes(out, 1, 2)


def _flash_triton(q, k, v, causal=False):
    from jax.experimental.pallas.ops.gpu import attention

    return attention.mha(q, k, v, None, sm_scale=q.shape[-1] ** -0.5, causal=causal)


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
            flash, triton = jax.tree_util.Partial(_flash_triton, causal=causal), f"{peer}, Triton"
            yield Case(group, triton, of(flash), qkv, platform="gpu")
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
                yield Case(
                    group, f"{title}{name}, Triton", of(ours), shapes, triton,
                    limits={"temporaries": 1.1}, platform="gpu",
                )  # fmt: skip
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

    def bounded(*given):
        return paged(*given[:-2], key_bounds=given[-2:])

    name, bounds = "α = 1.5, 64 pages of 64 keys with bounds", (((1024, 8, 128), BF16, P()),) * 2
    yield Case(group, name, bounded, (*shapes, *bounds), platform="tpu")
    group, spec = "Attention by kernels in shard_map on 2 × 4, gradient", P("data", None, "model")
    split = jax.shard_map(by_kernel(1.5, is_causal=True), in_specs=(spec,) * 3, out_specs=spec)
    qkv = (((4, 4096, 8, 128), BF16, spec),) * 3
    yield Case(
        group, "α = 1.5, causal", gradients(split), qkv, axes=AxisType.Auto, rows=0, platform="tpu"
    )
