"""Operations that have kernels: the calls, shapes and peers of their trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jsoftmax
from jsoftmax.kernels._kernel_choice import case_of
from jsoftmax.kernels.trial._attention_peers import attention_peers

Shape = tuple[int, ...]
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Operation:
    """A public function that takes `implementation`, with the arguments of its trials."""

    name: str  # in the record; its gradient is recorded as "<name> gradient"
    case: str
    function: Callable[..., Any]  # of arrays and the keyword `implementation`
    outlines: Callable[[Shape, Any], tuple[jax.ShapeDtypeStruct, ...]]
    moving: tuple[int, ...]  # indices of the differentiated arrays, if any
    shapes: tuple[Shape, ...]
    small: tuple[Shape, ...]  # for interpret mode; no multiples of a block
    most: Callable[[Shape], int] = lambda shape: shape[-1]  # integers are below this
    # Called when they are timed, since they depend on the device.
    peers: Callable[[], Mapping[str, Callable[..., Any]]] = dict
    dtypes: tuple[str, ...] = DTYPES
    tables: tuple[int, ...] = ()  # arrays with a variance of 1 / their first size

    @property
    def title(self) -> str:
        """The name and case of the operation."""
        return f"{self.name}, {self.case}" if self.case else self.name

    def arrays(self, shape: Shape, dtype: Any) -> tuple[jax.Array, ...]:
        """Draw normal numbers, and integers below `most`; the same each time."""
        outlines = self.outlines(shape, dtype)
        keys = jax.random.split(jax.random.key(0), len(outlines))

        def drawn(key, place, x):
            if jnp.issubdtype(x.dtype, jnp.integer):
                return jax.random.randint(key, x.shape, 0, self.most(shape), x.dtype)
            scale = x.shape[0] ** -0.5 if place in self.tables else 1
            return (scale * jax.random.normal(key, x.shape, "float32")).astype(x.dtype)

        return tuple(
            drawn(key, i, x) for i, (key, x) in enumerate(zip(keys, outlines, strict=True))
        )


def operations() -> tuple[Operation, ...]:
    """Return all operations with kernels."""
    return (*_mappings(), *_losses(), *_attention(), *_decoding(), *_linear_losses())


_ROWS = ((4096, 512), (128, 32000), (16, 128256))  # rows, classes
_FEW_ROWS = ((5, 37), (3, 300))


def _mappings():
    def rows(shape, dtype):
        return (jax.ShapeDtypeStruct(shape, dtype),)

    def peers():
        return {"jax.nn.softmax": jax.nn.softmax}

    for alpha in (1.0, 1.5, 2.0, 3.0):
        yield Operation(
            "mapping", case_of(alpha), _with(jsoftmax.entmax, alpha=alpha), rows, (0,), _ROWS,
            _FEW_ROWS, peers=peers,
        )  # fmt: skip

    def with_number(shape, dtype):
        return (jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((), "float32"))

    def traced(z, x, **more):
        return jsoftmax.entmax(z, 1.5 + 0.1 * jnp.tanh(x), **more)

    yield Operation("mapping", case_of(None), traced, with_number, (0,), _ROWS, _FEW_ROWS)


def _losses():
    def with_labels(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(shape[:1], "int32")

    def by_optax(z, y):
        return optax.softmax_cross_entropy_with_integer_labels(z.astype("float32"), y)

    yield Operation(
        "loss", case_of(1), jsoftmax.cross_entropy, with_labels, (0,), _ROWS, _FEW_ROWS,
        peers=lambda: {"optax": by_optax},
    )  # fmt: skip
    for alpha in (1.5, 2.0):
        yield Operation(
            "loss", case_of(alpha), _with(jsoftmax.entmax_loss, alpha=alpha), with_labels, (0,),
            _ROWS, _FEW_ROWS,
        )  # fmt: skip


def _attention():
    def heads(shape, dtype):
        batch_and_heads, queries, keys, width = shape
        several = 4 if batch_and_heads % 4 == 0 else 1
        lead = batch_and_heads // several
        q = jax.ShapeDtypeStruct((lead, queries, several, width), dtype)
        k = jax.ShapeDtypeStruct((lead, keys, several, width), dtype)
        return q, k, k

    shapes = ((32, 1024, 1024, 64), (32, 4096, 4096, 128))  # batch × heads, queries, keys, width
    small = ((1, 40, 40, 16),)
    for alpha in (1.0, 1.5):
        for is_causal in (False, True):
            case = case_of(alpha, *["causal"] * is_causal)
            function = _with(jsoftmax.dot_product_attention, alpha=alpha, is_causal=is_causal)
            peers = partial(attention_peers, is_causal)
            yield Operation(
                "attention", case, function, heads, (0, 1, 2), shapes, small, peers=peers
            )


def _decoding():
    def one_beside_a_cache(shape, dtype):
        batch, key_heads, group, keys, width = shape
        q = jax.ShapeDtypeStruct((batch, 1, key_heads * group, width), dtype)
        k = jax.ShapeDtypeStruct((batch, keys, key_heads, width), dtype)
        return q, k, k

    def by_jax(q, k, v):
        return jax.nn.dot_product_attention(q, k, v)

    shapes = ((8, 16, 1, 4096, 128), (8, 2, 8, 4096, 128))
    for alpha in (1.0, 1.5):
        yield Operation(
            "decoding", case_of(alpha), _with(jsoftmax.dot_product_attention, alpha=alpha),
            one_beside_a_cache, (), shapes, ((2, 2, 3, 40, 16),),
            peers=lambda: {"jax.nn": by_jax},
        )  # fmt: skip


def _linear_losses():
    def tokens_and_table(shape, dtype):
        tokens, width, classes = shape
        return (
            jax.ShapeDtypeStruct((tokens, width), dtype),
            jax.ShapeDtypeStruct((width, classes), dtype),
            jax.ShapeDtypeStruct((tokens,), "int32"),
        )

    shapes = ((1024, 2048, 128256), (8192, 2048, 128256))
    yield Operation(
        "linear loss", case_of(1), jsoftmax.linear_cross_entropy, tokens_and_table, (0, 1), shapes,
        ((32, 64, 384),), dtypes=("bfloat16",), tables=(1,),
    )  # fmt: skip


def _with(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def called(*arrays, **more):
        return function(*arrays, **options, **more)

    return called
