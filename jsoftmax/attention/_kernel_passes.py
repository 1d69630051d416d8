"""Forward and backward pass of attention by kernels, on the platform that is compiled for."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_arguments import Given
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.attention._kernel_decoding import joined, may_join
from jsoftmax.attention._kernel_operands import (
    as_rows,
    laid,
    native,
    of_rows,
    operands,
    result,
    turned,
    with_bounds,
)
from jsoftmax.attention._kernel_platforms import by_platform
from jsoftmax.core._arg_max import where_hard
from jsoftmax.core._solved_row import Masses, SolvedRow, mean_of


def attended(given: Given, rule: Rule, with_rows: bool) -> dict[str, Array]:
    """Return `out`; with rows also `tau` and the residuals of the backward kernels."""
    return by_platform(partial(_attended, rule, with_rows), given)


def pulled(
    given: Given, rule: Rule, found: dict[str, Array], d_out: Array, d_tau: Array, names: tuple
) -> dict[str, Any]:
    """Return the cotangents of the arguments of these names."""
    return by_platform(partial(_pulled, rule, names), given, found, d_out, d_tau)


def tiles_in_sight(given: Given, rule: Rule) -> Array:
    """Return a flag for each tile that TPU kernels form: (heads × query blocks, key tiles)."""
    spec, arrays = operands(given, rule, "tpu", True, ())
    blocks, tiles = (
        n // size
        for n, size in ((arrays.q.shape[1], spec.block_q), (arrays.k.shape[1], spec.block_k))
    )
    queries, keys, before, after = jnp.moveaxis(arrays.lengths.reshape(-1, 4), 1, 0)[
        ..., None, None
    ]
    start = spec.block_q * jnp.arange(blocks)[:, None]
    first = spec.block_k * jnp.arange(tiles)
    end = jnp.minimum(start + spec.block_q, queries)
    sight = (first < jnp.minimum(keys, end + after)) & (first + spec.block_k > start - before)
    sight = sight & (end > start)
    return jnp.repeat(sight, spec.heads // spec.entries, axis=0).reshape(-1, tiles)


def _attended(rule, with_rows, platform, interpret, given):
    from jsoftmax.kernels import attention as kernels

    if not with_rows and platform == "tpu" and rule.are_few and may_join(given):
        return {"out": joined(given, rule, interpret)}
    spec, arrays = operands(given, rule, platform, interpret, ())
    if spec.lists and given.bias is None:
        spec, arrays = with_bounds(spec, arrays, given.key)
    found = kernels.mixtures(spec, arrays, _turned(spec, given.value, arrays.v), with_rows)
    results = {"out": result(given, spec, found["out"])}
    if not with_rows:
        return results
    tau = of_rows(given, found["rows"][:, :1])[..., 0]
    results |= {"tau": tau, "rows": found["rows"][..., : given.query.shape[-3]]}
    if not spec.is_softmax:
        results["mean"] = result(given, spec, found["mean"])
    if (flags := _flags(given, spec)) is not None:
        results["alive"] = found["alive"] if "alive" in found else jnp.ones(flags, jnp.int32)
    return results


def _turned(spec, x, laid):
    """Return keys or values as kernels multiply them: transposed for a TPU, as laid for a GPU."""
    return turned(x.astype(laid.dtype), spec.block_k) if spec.is_tpu else laid


def _with_rows_of_nobody(spec, rows, count):
    """Pad the residuals of rows with those of fully masked rows, up to `count`."""
    from jsoftmax.kernels.attention import ROWS

    known = {"tau": -jnp.inf, "floor": -jnp.inf, "anchor": -jnp.inf}
    known["level"] = -float(jnp.finfo(rows.dtype).tiny)
    column = jnp.zeros((rows.shape[1], 1), rows.dtype)
    for name, x in known.items():
        column = column.at[ROWS.index(name)].set(x)
    more = jnp.broadcast_to(column, (*rows.shape[:2], count - rows.shape[2]))
    return jnp.concatenate([rows, more], axis=2)


def _flags(given, spec):
    """Return the shape of a TPU's flags of tiles with mass; it is the same on every platform."""
    from jsoftmax.kernels import attention as kernels

    queries, keys, width = given.query.shape[-3], given.key.shape[-3], given.key.shape[-1]
    blocks = kernels.sizes("tpu", queries, keys, width, given.value.shape[-1])
    if not spec.is_sparse:
        return None
    return spec.heads * -(-queries // blocks.block_q), 1, -(-keys // blocks.block_k)


def _pulled(rule, names, platform, interpret, given, found, d_out, d_tau):
    from jsoftmax.kernels import attention as kernels

    of_numbers = [name for name in names if name not in ("query", "key", "value", "bias")]
    moves = [name for name in names if name in ("scale", "soft_cap", "bias") or name.isdigit()]
    spec, arrays = operands(given, rule, platform, interpret, tuple(moves))
    numbers = arrays.numbers.reshape(1, spec.heads // spec.entries, spec.count)
    numbers = jnp.broadcast_to(numbers, (spec.entries, *numbers.shape[1:]))
    numbers = list(jnp.moveaxis(numbers.reshape(spec.heads, spec.count), -1, 0)[..., None])
    mean = found.get("mean", found["out"])
    shift = jnp.sum(d_out.astype(spec.computing) * mean.astype(spec.computing), axis=-1)
    rows, shift, d_tau = found["rows"], as_rows(spec, shift), as_rows(spec, d_tau)
    hard = spec.hard(numbers[spec.names.index("hard")] if "hard" in spec.has else None)
    shift = where_hard(hard, jnp.zeros_like(shift), shift)
    rows = _with_rows_of_nobody(spec, rows, shift.shape[1])
    shift = shift - mean_of(d_tau, rows[:, kernels.ROWS.index("total")])
    rows = rows.at[:, kernels.SHIFT].set(shift)
    d_out = laid(spec, d_out.astype(arrays.v.dtype), spec.block_q)
    alive = found.get("alive") if spec.is_tpu else None
    results: dict[str, Any] = {}
    if not {"key", "value"}.isdisjoint(names):
        of_keys = kernels.key_cotangents(spec, arrays, d_out, rows, alive)
        results["key"] = native(spec, of_keys["d_k"], given.key.shape, given.key.dtype)
        results["value"] = native(spec, of_keys["d_v"], given.value.shape, given.value.dtype)
    sums: dict[str, Any] = {}
    if "query" in names or moves:
        k_turned = turned(given.key.astype(arrays.k.dtype), spec.block_k) if spec.is_tpu else None
        of_queries = kernels.query_cotangents(spec, arrays, k_turned, d_out, rows, alive)
        results["query"] = result(given, spec, of_queries["d_q"]).astype(given.query.dtype)
        for i, name in enumerate(spec.moving_rows):
            sums[name] = jnp.sum(of_queries["sums"][:, i], axis=-1)
        if "bias" in names:
            results["bias"] = _of_bias(given, of_queries["d_bias"])
    known = rows[..., : given.query.shape[-3]]
    results |= _of_numbers(given, spec, numbers, known, sums, of_numbers)
    return {name: results[name] for name in names}


def _of_numbers(given, spec, numbers, rows, sums, names):
    """Return the cotangents of scale, cap, sinks and the numbers of the regularizer."""
    if given.sinks is not None:
        sums = _with_sinks(given, spec, numbers, rows, sums)
    results = {}
    for name in names:
        like = given.numbers[int(name)] if name.isdigit() else getattr(given, name)
        of_head = sums[name].reshape(spec.entries, -1).sum(axis=0)
        x = of_head if like.size == of_head.size else jnp.sum(of_head)
        results[name] = x.reshape(like.shape).astype(like.dtype)
    return results


def _with_sinks(given, spec, numbers, rows, sums):
    """Add the sink of each query: a class with a score and without a value."""
    from jsoftmax.kernels.attention import ROWS, SHIFT

    row = SolvedRow(**{name: rows[:, i] for i, name in enumerate(ROWS)})
    named = len(spec.names)
    regularizer = spec.regularizer(tuple(numbers[named:]))
    hard = numbers[spec.names.index("hard")] if "hard" in spec.has else None
    masses = Masses(regularizer, row, spec.hard(hard))
    z = jnp.broadcast_to(numbers[spec.names.index("sinks")], row.tau.shape)
    p = masses.of(z)
    d_z = -masses.weights(z, p) * rows[:, SHIFT]
    sums = sums | {"sinks": jnp.sum(d_z, axis=-1)}
    for name in spec.moving_rows:
        if name.isdigit():
            sums[name] = sums[name] + jnp.sum(d_z * spec.bend(regularizer, name, p), axis=-1)
    return sums


def _of_bias(given, x):
    """Return the cotangent of the bias from (heads, keys, queries), summed where it is shared."""
    *batch, queries, heads, _ = given.query.shape
    keys = given.key.shape[-3]
    x = x[:, :keys, :queries].reshape(*batch, heads, keys, queries).swapaxes(-1, -2)
    bias = given.bias
    axes = tuple(i for i, n in enumerate(bias.shape) if n == 1 and x.shape[i] > 1)
    return jnp.sum(x, axis=axes, keepdims=True).astype(bias.dtype)
