"""Validate and canonicalise attention's arguments: dtypes, heads in groups, one form of mask."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._clean import cleaned, cleaned_pair
from jsoftmax.attention._products import are_joined
from jsoftmax.attention._score_fn import Outline, laid_score, numbers_of, read_score_fn
from jsoftmax.attention._sight import (
    in_length,
    lengths_of,
    offset_of,
    places_of,
    segments_of,
    window_of,
)
from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._keys import one_key
from jsoftmax.core._mesh_axes import alike
from jsoftmax.core._problem import read_regularizer
from jsoftmax.core._regularizer import parted

# Few queries share a head's keys, groups counted, and are few beside these. Among as many keys as
# queries, as in training, gradients are slower where keys are not transposed, except for very few
# queries.
_FEW_SHARING, _VERY_FEW, _KEYS_TO_A_QUERY = 64, 8, 8


class Given(NamedTuple):
    """The validated arrays of a call; None for an omitted argument."""

    query: Array
    key: Array
    value: Array
    bias: Array | None
    mask: Array | None
    numbers: tuple[Array, ...]  # of the regularizer
    hard: Array | None  # whether the regularizer vanishes, as at α = ∞
    scale: Array | None
    soft_cap: Array | None
    sinks: Array | None
    query_seq_lengths: Array | None
    key_value_seq_lengths: Array | None
    query_segment_ids: Array | None
    key_value_segment_ids: Array | None
    offset: Array | None  # (*batch, queries or 1): position of a query less its index;
    before: Array | None  # keys seen before and after it, where traced
    after: Array | None
    dropout_rng: Array | None
    query_start: Array | None  # the position of the first query, in a part of a longer sequence
    key_start: Array | None
    query_count: Array | None = None  # how many queries are in use, if not all
    key_count: Array | None = None
    score_arrays: tuple[Array, ...] = ()  # of the score function,
    key_score_arrays: tuple[Array, ...] = ()  # and those beside the keys, if they lie elsewhere

    @property
    def groups(self) -> int:
        """Number of query heads that share a key head."""
        return self.query.shape[-2] // self.key.shape[-2]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of results."""
        arrays = self.query, self.key, self.value
        return np.dtype(jnp.result_type(*(checks.result_dtype(x) for x in arrays)))

    @property
    def computing(self) -> np.dtype:
        """The dtype of computations."""
        return self.dtype if self.dtype.itemsize >= 4 else np.dtype(np.float32)

    def by_head(self, x: Array) -> Array:
        """Reshape one number, or one for each head, to the axes of scores."""
        heads, key_heads = self.query.shape[-2], self.key.shape[-2]
        split = (key_heads, heads // key_heads) if x.size == heads else (1, 1)
        lead = (1,) * (self.query.ndim - 3)
        return x.reshape(*lead, *split, 1, 1).astype(self.computing)

    @property
    def sizes_are_known(self) -> bool:
        """Whether all sizes are numbers, and none a symbol of `jax.export`."""
        return all(isinstance(n, int) for x in (self.query, self.key) for n in x.shape)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of `dot_product_attention`, validated and in canonical form."""

    moving: Moving
    fixed: Fixed
    rule: Rule
    dtype: np.dtype

    def output(self, x: Array) -> Array:
        """Reshape (*batch, head, group, query, width) to (*batch, query, heads, width); cast."""
        *batch, heads, groups, queries, width = x.shape
        x = x.reshape(*batch, heads * groups, queries, width)
        return jnp.swapaxes(x, -2, -3).astype(self.dtype)


def read_arguments(
    function: str,
    query: Any,
    key: Any,
    value: Any,
    bias: Any,
    mask: Any,
    *,
    regularizer: Any,
    scale: Any,
    is_causal: bool,
    query_seq_lengths: Any,
    key_value_seq_lengths: Any,
    local_window_size: Any,
    query_segment_ids: Any,
    key_value_segment_ids: Any,
    logits_soft_cap: Any,
    sinks: Any,
    dropout_rng: Any,
    dropout_rate: float,
    broadcast_dropout: bool,
    axis_name: Hashable | None,
    query_offset: Any = None,
    score_fn: Any = None,
    query_start: Array | None = None,
    key_start: Array | None = None,
    in_one_block: bool = False,
) -> tuple[Given, Rule]:
    """Validate the arguments of `function`: its arrays and its static arguments.

    Queries and keys may be parts of longer sequences, which start at these positions.
    `in_one_block` allows the computation to use a single block.

    Raises:
        TypeError: for arrays that are not real numbers, masks that are not boolean, lengths and
            segments that are not integers, invalid random keys.
        ValueError: for shapes that do not match, and for numbers out of range.
    """
    query, key, value = (
        checks.as_array(function, name, x)
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    _check_shapes(function, query, key, value)
    for name, x in (("query", query), ("key", key), ("value", value)):
        _check_whole(function, name, x)
    *batch, queries, heads, _ = query.shape
    batch = tuple(batch)
    keys = key.shape[-3]
    whole = (*batch, heads, queries, keys)

    def array_by_head(name, x):
        x = checks.as_array(function, name, x)
        if x.shape not in ((), (1,), (heads,)):
            raise ValueError(
                f"jsoftmax.{function}: `{name}` has shape {x.shape}; give one number, or one for "
                f"each of the {heads} heads of `query`."
            )
        return x

    def per_head(name, x):
        return None if x is None else array_by_head(name, x)

    if scale is not None:
        scale = _read_scale(function, scale, (*batch, queries, heads))

    if bias is not None:
        bias = checks.as_array(function, "bias", bias)
        if bias.dtype == jnp.bool_:
            raise TypeError(
                f"jsoftmax.{function}: `bias` is boolean and would be added to the scores as 0 and "
                "1; pass a mask, True where a key takes part, as `mask`."
            )
        bias = _aligned(function, "bias", bias, whole)
    if mask is not None:
        mask = checks.as_array(function, "mask", mask)
        if mask.dtype != jnp.bool_:
            raise TypeError(
                f"jsoftmax.{function}: `mask` has dtype {mask.dtype}; give it a boolean mask, True "
                "where a key takes part, or add numbers to the scores as `bias`."
            )
        mask = _aligned(function, "mask", mask, whole)
    query_segment_ids, key_value_segment_ids = segments_of(
        function, query_segment_ids, key_value_segment_ids, batch, queries, keys
    )
    soft_cap = per_head("logits_soft_cap", logits_soft_cap)
    known = None if soft_cap is None else checks.known_values(logits_soft_cap)
    if known is not None and not (known > 0).all():
        raise ValueError(
            f"jsoftmax.{function}: `logits_soft_cap` must be a positive number, got "
            f"{logits_soft_cap!r}."
        )
    if is_causal not in (True, False):
        raise TypeError(f"jsoftmax.{function}: `is_causal` must be True or False.")
    segments = query_segment_ids, key_value_segment_ids
    offset = offset_of(function, query_offset, batch, segments, axis_name)
    is_placed = query_offset is not None or query_start is not None
    if is_causal and not is_placed and queries == 1 and isinstance(keys, int) and keys > 1:
        warnings.warn(
            f"jsoftmax.{function}: one query with `is_causal` sees only the first of {keys} keys, "
            "as in jax.nn. In a decoding step give its position by `query_offset`; "
            "query_offset=0 keeps it at the first key.",
            stacklevel=3,
        )
    window, before, after = window_of(function, local_window_size, is_causal, batch, offset)
    rate, dropout_rng = _dropout(function, dropout_rate, dropout_rng)
    given = Given(
        query, key, value, bias, mask, (), None,
        scale, soft_cap, per_head("sinks", sinks),
        lengths_of(function, "query_seq_lengths", query_seq_lengths, batch),
        lengths_of(function, "key_value_seq_lengths", key_value_seq_lengths, batch),
        query_segment_ids, key_value_segment_ids, offset if isinstance(offset, Array) else None,
        before, after, dropout_rng, query_start, key_start,
    )  # fmt: skip
    regularizer, limit = read_regularizer(
        function, regularizer, lambda name, x: given.by_head(array_by_head(name, x))
    )
    numbers, structure = parted(regularizer)
    given = given._replace(numbers=numbers, hard=limit if isinstance(limit, Array) else None)
    score_arrays, applied = read_score_fn(score_fn, _outline(given, function, offset, axis_name))
    given = given._replace(score_arrays=score_arrays)
    are_few = in_one_block and axis_name is None and given.sizes_are_known
    are_few = are_few and 0 < given.groups * queries <= _FEW_SHARING
    are_few = are_few and (queries <= _VERY_FEW or _KEYS_TO_A_QUERY * queries <= keys)
    return given, Rule(
        structure=structure,
        is_hard=limit is True,
        window=window,
        offset=offset if isinstance(offset, int) else 0,
        dropout_rate=rate,
        is_dropout_shared=bool(broadcast_dropout),
        classes=ClassAxis((-1,), axis_name),
        is_part=query_start is not None or key_start is not None,
        are_few=are_few,
        are_joined=are_few and are_joined(query, key),
        is_clean=not are_few,
        block_q=queries,
        block_k=keys,
        scores=None,
        stripes=(),
        score_fn=applied,
        precision=jax.default_matmul_precision.value,
    )


def prepared(given: Given, rule: Rule) -> Arguments:
    """Promote the arrays, group them by head, and combine all masks into one form."""
    query, key, value = given.query, given.key, given.value
    computing = given.computing
    *batch, queries, heads, width = query.shape
    keys, key_heads = key.shape[-3], key.shape[-2]
    groups = given.groups

    def grouped(x):  # (*batch | 1, heads | 1, ...) → the same with heads split into groups
        *lead, n, t, s = x.shape
        split = (key_heads, groups) if n == heads else (1, 1)
        return x.reshape(*lead, *split, t, s)

    def per_head(x):
        return None if x is None else given.by_head(x)

    def per_entry(x):  # (*batch, ...) → with the axes of heads and groups
        return jnp.expand_dims(x, (len(batch), len(batch) + 1))

    q = jnp.swapaxes(query, -2, -3).reshape(*batch, key_heads, groups, queries, width)
    q, row_spoiled = cleaned(q.astype(computing))
    stay = rule.are_few and jnp.issubdtype(query.dtype, jnp.floating)
    if not (stay and query.dtype == key.dtype == value.dtype):
        key, value = key.astype(computing), value.astype(computing)
    k, v = key, value
    if rule.are_few:  # these are cleaned where they are used
        column_spoiled = jnp.zeros((1,) * (len(batch) + 4), computing)
    else:
        k, v, column_spoiled = cleaned_pair(k, v)
        k, v = (jnp.moveaxis(x, -3, -1)[..., None, :, :] for x in (k, v))
    bias, mask = given.bias, given.mask
    key_start = given.key_start
    if rule.axis_name is not None:
        key_start = jax.lax.axis_index(rule.axis_name) * keys
    row_places = places_of(queries, given.query_start)
    column_places = places_of(keys, key_start)
    rows = in_length(given.query_seq_lengths, row_places)
    columns = in_length(given.key_value_seq_lengths, column_places)
    rows = _in_use(rows, given.query_count, queries, len(batch))
    columns = _in_use(columns, given.key_count, keys, len(batch))
    row_segments, column_segments = given.query_segment_ids, given.key_value_segment_ids
    before, after = (
        None if x is None else per_entry(x[..., None]) for x in (given.before, given.after)
    )
    streams = None
    if given.dropout_rng is not None:
        lead = (1,) * (len(batch) + 2) if rule.is_dropout_shared else (*batch, key_heads, groups)
        numbers = jnp.arange(math.prod(lead), dtype=jnp.uint32)
        streams = jax.vmap(jax.random.fold_in, (None, 0))(given.dropout_rng, numbers)
        streams = streams.reshape(*lead, 1, 1)
    offset = rule.offset if given.offset is None else given.offset
    outline = _outline(given, "", offset, rule.axis_name)
    score_arrays, of_others = given.score_arrays, given.key_score_arrays
    if score_arrays:
        q, score_arrays, of_others = alike((q, score_arrays, of_others), rule.axis_name)
    of_heads, of_queries, of_keys, whole = laid_score(rule.score_fn, score_arrays, outline)
    if of_others:
        of_keys = laid_score(rule.score_fn, of_others, outline)[2]
    entries, numbers = (None, None) if rule.score_fn is None else numbers_of(outline)
    places = (1,) * len(batch) + (1, 1)
    scale = jnp.asarray(1 / np.sqrt(width)) if given.scale is None else given.scale
    if scale.ndim > 1:  # (*batch, queries, heads)
        scale = grouped(jnp.swapaxes(scale.astype(computing), -1, -2)[..., None])
    else:
        scale = given.by_head(scale)
    return Arguments(
        Moving(
            q, k, v,
            None if bias is None else grouped(bias.astype(computing)),
            scale, given.numbers, per_head(given.soft_cap),
            per_head(given.sinks), of_heads, of_queries, of_keys, whole,
        ),
        Fixed(
            None if mask is None else grouped(mask),
            None if rows is None else per_entry(rows[..., None]),
            None if columns is None else per_entry(columns[..., None, :]),
            None if row_segments is None else per_entry(row_segments[..., None]),
            None if column_segments is None else per_entry(column_segments[..., None, :]),
            row_places.reshape(*places, -1, 1),
            column_places.reshape(*places, 1, -1),
            before, after, row_spoiled, column_spoiled, streams, given.hard,
            None if given.offset is None else per_entry(given.offset[..., None]), entries, numbers,
        ),
        rule,
        given.dtype,
    )  # fmt: skip


def _in_use(seen, count, size, batch_axes):
    if count is None:
        return seen
    used = (places_of(size, None) < count).reshape((1,) * batch_axes + (size,))
    return used if seen is None else seen & used


def _outline(given, function, offset, axis_name):
    *batch, queries, _, _ = given.query.shape
    keys, key_heads, _ = given.key.shape[-3:]
    return Outline(
        function, tuple(batch), queries, keys, key_heads, given.groups, offset, axis_name,
        given.computing,
    )  # fmt: skip


def _read_scale(function, scale, whole):
    scale = checks.as_array(function, "scale", scale)
    if scale.shape in ((), (1,), whole[-1:]):
        return scale
    if scale.ndim < 2 or not checks.broadcasts(scale, whole):
        raise ValueError(
            f"jsoftmax.{function}: `scale` has shape {scale.shape}; give one number, one for each "
            f"of the {whole[-1]} heads of `query`, or one for each query, broadcastable to "
            f"(*batch, queries, heads), here {whole}."
        )
    return scale.reshape((1,) * (len(whole) - scale.ndim) + scale.shape)


def _check_shapes(function, query, key, value):
    shapes = f"`query` {query.shape}, `key` {key.shape}, `value` {value.shape}"
    if query.ndim < 3 or not query.ndim == key.ndim == value.ndim:
        raise ValueError(
            f"jsoftmax.{function}: {shapes} must all have the axes (..., length, heads, width), "
            "with the same number of batch axes before them."
        )
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(f"jsoftmax.{function}: {shapes} have different batch axes.")
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"jsoftmax.{function}: {shapes}: every key needs one value, so `key` and `value` must "
            "agree in all axes but the last."
        )
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"jsoftmax.{function}: {shapes}: queries and keys must have the same width, the last "
            "axis."
        )
    if 0 in (key.shape[-3], key.shape[-2], key.shape[-1], query.shape[-2]):
        raise ValueError(
            f"jsoftmax.{function}: {shapes}: a query needs at least one key, one head and one "
            "feature to attend by."
        )
    if query.shape[-2] % key.shape[-2]:
        raise ValueError(
            f"jsoftmax.{function}: {shapes}: the {query.shape[-2]} query heads must be a multiple "
            f"of the {key.shape[-2]} key heads."
        )


def _check_whole(function, name, x):
    """Refuse an axis that is split on an Explicit mesh, since JAX cannot block it again."""
    *_, length, _, width = jax.typeof(x).sharding.spec
    if length is not None:
        part, over = "sequence", length
        remedy = (
            f"call `ring_attention` with axis_name={over!r} in `jax.shard_map`, where keys go "
            "round, or this function with that `axis_name`, where keys alone are split"
        )
    elif width is not None:
        part, over, remedy = "features", width, "split its heads instead"
    else:
        return
    raise ValueError(
        f"jsoftmax.{function}: `{name}` of shape {x.shape} has its {part} split over the mesh "
        f"axis {over!r}. Either {remedy}; or gather it first by `jax.sharding.reshard`."
    )


def _aligned(function, name, x, whole):
    """Return `x` with leading size-1 axes, broadcastable to (*batch, heads, queries, keys)."""
    if not checks.broadcasts(x, whole):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {x.shape}, which does not broadcast to the "
            f"scores of shape {whole}: (*batch, heads, queries, keys). Give it size-1 axes where "
            "it should be shared, also for heads."
        )
    return x.reshape((1,) * (len(whole) - x.ndim) + x.shape)


def _dropout(function, rate, rng):
    number = checks.static_number(rate)
    if number is None or not 0 <= number < 1:
        raise ValueError(
            f"jsoftmax.{function}: `dropout_rate` must be a number from 0 to below 1, got {rate!r}."
        )
    if not number:
        return 0.0, None
    if rng is None:
        raise ValueError(
            f"jsoftmax.{function}: `dropout_rate` is {number}, which needs `dropout_rng`, a key "
            "made by jax.random.key."
        )
    return number, one_key(function, rng, "dropout_rng")
