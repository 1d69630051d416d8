"""What attention is asked, made ready: promoted, grouped by head, and in one form for all masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._sight import in_length, places_of, segments_of, window_of
from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import read_regularizer
from jsoftmax.core._regularizer import parted

_FEW = 8  # queries that share a head's keys, groups counted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of `dot_product_attention`, checked and brought into one form."""

    moving: Moving
    fixed: Fixed
    rule: Rule
    dtype: np.dtype

    def output(self, x: Array) -> Array:
        """(*batch, head, group, query, width) → (*batch, query, heads, width) in the dtype."""
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
    local_window_size: int | tuple[int, int] | None,
    query_segment_ids: Any,
    key_value_segment_ids: Any,
    logits_soft_cap: float | None,
    sinks: Any,
    dropout_rng: Any,
    dropout_rate: float,
    broadcast_dropout: bool,
    axis_name: Hashable | None,
    query_part: ArrayLike | None = None,
    key_part: ArrayLike | None = None,
    in_one_block: bool = False,
) -> Arguments:
    """Check the arguments of `function` and bring them into one form.

    Queries and keys may be the parts of these numbers of longer sequences, cut into equal parts.
    `in_one_block` allows the computation to be uncut.

    Raises:
        TypeError: for arrays that are not real numbers, masks that are not boolean, lengths and
            segments that are not integers, keys that are none.
        ValueError: for shapes that do not fit, and for numbers out of their range.
    """
    query, key, value = (
        checks.as_array(function, name, x)
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    _check_shapes(function, query, key, value)
    dtype = jnp.result_type(*(checks.result_dtype(x) for x in (query, key, value)))
    computing = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
    *batch, queries, heads, width = query.shape
    batch = tuple(batch)
    keys, key_heads = key.shape[-3], key.shape[-2]
    groups = heads // key_heads
    whole = (*batch, heads, queries, keys)

    def grouped(x):  # (*batch | 1, heads | 1, ...) → the same with heads split into groups
        *lead, n, t, s = x.shape
        split = (key_heads, groups) if n == heads else (1, 1)
        return x.reshape(*lead, *split, t, s)

    def per_head(name, x):
        x = checks.as_array(function, name, x)
        if x.shape not in ((), (1,), (heads,)):
            raise ValueError(
                f"jsoftmax.{function}: `{name}` has shape {x.shape}; give one number, or one for "
                f"each of the {heads} heads of `query`."
            )
        x = x.reshape((1,) * len(batch) + (-1, 1, 1)).astype(computing)
        return grouped(x)

    q = jnp.swapaxes(query, -2, -3).reshape(*batch, key_heads, groups, queries, width)
    q, k, v = (x.astype(computing) for x in (q, key, value))
    q, row_spoiled = cleaned(q)
    are_few = in_one_block and axis_name is None and 0 < groups * queries <= _FEW
    if are_few:
        column_spoiled = jnp.zeros((1,) * (len(batch) + 4), computing)
    else:
        (k, k_spoiled), (v, v_spoiled) = cleaned(k), cleaned(v)
        column_spoiled = spoiled_columns(k_spoiled + v_spoiled)
        k, v = (jnp.moveaxis(x, -3, -1)[..., None, :, :] for x in (k, v))

    if bias is not None:
        bias = _aligned(function, "bias", checks.as_array(function, "bias", bias), whole)
        bias = grouped(bias.astype(computing))
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.dtype != jnp.bool_:
            raise TypeError(
                f"jsoftmax.{function}: `mask` has dtype {mask.dtype}; give it a boolean mask, True "
                "where a key takes part, or add numbers to the scores as `bias`."
            )
        mask = grouped(_aligned(function, "mask", mask, whole))

    if axis_name is not None:
        key_part = jax.lax.axis_index(axis_name)
    row_places, column_places = places_of(queries, query_part), places_of(keys, key_part)
    rows = in_length(function, "query_seq_lengths", query_seq_lengths, batch, row_places)
    columns = in_length(
        function, "key_value_seq_lengths", key_value_seq_lengths, batch, column_places
    )
    row_segments, column_segments = segments_of(
        function, query_segment_ids, key_value_segment_ids, batch, queries, keys
    )
    regularizer, limit = read_regularizer(function, regularizer, per_head)
    numbers, structure = parted(regularizer)
    soft_cap = None
    if logits_soft_cap is not None:
        soft_cap = checks.static_number(logits_soft_cap)
        if soft_cap is None or not soft_cap > 0:
            raise ValueError(
                f"jsoftmax.{function}: `logits_soft_cap` must be a positive number known while "
                f"tracing, got {logits_soft_cap!r}."
            )
    if is_causal not in (True, False):
        raise TypeError(f"jsoftmax.{function}: `is_causal` must be True or False.")
    places = (1,) * len(batch) + (1, 1)
    rate, dropout_rng = _dropout(function, dropout_rate, dropout_rng)
    streams = None
    if rate:
        shared = (1,) * (len(batch) + 2) if broadcast_dropout else (*batch, key_heads, groups)
        numbers = jnp.arange(math.prod(shared), dtype=jnp.uint32)
        streams = jax.vmap(jax.random.fold_in, (None, 0))(dropout_rng, numbers)
        streams = streams.reshape(*shared, 1, 1)
    if not isinstance(scale, jax.Array) and scale is None:
        scale = 1 / np.sqrt(width)
    return Arguments(
        Moving(
            q, k, v, bias, per_head("scale", scale), numbers,
            None if sinks is None else per_head("sinks", sinks),
        ),
        Fixed(
            mask,
            None if rows is None else rows[..., None, None, :, None],
            None if columns is None else columns[..., None, None, None, :],
            None if row_segments is None else row_segments[..., None, None, :, None],
            None if column_segments is None else column_segments[..., None, None, None, :],
            row_places.reshape(*places, -1, 1),
            column_places.reshape(*places, 1, -1),
            row_spoiled, column_spoiled, streams, limit if isinstance(limit, Array) else None,
        ),
        Rule(
            structure, limit is True, soft_cap, window_of(function, local_window_size, is_causal),
            rate, ClassAxis((-1,), axis_name),
            query_part is not None or key_part is not None, are_few, queries, keys, None, (),
            jax.default_matmul_precision.value,
        ),
        np.dtype(dtype),
    )  # fmt: skip


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


def _aligned(function, name, x, whole):
    """`x` with leading size-1 axes, broadcastable to (*batch, heads, queries, keys)."""
    if not checks.broadcasts(x, whole):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {x.shape}, which does not broadcast to the "
            f"scores of shape {whole}: (*batch, heads, queries, keys). Give it size-1 axes where "
            "it should be shared, also for heads."
        )
    return x.reshape((1,) * (len(whole) - x.ndim) + x.shape)


def cleaned(x: Array) -> tuple[Array, Array]:
    """`x` with 0 for what is not finite, and for every vector of it NaN if it was not, else 0."""
    finite = jnp.isfinite(x)
    spoiled = jnp.where(jnp.all(finite, axis=-1, keepdims=True), 0, jnp.nan)
    return jnp.where(finite, x, 0), spoiled.astype(x.dtype)


def spoiled_columns(spoiled: Array) -> Array:
    """(*batch, key, head, 1) → (*batch, head, 1, 1, key)."""
    return jnp.moveaxis(spoiled, -3, -1)[..., None, :, :]


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
