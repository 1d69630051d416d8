"""A linear cross-entropy in Pallas for TPUs, as a prototype: one label a token, no other option.

Scores of a block of tokens and a block of classes are formed on the chip and never leave it. The
forward kernel carries the largest score and the sum of exponentials over the blocks of classes.
The gradient has two forms: in two kernels, one for the features and one for the class table, each
of which forms the scores again; or in one, where the float32 gradient in all features lies in VMEM.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

F32 = jnp.float32
_VMEM = 128 * 2**20  # of a v5e


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tokens and classes of a block of each kernel; both go into their numbers evenly."""

    forward: tuple[int, int] = (1024, 384)
    features: tuple[int, int] = (512, 768)
    table: tuple[int, int] = (512, 768)
    both: tuple[int, int] = (512, 384)
    together: bool = True  # one kernel for both gradients
    interpret: bool = False

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels that value and gradient take."""
        return ("forward", "of_both") if self.together else ("forward", "of_features", "of_table")

    def work(self, kernel: str) -> tuple[int, int, int]:
        """Tokens and classes of a block of a kernel, and its matrix products."""
        return {
            "forward": (*self.forward, 1),
            "of_features": (*self.features, 2),
            "of_table": (*self.table, 2),
            "of_both": (*self.both, 3),
        }[kernel]

    def call(self, kernel, **more):
        """`pl.pallas_call`, with as much of VMEM as a kernel may have."""
        parameters = pltpu.CompilerParams(
            vmem_limit_bytes=_VMEM - 2**20, dimension_semantics=("arbitrary",) * 2
        )
        return pl.pallas_call(kernel, compiler_params=parameters, interpret=self.interpret, **more)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear_cross_entropy(h, w, y, blocks: Blocks):
    """One loss a token, from features [T, d], a class table [d, K] and labels [T]."""
    return _forward(h, w, y, blocks)[0]


def _with_residuals(h, w, y, blocks):
    loss, tau = _forward(h, w, y, blocks)
    return loss, (h, w, y, tau)


def _pulled_back(blocks, residuals, g):
    h, w, y, tau = residuals
    dh, dw = (_both if blocks.together else _apart)(h, w, y, tau, g, blocks)
    return dh.astype(h.dtype), dw.astype(w.dtype), None


linear_cross_entropy.defvjp(_with_residuals, _pulled_back)


def _row(x):
    return x.reshape(1, -1)  # a column would take 128 times its memory


def _columns(*references):
    return [x[...].reshape(-1, 1) for x in references]


def _scores(h, w):
    return jnp.dot(h, w, preferred_element_type=F32)


def _is_label(z, y, first):
    return jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) + first == y


def _forward(h, w, y, blocks):
    """Losses and log-partitions: tokens outside, classes inside."""
    (tokens, width), classes = h.shape, w.shape[1]
    bt, bc = blocks.forward
    last = classes // bc - 1

    def kernel(h, w, y, loss, tau, top, total, label, labels):
        j = pl.program_id(1)

        @pl.when(j == 0)
        def _():
            (labels[...],) = _columns(y)
            top[...] = jnp.full_like(top, -jnp.inf)
            total[...] = jnp.zeros_like(total)
            label[...] = jnp.zeros_like(label)

        z = _scores(h[...], w[...])
        new = jnp.maximum(top[...], jnp.max(z, 1, keepdims=True))
        rescaled = total[...] * jnp.exp(top[...] - new)
        total[...] = rescaled + jnp.sum(jnp.exp(z - new), 1, keepdims=True)
        top[...] = new
        here = _is_label(z, labels[...], j * bc)
        label[...] += jnp.sum(jnp.where(here, z, 0), 1, keepdims=True)

        @pl.when(j == last)
        def _():
            found = top[...] + jnp.log(total[...])
            tau[...] = _row(found)
            loss[...] = _row(found - label[...])

    row = pl.BlockSpec((1, bt), lambda i, j: (0, i))
    number = jax.ShapeDtypeStruct((1, tokens), F32)
    loss, tau = blocks.call(
        kernel,
        grid=(tokens // bt, classes // bc),
        in_specs=[
            pl.BlockSpec((bt, width), lambda i, j: (i, 0)),
            pl.BlockSpec((width, bc), lambda i, j: (0, j)),
            row,
        ],
        out_specs=[row, row],
        out_shape=[number, number],
        scratch_shapes=[pltpu.VMEM((bt, 1), dtype) for dtype in (F32, F32, F32, jnp.int32)],
        name="forward",
    )(h, w, _row(y))
    return loss[0], tau


def _slope(h, w, y, tau, g, first, dtype):
    """g (p − y), in the dtype in which it enters products."""
    z = _scores(h, w)
    return (g * (jnp.exp(z - tau) - jnp.where(_is_label(z, y, first), 1, 0))).astype(dtype)


def _across(x, y):
    """X Yᵀ."""
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=F32)


def _down(x, y):
    """Xᵀ Y."""
    return jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())), preferred_element_type=F32)


def _apart(h, w, y, tau, g, blocks):
    """Two kernels; each adds up on the chip."""
    (tokens, width), classes = h.shape, w.shape[1]
    given = (_row(y), tau, _row(g))

    def of_features(h, w, y, tau, g, dh, total):
        j = pl.program_id(1)

        @pl.when(j == 0)
        def _():
            total[...] = jnp.zeros_like(total)

        slope = _slope(h[...], w[...], *_columns(y, tau, g), j * bc, w.dtype)
        total[...] += _across(slope, w[...])

        @pl.when(j == classes // bc - 1)
        def _():
            dh[...] = total[...].astype(dh.dtype)

    bt, bc = blocks.features
    row = pl.BlockSpec((1, bt), lambda i, j: (0, i))
    some = pl.BlockSpec((bt, width), lambda i, j: (i, 0))
    dh = blocks.call(
        of_features,
        grid=(tokens // bt, classes // bc),
        in_specs=[some, pl.BlockSpec((width, bc), lambda i, j: (0, j)), row, row, row],
        out_specs=some,
        out_shape=jax.ShapeDtypeStruct(h.shape, h.dtype),
        scratch_shapes=[pltpu.VMEM((bt, width), F32)],
        name="of_features",
    )(h, w, *given)

    def of_table(h, w, y, tau, g, dw, total):
        j, i = pl.program_id(0), pl.program_id(1)

        @pl.when(i == 0)
        def _():
            total[...] = jnp.zeros_like(total)

        slope = _slope(h[...], w[...], *_columns(y, tau, g), j * cc, w.dtype)
        total[...] += _down(h[...], slope)

        @pl.when(i == tokens // ct - 1)
        def _():
            dw[...] = total[...].astype(dw.dtype)

    ct, cc = blocks.table
    specs = _class_major(ct, cc, width)
    dw = blocks.call(
        of_table,
        grid=(classes // cc, tokens // ct),
        in_specs=specs,
        out_specs=specs[1],
        out_shape=jax.ShapeDtypeStruct(w.shape, w.dtype),
        scratch_shapes=[pltpu.VMEM((width, cc), F32)],
        name="of_table",
    )(h, w, *given)
    return dh, dw


def _class_major(bt, bc, width):
    """Features, table, and three numbers a token: classes outside."""
    row = pl.BlockSpec((1, bt), lambda j, i: (0, i))
    return [
        pl.BlockSpec((bt, width), lambda j, i: (i, 0)),
        pl.BlockSpec((width, bc), lambda j, i: (0, j)),
        row, row, row,
    ]  # fmt: skip


def _both(h, w, y, tau, g, blocks):
    """One kernel: the gradient in the features lies in VMEM until the last classes were there."""
    (tokens, width), classes = h.shape, w.shape[1]
    bt, bc = blocks.both
    last = classes // bc - 1

    def kernel(h, w, y, tau, g, dh, dw, in_features, in_table):
        j, i = pl.program_id(0), pl.program_id(1)
        slope = _slope(h[...], w[...], *_columns(y, tau, g), j * bc, w.dtype)
        rows = pl.ds(i * bt, bt)

        @pl.when(j == 0)
        def _():
            in_features[rows, :] = jnp.zeros((bt, width), F32)

        @pl.when(i == 0)
        def _():
            in_table[...] = jnp.zeros_like(in_table)

        in_features[rows, :] += _across(slope, w[...])
        in_table[...] += _down(h[...], slope)

        @pl.when(j == last)
        def _():
            dh[...] = in_features[rows, :].astype(dh.dtype)

        @pl.when(i == tokens // bt - 1)
        def _():
            dw[...] = in_table[...].astype(dw.dtype)

    specs = _class_major(bt, bc, width)
    # Until the last classes, the block of results stays where it is, and nothing is written.
    late = pl.BlockSpec((bt, width), lambda j, i: (jnp.where(j == last, i, 0), 0))
    return blocks.call(
        kernel,
        grid=(classes // bc, tokens // bt),
        in_specs=specs,
        out_specs=[late, specs[1]],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (h, w)],
        scratch_shapes=[pltpu.VMEM((tokens, width), F32), pltpu.VMEM((width, bc), F32)],
        name="of_both",
    )(h, w, *(_row(y), tau, _row(g)))
