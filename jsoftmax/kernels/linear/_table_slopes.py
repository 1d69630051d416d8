"""Gradients of a linear cross-entropy in features, table and bias, from the sums of its rows.

Scores are recomputed, and with them the slope of each, which stays on the chip:

    ∂L/∂z = a p except at the label, and there c + b p,   p = e^(z − m − ℓ),

for numbers a, b and c of a token, m = max z, and ℓ the logarithm of the divisor of the masses.
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
    """Return gradients in features and table, in their dtypes, and in the bias, in float32."""
    if problem.features_fit:
        found = _called(problem, "both", h, w, bias, rows)
    else:
        found = _called(problem, "features", h, w, bias, rows)
        found |= _called(problem, "table", h, w, bias, rows)
    return found["h"], found["w"], found.get("bias")


def _called(
    problem: TableProblem, name: str, h: Array, w: Array, bias: Array | None, rows: TokenRows
) -> dict[str, Array]:
    """Call one kernel: classes are the outer loop, except for the gradient in features alone."""
    bt, bc = problem.blocks(name)
    tokens, classes = problem.tokens // bt, -(-problem.classes // bc)
    of_h, of_w, has_bias = name != "table", name != "features", problem.has_bias
    is_turned = name == "features"  # tokens are outside
    grid = (tokens, classes) if is_turned else (classes, tokens)

    def token(*at):
        return at[0] if is_turned else at[1]

    def klass(*at):
        return at[1] if is_turned else at[0]

    moving = ["h"] * of_h + ["w"] * of_w + ["bias"] * (of_w and has_bias)

    def body(*refs):
        refs = iter(refs)
        h, w = next(refs), next(refs)
        bias = next(refs) if has_bias else None
        numbers = TokenRows(*(next(refs) for _ in range(len(rows))))
        results = {key: next(refs) for key in moving}
        sums = {key: next(refs) for key in moving}
        i, j = (axis(pl.program_id(0), pl.program_id(1)) for axis in (token, klass))
        table = problem.whole_classes(w[...], j * bc, bc)
        slope = _slope(problem, h[...], table, bias, numbers, j * bc)
        narrow = slope.astype(problem.dtype)
        if of_h:
            mine = pl.ds(i * bt, bt) if name == "both" else slice(None)
            found = problem.product(narrow, table, 1, problem.class_axis)
            _add(sums["h"], mine, found, j == 0)

            @pl.when(j == classes - 1)
            def _():
                results["h"][...] = sums["h"][mine, :].astype(problem.dtype)

        if of_w:
            pair = (h[...], narrow) if problem.class_axis else (narrow, h[...])
            _add(sums["w"], slice(None), problem.product(*pair, 0, 0), i == 0)
            if has_bias:
                _add(sums["bias"], slice(None), jnp.sum(slope, 0, keepdims=True), i == 0)

            @pl.when(i == tokens - 1)
            def _():
                results["w"][...] = sums["w"][...].astype(problem.dtype)
                if has_bias:
                    results["bias"][...] = sums["bias"][...]

    features = pl.BlockSpec((bt, problem.width), lambda *at: (token(*at), 0))
    row = pl.BlockSpec((1, bt), lambda *at: (0, token(*at)))
    per_class = pl.BlockSpec((1, bc), lambda *at: (0, klass(*at)))
    table = problem.table(bc, klass)
    # Until the last classes the block of results stays in place, and nothing is written.
    late = pl.BlockSpec(
        (bt, problem.width),
        lambda *at: (token(*at) if is_turned else jnp.where(at[0] == classes - 1, at[1], 0), 0),
    )
    specs = {"h": late, "w": table, "bias": per_class}
    given = {"h": h, "w": w} | ({} if bias is None else {"bias": bias})
    scratch = {
        "h": (problem.tokens if name == "both" else bt, problem.width),
        "w": (problem.width, bc) if problem.class_axis else (bc, problem.width),
        "bias": (1, bc),
    }
    found = problem.call(
        body,
        name,
        grid,
        in_specs=[features, table, *[per_class] * has_bias, *[row] * len(rows)],
        out_specs=[specs[key] for key in moving],
        out_shape=[outline(given[key].shape, given[key].dtype, h) for key in moving],
        scratch_shapes=[pltpu.VMEM(scratch[key], jnp.float32) for key in moving],
    )(*given.values(), *rows)
    return dict(zip(moving, found, strict=True))


def _add(total, place, x, is_first):
    """Begin a sum, or add to it."""

    @pl.when(is_first)
    def _():
        total[place, :] = jnp.zeros_like(x)

    total[place, :] += x


def _slope(problem, h, w, bias, rows, first):
    """Return ∂L/∂(h W + b) of a block."""
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
