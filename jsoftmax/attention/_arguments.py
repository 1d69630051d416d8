"""What attention is asked, made ready: promoted, grouped by head, and in one form for all masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import regularizer
from jsoftmax.core._regularizers import Tsallis

_FEW = 8  # queries that share a head's keys, groups counted


class Moving(NamedTuple):
    """What a derivative may be taken in.

    Every array here and in `Fixed` has the axes (*batch, head, group, query, key), of size 1 where
    it is shared. In `q` the width stands in the place of the keys; in `k` and `v` in that of the
    queries, since a product whose left side is transposed, of which their gradients are made, takes
    XLA on CPU three times as long as the others. Where queries are few, `k` and `v` have the axes
    (*batch, key, head, width), as they were given: there moving them would cost more than all else.
    """

    q: Array
    k: Array
    v: Array
    bias: Array | None
    scale: Array
    alpha: Array | None
    sinks: Array | None


class Changes(NamedTuple):
    """Tangents of `Moving`, None where something does not move."""

    q: Array | None
    k: Array | None
    v: Array | None
    bias: Array | None
    scale: Array | None
    alpha: Array | None
    sinks: Array | None


class Fixed(NamedTuple):
    """What no derivative is taken in: which keys a query sees, and where NaN stood."""

    mask: Array | None
    rows: Array | None  # whether a query takes part
    columns: Array | None  # whether a key takes part
    row_segments: Array | None
    column_segments: Array | None
    row_places: Array  # places in the sequence
    column_places: Array
    row_spoiled: Array  # NaN where a query holds one, else 0
    column_spoiled: Array  # NaN where a key or a value holds one, else 0
    streams: Array | None  # random keys for dropout, one for each batch entry and head
    hard: Array | None  # whether α is ∞


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is known while tracing and shapes the computation."""

    family: Tsallis
    is_hard: bool
    soft_cap: float | None
    window: tuple[int | None, int | None]  # keys before, keys after; None: all
    dropout_rate: float
    classes: ClassAxis
    is_part: bool  # whether queries or keys are parts of longer sequences
    are_few: bool  # whether so few queries share their keys that these are read but not moved
    block_q: int  # how many queries are computed together,
    block_k: int  # with how many keys,
    scores: int | None  # and at most so many scores, if the batch has them
    precision: str | None  # of products: the default where attention is called, not where derived

    @property
    def is_softmax(self) -> bool:
        """Whether one pass is enough, since the threshold has a formula."""
        return self.family.alpha == 1

    @property
    def axis_name(self) -> Hashable | None:
        """The mesh axis over which keys are split."""
        return self.classes.axis_name


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
    alpha: Any,
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
    row_places, column_places = _places(queries, query_part), _places(keys, key_part)
    rows = _in_length(function, "query_seq_lengths", query_seq_lengths, batch, row_places)
    columns = _in_length(
        function, "key_value_seq_lengths", key_value_seq_lengths, batch, column_places
    )
    row_segments, column_segments = _segments(
        function, query_segment_ids, key_value_segment_ids, batch, queries, keys
    )
    family, alpha, limit = regularizer(
        function, alpha, lambda x: per_head("alpha", x), beside_axis=False
    )
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
            q, k, v, bias, per_head("scale", scale), alpha,
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
            family, limit is True, soft_cap, _window(function, local_window_size, is_causal),
            rate, ClassAxis((-1,), axis_name),
            query_part is not None or key_part is not None, are_few, queries, keys, None,
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


def _integers(function, name, x):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"jsoftmax.{function}: `{name}` has dtype {x.dtype}; give it integers.")
    return x


def _places(size: int, part: ArrayLike | None) -> Array:
    places = jnp.arange(size, dtype=jnp.int32)
    return places if part is None else places + jnp.asarray(part, jnp.int32) * size


def _in_length(function, name, lengths, batch, places):
    """(*batch, places): whether a place lies within the length of its batch entry."""
    if lengths is None:
        return None
    lengths = _integers(function, name, lengths)
    if lengths.shape not in ((), batch):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {lengths.shape}; give one length for each "
            f"batch entry, of shape {batch}."
        )
    lengths = jnp.broadcast_to(lengths, batch)
    return places.reshape((1,) * len(batch) + (-1,)) < lengths[..., None].astype(places.dtype)


def _segments(function, of_queries, of_keys, batch, queries, keys):
    if of_queries is None and of_keys is None:
        return None, None
    if of_keys is None and queries == keys:
        of_keys = of_queries
    if of_queries is None or of_keys is None:
        raise ValueError(
            f"jsoftmax.{function}: give both `query_segment_ids` and `key_value_segment_ids`; "
            "a query sees the keys of its own segment."
        )
    found = []
    for name, ids, size in (
        ("query_segment_ids", of_queries, queries),
        ("key_value_segment_ids", of_keys, keys),
    ):
        ids = _integers(function, name, ids)
        shape = (*batch, size)
        if not checks.broadcasts(ids, shape) or ids.shape[-1:] != (size,):
            raise ValueError(
                f"jsoftmax.{function}: `{name}` has shape {ids.shape}; give one segment for each "
                f"place, of shape {shape}."
            )
        found.append(ids.reshape((1,) * (len(shape) - ids.ndim) + ids.shape))
    return tuple(found)


def _window(function, size, is_causal):
    """Keys seen before and after the place of a query; None for all of them."""
    if size is None:
        return None, (0 if is_causal else None)
    sizes = size if isinstance(size, tuple | list) else (size, size)
    if len(sizes) != 2 or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in sizes
    ):
        raise ValueError(
            f"jsoftmax.{function}: `local_window_size` must be a whole number of keys ≥ 0, or a "
            f"pair (before, after), got {size!r}."
        )
    before, after = map(int, sizes)
    return before, (0 if is_causal else after)


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
