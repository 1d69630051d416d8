"""Sums over the classes of h W + b, online: the largest score, the others' mass, the label's score.

Over blocks of classes with m the largest score so far, m' the new one,

    a ← a e^(m − m') + Σ e^(z − m')   over all classes except the label.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jsoftmax.kernels.linear._table_problem import TableProblem, columns, outline


def table_sums(
    problem: TableProblem, h: Array, w: Array, bias: Array | None, ids: Array
) -> tuple[Array, Array, Array]:
    """Return rows [1, tokens]: max z, Σ e^(z − max z) without the label's, and the label's z."""
    bt, bc = problem.blocks("sums")
    count = -(-problem.classes // bc)

    def body(h, w, *refs):
        (bias, ids), (top, others, own), (m, a, at_label, labels) = _parted(refs, problem.has_bias)
        j = pl.program_id(1)

        @pl.when(j == 0)
        def _():
            m[...] = jnp.full_like(m, -jnp.inf)
            a[...] = jnp.zeros_like(a)
            at_label[...] = jnp.zeros_like(at_label)
            (labels[...],) = columns(ids)

        z = problem.scores(h[...], w[...], None if bias is None else bias[...])
        if problem.cap is not None:
            z = problem.cap * jnp.tanh(z / problem.cap)
        numbers = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) + j * bc
        if problem.classes % bc:
            z = jnp.where(numbers < problem.classes, z, -jnp.inf)
        is_label = numbers == labels[...]
        new = jnp.maximum(m[...], jnp.max(z, 1, keepdims=True))
        # Equal scores differ by 0, also if they are infinite.
        kept = jnp.where(m[...] == new, 1.0, jnp.exp(m[...] - new))
        mass = jnp.exp(jnp.where(z == new, 0.0, z - new))
        a[...] = a[...] * kept + jnp.sum(jnp.where(is_label, 0.0, mass), 1, keepdims=True)
        at_label[...] += jnp.sum(jnp.where(is_label, z, 0.0), 1, keepdims=True)
        m[...] = new

        @pl.when(j == count - 1)
        def _():
            for row, x in ((top, m), (others, a), (own, at_label)):
                row[...] = x[...].reshape(1, -1)

    row = pl.BlockSpec((1, bt), lambda i, j: (0, i))
    specs = [
        pl.BlockSpec((bt, problem.width), lambda i, j: (i, 0)),
        problem.table(bc, lambda i, j: j),
    ]
    given = [h, w]
    if bias is not None:
        specs.append(pl.BlockSpec((1, bc), lambda i, j: (0, j)))
        given.append(bias)
    return problem.call(
        body,
        "sums",
        (problem.tokens // bt, count),
        in_specs=[*specs, row],
        out_specs=[row] * 3,
        out_shape=[outline((1, problem.tokens), jnp.float32, h)] * 3,
        scratch_shapes=[pltpu.VMEM((bt, 1), dtype) for dtype in (jnp.float32,) * 3 + (jnp.int32,)],
    )(*given, ids)


def _parted(refs, has_bias):
    given = refs[: 2 if has_bias else 1]
    bias, ids = given if has_bias else (None, *given)
    rest = refs[len(given) :]
    return (bias, ids), rest[:3], rest[3:]
