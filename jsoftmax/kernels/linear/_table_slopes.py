"""Gradients of a linear cross-entropy in features, table and bias, from the sums of its rows.

Scores are formed again, and with them the slope of each, which stays on the chip:

    ∂L/∂z = a p but at the label, and there c + b p,   p = e^(z − m − ℓ),

for numbers a, b and c of a token, m = max z, and ℓ the logarithm of what the masses are divided by.
Where the float32 gradient in all features fits on the chip, one kernel forms both gradients;
otherwise two do, each forming the scores.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jsoftmax.kernels.linear._table_problem import TableProblem, columns, outline


class TokenRows(NamedTuple):
    """Numbers of each token, in rows [1, tokens]."""

    ids: Array
    top: Array  # m
    log_total: Array  # ℓ
    factor: Array  # a
    own_factor: Array  # b
    own: Array  # c


def table_slopes(
    problem: TableProblem, h: Array, w: Array, bias: Array | None, rows: TokenRows
) -> tuple[Array, Array, Array | None]:
    """Gradients in features and table, in their dtypes, and in the bias, in float32."""
    if problem.features_fit:
        return _called(problem, "both", h, w, bias, rows)
    dh, _, _ = _called(problem, "features", h, w, bias, rows)
    _, dw, db = _called(problem, "table", h, w, bias, rows)
    return dh, dw, db


def _called(problem, name, h, w, bias, rows):
    """One kernel: classes outside and tokens inside, but for the gradient in features alone."""
    bt, bc = problem.blocks(name)
    tokens, classes = problem.tokens // bt, -(-problem.classes // bc)
    of_h, of_w, has_bias = name != "table", name != "features", problem.has_bias
    is_turned = name == "features"  # tokens are outside
    grid = (tokens, classes) if is_turned else (classes, tokens)

    def token(*at):
        return at[0] if is_turned else at[1]

    def klass(*at):
        return at[1] if is_turned else at[0]

    def body(*refs):
        refs = iter(refs)
        h, w = next(refs), next(refs)
        bias = next(refs) if has_bias else None
        numbers = TokenRows(*(next(refs) for _ in range(len(TokenRows._fields))))
        dh = next(refs) if of_h else None
        dw = next(refs) if of_w else None
        db = next(refs) if of_w and has_bias else None
        in_h = next(refs) if of_h else None
        in_w = next(refs) if of_w else None
        in_b = next(refs) if of_w and has_bias else None
        at = pl.program_id(0), pl.program_id(1)
        i, j = token(*at), klass(*at)
        table = problem.whole_classes(w[...], j * bc, bc)
        slope = _slope(problem, h[...], table, bias, numbers, j * bc)
        narrow = slope.astype(problem.dtype)
        if in_h is not None and dh is not None:
            mine = pl.ds(i * bt, bt) if name == "both" else slice(None)
            found = problem.product(narrow, table, 1, problem.class_axis)
            _add(in_h, mine, found, j == 0)

            @pl.when(j == classes - 1)
            def _():
                dh[...] = in_h[mine, :].astype(dh.dtype)

        if in_w is not None and dw is not None:
            pair = (h[...], narrow) if problem.class_axis else (narrow, h[...])
            _add(in_w, slice(None), problem.product(*pair, 0, 0), i == 0)
            if in_b is not None:
                _add(in_b, slice(None), jnp.sum(slope, 0, keepdims=True), i == 0)

            @pl.when(i == tokens - 1)
            def _():
                dw[...] = in_w[...].astype(dw.dtype)
                if db is not None and in_b is not None:
                    db[...] = in_b[...]

    features = pl.BlockSpec((bt, problem.width), lambda *at: (token(*at), 0))
    row = pl.BlockSpec((1, bt), lambda *at: (0, token(*at)))
    per_class = pl.BlockSpec((1, bc), lambda *at: (0, klass(*at)))
    table = problem.table(bc, klass)
    # Until the last classes the block of results stays where it is, and nothing is written.
    late = pl.BlockSpec(
        (bt, problem.width),
        lambda *at: (token(*at) if is_turned else jnp.where(at[0] == classes - 1, at[1], 0), 0),
    )
    outputs, scratch = [], []
    if of_h:
        kept = problem.tokens if name == "both" else bt
        outputs.append((late, outline(h.shape, h.dtype, h)))
        scratch.append((kept, problem.width))
    if of_w:
        outputs.append((table, outline(w.shape, w.dtype, h)))
        scratch.append((problem.width, bc) if problem.class_axis else (bc, problem.width))
        if has_bias:
            outputs.append((per_class, outline(bias.shape, jnp.float32, h)))
            scratch.append((1, bc))
    found = problem.call(
        body,
        name,
        grid,
        in_specs=[features, table, *[per_class] * has_bias, *[row] * len(rows)],
        out_specs=[spec for spec, _ in outputs],
        out_shape=[x for _, x in outputs],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
    )(h, w, *[bias] * has_bias, *rows)
    found = iter(found)
    return (
        next(found) if of_h else None,
        next(found) if of_w else None,
        next(found) if of_w and has_bias else None,
    )


def _add(total, place, x, is_first):
    """Begin a sum, or go on with it."""

    @pl.when(is_first)
    def _():
        total[place, :] = jnp.zeros_like(x)

    total[place, :] += x


def _slope(problem, h, w, bias, rows, first):
    """∂L/∂(h W + b) of a block."""
    ids, top, log_total, factor, own_factor, own = columns(*rows)
    z = problem.scores(h, w, None if bias is None else bias[...])
    turn = None
    if problem.cap is not None:
        bent = jnp.tanh(z / problem.cap)
        z, turn = problem.cap * bent, 1 - bent * bent
    numbers = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) + first
    p = jnp.exp(jnp.where(z == top, 0.0, z - top) - log_total)
    slope = jnp.where(numbers == ids, own + own_factor * p, factor * p)
    slope = slope if turn is None else slope * turn
    # Beyond the last class there are scores of 0.
    is_whole = problem.classes % z.shape[1] == 0
    return slope if is_whole else jnp.where(numbers < problem.classes, slope, 0.0)
