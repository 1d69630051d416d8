"""The arguments of attention as kernels take them, and their results as attention gives them."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.attention._attention_arguments import Given
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.core._arg_max import where_hard
from jsoftmax.core._solved_row import Masses, SolvedRow, mean_of
from jsoftmax.core._tangents import effective_tangent

_PLATFORMS = {"tpu": ("tpu", False), "cuda": ("gpu", False), "cpu": ("tpu", True)}


class Pages(NamedTuple):
    """Keys and values in pages, and the pages of each batch entry."""

    key: Array  # (pages, page size, key heads, width)
    value: Array
    table: Array  # (*batch, pages of an entry), int32


def attended(given: Given, rule: Rule, with_rows: bool) -> dict[str, Array]:
    """`out`; and with rows `tau`, and what the kernels of the way back need."""
    return _by_platform(partial(_attended, rule, with_rows), given)


def pulled(
    given: Given, rule: Rule, found: dict[str, Array], d_out: Array, d_tau: Array, names: tuple
) -> dict[str, Any]:
    """The cotangents of the arguments of these names."""
    return _by_platform(partial(_pulled, rule, names), given, found, d_out, d_tau)


def tiles_in_sight(given: Given, rule: Rule) -> Array:
    """Which tiles the kernels of a TPU form: (heads × blocks of queries, tiles of keys)."""
    spec, arrays = _operands(given, rule, "tpu", True, ())
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


def _by_platform(function, given, *arguments, platforms=tuple(_PLATFORMS)):
    """function(platform, interpret, given, ...) of the platform for which it is compiled."""
    from jsoftmax.kernels import by_platform

    # No chip computes float64: it is interpreted, on a CPU.
    is_wide = given.computing == jnp.float64
    functions = {
        name: partial(function, platform, interpret)
        for name, (platform, interpret) in _PLATFORMS.items()
        if name in platforms and (interpret or not is_wide)
    }
    refused = (
        "jsoftmax.dot_product_attention: implementation='pallas' does not take "
        f"{'float64' if is_wide else 'any arrays'} on this platform; let implementation='xla' "
        "compute it. It is compiled for"
    )
    return by_platform(refused, functions, given, *arguments)


def _attended(rule, with_rows, platform, interpret, given):
    from jsoftmax.kernels import attention as kernels

    if not with_rows and platform == "tpu" and rule.are_few and _may_join(given):
        return {"out": _joined(given, rule, interpret)}
    spec, arrays = _operands(given, rule, platform, interpret, ())
    values = _turned(given.value.astype(arrays.v.dtype), spec.block_k)
    found = kernels.mixtures(spec, arrays, values, with_rows)
    results = {"out": _result(given, found["out"])}
    if not with_rows:
        return results
    tau = _result(given, found["rows"][:, :1])[..., 0]
    results |= {"tau": tau, "rows": found["rows"][..., : given.query.shape[-3]]}
    if not spec.is_softmax:
        results["mean"] = _result(given, found["mean"])
    if (flags := _flags(given, spec)) is not None:
        results["alive"] = found["alive"] if "alive" in found else jnp.ones(flags, jnp.int32)
    return results


def _may_join(given):
    """Whether the heads of few queries may be rows of one block, beside a cache as it lies."""
    others = given.bias, given.mask, given.query_segment_ids, given.dropout_rng
    return all(x is None for x in others)


def attended_by_pages(given: Given, rule: Rule, pages: Pages) -> Array:
    """The mixtures of few queries, whose keys and values lie in pages."""
    return _by_platform(partial(_of_pages, rule), given, pages, platforms=("tpu", "cpu"))


def _of_pages(rule, platform, interpret, given, pages):
    return _joined(given, rule, interpret, pages)


def _joined(given, rule, interpret, pages=None):
    """The mixtures of few queries, whose keys and values are read as they lie in memory."""
    from jsoftmax.kernels import attention as kernels

    *batch, queries, heads, width = given.query.shape
    keys, key_heads = given.key.shape[-3:-1]
    spec, arrays = _operands(given, rule, "tpu", interpret, ())
    dtype = arrays.q.dtype
    query = given.query.astype(dtype).reshape(*batch, -1, 1, width)
    blocks = kernels.sizes("tpu", queries * heads, keys * key_heads, width, given.value.shape[-1])
    if pages is None:
        block_k, on_chip, table = blocks.block_k, blocks.on_chip, None
        key, value = (
            _by_head(x.astype(dtype).reshape(*batch, -1, 1, x.shape[-1]), block_k)
            for x in (given.key, given.value)
        )
    else:  # a page, with all its heads, is a tile
        key, value = (
            x.astype(dtype).reshape(x.shape[0], -1, x.shape[-1]) for x in (pages.key, pages.value)
        )
        block_k, table = key.shape[1], pages.table.reshape(-1)
        on_chip = keys * key_heads * blocks.block_q <= kernels.KEPT
    padded = -(queries * heads) % blocks.block_q
    numbers = jnp.tile(arrays.numbers.reshape(heads, spec.count).T, (1, queries))
    numbers = jnp.pad(numbers, [(0, -spec.count % 8), (0, padded)])[None]
    spec = dataclasses.replace(
        spec, key_heads=1, groups=1, joined=(heads, key_heads), block_q=blocks.block_q,
        block_k=block_k, on_chip=on_chip, has=spec.has | {"hiding"}, is_paged=pages is not None,
    )  # fmt: skip
    arrays = arrays._replace(q=_by_head(query, blocks.block_q), k=key, numbers=numbers, pages=table)
    out = kernels.mixtures(spec, arrays, value, False)["out"]
    out = jnp.swapaxes(out[..., : queries * heads], 1, 2)
    return out.reshape(*batch, queries, heads, -1).astype(given.dtype)


def _with_rows_of_nobody(spec, rows, count):
    """What is kept of rows, and of rows that see nothing, up to so many."""
    from jsoftmax.kernels.attention import ROWS

    known = {"tau": -jnp.inf, "floor": -jnp.inf, "anchor": -jnp.inf}
    known["level"] = -float(jnp.finfo(rows.dtype).tiny)
    column = jnp.zeros((rows.shape[1], 1), rows.dtype)
    for name, x in known.items():
        column = column.at[ROWS.index(name)].set(x)
    more = jnp.broadcast_to(column, (*rows.shape[:2], count - rows.shape[2]))
    return jnp.concatenate([rows, more], axis=2)


def _flags(given, spec):
    """The shape in which a TPU tells which tiles have mass, for it is that on every platform."""
    from jsoftmax.kernels import attention as kernels

    queries, keys, width = given.query.shape[-3], given.key.shape[-3], given.key.shape[-1]
    blocks = kernels.sizes("tpu", queries, keys, width, given.value.shape[-1])
    if not (blocks.on_chip and spec.is_sparse):
        return None
    return spec.heads * -(-queries // blocks.block_q), 1, -(-keys // blocks.block_k)


def _pulled(rule, names, platform, interpret, given, found, d_out, d_tau):
    from jsoftmax.kernels import attention as kernels

    of_numbers = [name for name in names if name not in ("query", "key", "value", "bias")]
    moves = [name for name in names if name in ("scale", "soft_cap", "bias") or name.isdigit()]
    spec, arrays = _operands(given, rule, platform, interpret, tuple(moves))
    numbers = arrays.numbers.reshape(1, spec.heads // spec.entries, spec.count)
    numbers = jnp.broadcast_to(numbers, (spec.entries, *numbers.shape[1:]))
    numbers = list(jnp.moveaxis(numbers.reshape(spec.heads, spec.count), -1, 0)[..., None])
    mean = found.get("mean", found["out"])
    shift = jnp.sum(d_out.astype(spec.computing) * mean.astype(spec.computing), axis=-1)
    rows, shift, d_tau = found["rows"], _as_rows(spec, shift), _as_rows(spec, d_tau)
    hard = spec.hard(numbers[spec.names.index("hard")] if "hard" in spec.has else None)
    shift = where_hard(hard, jnp.zeros_like(shift), shift)
    rows = _with_rows_of_nobody(spec, rows, shift.shape[1])
    shift = shift - mean_of(d_tau, rows[:, kernels.ROWS.index("total")])
    rows = rows.at[:, kernels.SHIFT].set(shift)
    d_out = _by_head(d_out.astype(arrays.v.dtype), spec.block_q)
    alive = found.get("alive") if spec.is_tpu else None
    results: dict[str, Any] = {}
    if not {"key", "value"}.isdisjoint(names):
        of_keys = kernels.key_cotangents(spec, arrays, d_out, rows, alive)
        results["key"] = _native(of_keys["d_k"], given.key.shape, given.key.dtype)
        results["value"] = _native(of_keys["d_v"], given.value.shape, given.value.dtype)
    sums: dict[str, Any] = {}
    if "query" in names or moves:
        turned = _turned(given.key.astype(arrays.k.dtype), spec.block_k)
        of_queries = kernels.query_cotangents(spec, arrays, turned, d_out, rows, alive)
        results["query"] = _result(given, of_queries["d_q"]).astype(given.query.dtype)
        for i, name in enumerate(spec.moving_rows):
            sums[name] = jnp.sum(of_queries["sums"][:, i], axis=-1)
        if "bias" in names:
            results["bias"] = _of_bias(given, of_queries["d_bias"])
    known = rows[..., : given.query.shape[-3]]
    results |= _of_numbers(given, spec, numbers, known, sums, of_numbers)
    return {name: results[name] for name in names}


def _operands(given, rule, platform, interpret, moves):
    """The static description of a kernel, and its arrays."""
    from jsoftmax.kernels import attention as kernels

    query, key, value = _of_one_dtype(given, platform)
    *batch, queries, heads, width = query.shape
    keys, key_heads = key.shape[-3], key.shape[-2]
    entries, groups = math.prod(batch), heads // key_heads
    blocks = kernels.sizes(platform, queries, keys, width, value.shape[-1])
    optional = {"soft_cap": given.soft_cap, "sinks": given.sinks, "hard": given.hard}
    present = {name: x for name, x in optional.items() if x is not None}
    scale = jnp.asarray(1 / np.sqrt(width)) if given.scale is None else given.scale
    per_head = [_of_heads(given, x) for x in (scale, *present.values(), *given.numbers)]
    lengths, hides = _lengths(given, rule, entries)
    block_q, block_k = blocks.block_q, blocks.block_k
    if queries % block_q or keys % block_k or hides:
        present["hiding"] = True
    if given.mask is not None:
        present["mask"] = True
    if given.query_segment_ids is not None:
        present["segments"] = True
    if kernels.may_be_sparse(rule.regularizer(given.numbers)):
        present["sparse"] = True
    bias, bias_sizes = _of_scores(given, given.bias, given.computing, blocks)
    mask, mask_sizes = _of_scores(given, given.mask, jnp.int8, blocks)
    streams, stream_sizes = _streams(given, rule, entries)
    spec = kernels.Spec(
        structure=rule.structure, has=frozenset(present), is_hard=rule.is_hard, entries=entries,
        key_heads=key_heads, groups=groups, dropout_rate=rule.dropout_rate,
        shared=(("bias", bias_sizes), ("mask", mask_sizes), ("streams", stream_sizes)),
        precision=rule.precision if query.dtype.itemsize > 2 else None,
        dtype=given.dtype, moves=moves, block_q=block_q, block_k=block_k, on_chip=blocks.on_chip,
        platform=platform, interpret=interpret, stages=1 if given.numbers else 2,
    )  # fmt: skip
    return spec, kernels.Arrays(
        _by_head(query, block_q), _by_head(key, block_k), _by_head(value, block_k),
        jnp.stack(per_head, axis=-1)[: key_heads * groups].reshape(-1).astype(given.computing),
        lengths, bias, mask,
        _of_places(given.query_segment_ids, block_q),
        _of_places(given.key_value_segment_ids, block_k), None, streams,
    )  # fmt: skip


def _of_one_dtype(given, platform):
    """Query, key and value in a dtype that the platform multiplies."""
    dtype = given.dtype
    if dtype.itemsize < 2 or (platform == "tpu" and dtype == jnp.float16):
        dtype = np.dtype(np.float32)
    return tuple(x.astype(dtype) for x in (given.query, given.key, given.value))


def _of_heads(given, x):
    """One number for each head of each batch entry."""
    *batch, _, heads, _ = given.query.shape
    key_heads = given.key.shape[-2]
    x = given.by_head(x) if x.ndim <= 1 else x
    shape = (*batch, key_heads, heads // key_heads)
    return jnp.broadcast_to(x[..., 0, 0], shape).reshape(-1).astype(given.computing)


def _lengths(given, rule, entries):
    """Queries, keys, keys before and after a query of each batch entry; whether they hide a key."""
    from jsoftmax.kernels.attention import ALL

    queries, keys = given.query.shape[-3], given.key.shape[-3]
    pairs = (
        (queries, given.query_seq_lengths), (keys, given.key_value_seq_lengths),
        (_known(rule.window[0], ALL), given.before), (_known(rule.window[1], ALL), given.after),
    )  # fmt: skip
    columns = [
        jnp.full(entries, most, jnp.int32) if x is None
        else jnp.minimum(x.reshape(-1).astype(jnp.int32), most)
        for most, x in pairs
    ]  # fmt: skip
    hides = rule.window != (None, None) or any(x is not None for _, x in pairs)
    return jnp.stack(columns, axis=-1).reshape(-1), hides


def _known(number, otherwise):
    return otherwise if number is None else number


def _of_scores(given, x, dtype, blocks):
    """A mask or a bias as (shared heads, keys or 1, queries or 1), and how many are shared."""
    if x is None:
        return None, (1, 1, 1)
    *batch, _, heads, _ = given.query.shape
    key_heads = given.key.shape[-2]
    *lead, of_heads, rows, columns = x.shape
    entries = 1
    if math.prod(lead) > 1:
        x, entries = jnp.broadcast_to(x, (*batch, *x.shape[-3:])), math.prod(batch)
    split = (key_heads, heads // key_heads) if of_heads == heads else (1, 1)
    x = jnp.swapaxes(x.reshape(-1, rows, columns), 1, 2).astype(dtype)
    padding = [(0, 0), (0, -columns % blocks.block_k), (0, -rows % blocks.block_q)]
    padding = [(0, 0) if n == 1 else pair for n, pair in zip(x.shape, padding, strict=True)]
    return jnp.pad(x, padding), (entries, *split)


def _of_places(ids, block):
    if ids is None:
        return None
    ids = ids.reshape(-1, 1, ids.shape[-1]).astype(jnp.int32)
    return jnp.pad(ids, [(0, 0), (0, 0), (0, -ids.shape[-1] % block)])


def _streams(given, rule, entries):
    """The words of random keys for dropout, one for each head."""
    if given.dropout_rng is None:
        return None, (1, 1, 1)
    heads, key_heads = given.query.shape[-2], given.key.shape[-2]
    sizes = (1, 1, 1) if rule.is_dropout_shared else (entries, key_heads, heads // key_heads)
    numbers = jnp.arange(math.prod(sizes), dtype=jnp.uint32)
    streams = jax.vmap(jax.random.fold_in, (None, 0))(given.dropout_rng, numbers)
    words = jax.lax.bitcast_convert_type(jax.random.key_data(streams), jnp.int32)
    return words.reshape(-1), sizes


def _by_head(x, block):
    """(*batch, length, heads, width) → (entries × heads, blocks of places, width)."""
    length, width = x.shape[-3], x.shape[-1]
    x = jnp.swapaxes(x, -2, -3).reshape(-1, length, width)
    return jnp.pad(x, [(0, 0), (0, -length % block), (0, 0)])


def _turned(x, block):
    """(*batch, length, heads, width) → (entries × heads, width, blocks of places)."""
    length, _, width = x.shape[-3:]
    x = jnp.moveaxis(x, -3, -1).reshape(-1, width, length)
    return jnp.pad(x, [(0, 0), (0, 0), (0, -length % block)])


def _native(x, shape, dtype):
    """(entries × heads, places, width) → an array of this shape (*batch, length, heads, width)."""
    *batch, length, heads, width = shape
    x = x[:, :length].reshape(*batch, heads, length, width)
    return jnp.swapaxes(x, -2, -3).astype(dtype)


def _result(given, x):
    """(entries × heads, width, queries) → (*batch, queries, heads, width)."""
    *batch, queries, heads, _ = given.query.shape
    x = x[..., :queries].reshape(*batch, heads, x.shape[1], queries)
    return jnp.moveaxis(x, -1, -3).astype(given.dtype)


def _as_rows(spec, x):
    """(*batch, queries, heads) → (entries × heads, blocks of queries)."""
    return _by_head(x[..., None].astype(spec.computing), spec.block_q)[..., 0]


def _of_numbers(given, spec, numbers, rows, sums, names):
    """The cotangents of scale, cap, sinks and the numbers of the regularizer."""
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
    """What the sink of each query adds: a class with a score, and without a value."""
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
            along = [None] * spec.structure.num_leaves
            along[int(name)] = jnp.ones_like(numbers[0])
            bend = effective_tangent(p, None, regularizer, spec.regularizer(tuple(along)))
            sums[name] = sums[name] + jnp.sum(d_z * bend, axis=-1)
    return sums


def _of_bias(given, x):
    """(heads, keys, queries) → the cotangent of the bias, summed where it is shared."""
    *batch, queries, heads, _ = given.query.shape
    keys = given.key.shape[-3]
    x = x[:, :keys, :queries].reshape(*batch, heads, keys, queries).swapaxes(-1, -2)
    bias = given.bias
    axes = tuple(i for i, n in enumerate(bias.shape) if n == 1 and x.shape[i] > 1)
    return jnp.sum(x, axis=axes, keepdims=True).astype(bias.dtype)
