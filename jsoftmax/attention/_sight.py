"""Visibility of keys, by positions, lengths, segments and windows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core import _checks as checks

_ALL = 2**30  # above every position; the sum with one is still an int32


def _integers(function, name, x):
    x = checks.as_array(function, name, x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"jsoftmax.{function}: `{name}` has dtype {x.dtype}; give it integers.")
    return x


def places_of(size: Any, start: ArrayLike | None) -> Array:
    places = jnp.arange(size, dtype=jnp.int32)
    return places if start is None else places + jnp.asarray(start, jnp.int32)


def lengths_of(function: str, name: str, lengths: Any, batch: tuple[Any, ...]) -> Array | None:
    """Validate and return one length for each batch entry."""
    if lengths is None:
        return None
    known = checks.known_values(lengths)
    lengths = _integers(function, name, lengths)
    if lengths.shape not in ((), batch):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {lengths.shape}; give one length for each "
            f"batch entry, of shape {batch}."
        )
    if known is not None and (known < 0).any():
        raise ValueError(
            f"jsoftmax.{function}: `{name}` must not be negative, got {known.tolist()}; a length "
            "of 0 hides all."
        )
    return jnp.broadcast_to(lengths, batch)


def in_length(lengths: Array | None, places: Array) -> Array | None:
    """Return (*batch, positions): whether a position is within the length of its batch entry."""
    if lengths is None:
        return None
    return places.reshape((1,) * lengths.ndim + (-1,)) < lengths[..., None].astype(places.dtype)


def segments_of(function, of_queries, of_keys, batch, queries, keys):
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
                f"position, of shape {shape}."
            )
        found.append(ids.reshape((1,) * (len(shape) - ids.ndim) + ids.shape))
    return tuple(found)


def offset_of(
    function: str,
    offset: Any,
    batch: tuple[Any, ...],
    segments: tuple[Array | None, Array | None],
    axis_name: Any,
) -> int | Array:
    """Return the position of a query among the keys less its index among the queries.

    The result is a static integer, or an array of shape (*batch, queries), of size 1 where it is
    shared.
    """
    if offset is None:
        return 0
    if isinstance(offset, str):
        if offset != "segments" or segments[0] is None or segments[1] is None:
            raise ValueError(
                f"jsoftmax.{function}: `query_offset` must be a number, one for each batch entry, "
                f"or 'segments' with `query_segment_ids`, got {offset!r}."
            )
        return _between_segments(segments[0], segments[1], axis_name)
    number = checks.static_number(offset)
    if number is not None and not isinstance(offset, bool):
        if number != int(number) or isinstance(offset, float):
            raise TypeError(
                f"jsoftmax.{function}: `query_offset` must be an integer, got {offset!r}."
            )
        return max(min(int(number), _ALL), -_ALL)
    offset = _integers(function, "query_offset", offset)
    if offset.shape not in ((), batch):
        raise ValueError(
            f"jsoftmax.{function}: `query_offset` has shape {offset.shape}; give one number, or "
            f"one for each batch entry, of shape {batch}."
        )
    offset = jnp.broadcast_to(offset.astype(jnp.promote_types(offset.dtype, jnp.int32)), batch)
    return jnp.clip(offset, -_ALL, _ALL).astype(jnp.int32)[..., None]


def rows_together(keys: int) -> int:
    """Return how many queries are compared at once with so many keys."""
    return max(1, 2**17 // keys)


def _between_segments(of_queries: Array, of_keys: Array, axis_name: Any) -> Array:
    """Return where each query's segment starts among the keys, less where among the queries."""

    def start(ids, axis_name):
        places = jnp.arange(ids.shape[-1], dtype=jnp.int32)
        if axis_name is not None:
            places = places + jax.lax.axis_index(axis_name) * ids.shape[-1]

        def first(segment):  # of one query in each batch entry
            return jnp.min(jnp.where(segment[..., None] == ids, places, _ALL), axis=-1)

        # In blocks, since XLA on CPU would form an array of all pairs.
        rows = jnp.moveaxis(of_queries, -1, 0)
        sizes = rows.shape[0], ids.shape[-1]
        if all(isinstance(n, int) for n in sizes) and sizes[0] > rows_together(sizes[1]):
            found = jax.lax.map(first, rows, batch_size=rows_together(sizes[1]))
        else:
            found = jax.vmap(first)(rows)
        found = jnp.moveaxis(found, 0, -1)
        return found if axis_name is None else jax.lax.pmin(found, axis_name)

    return start(of_keys, axis_name) - start(of_queries, None)


def window_of(
    function: str, size: Any, is_causal: bool, batch: tuple[Any, ...], offset: int | Array = 0
) -> tuple[tuple[int | None, int | None], Array | None, Array | None]:
    """Return the numbers of keys seen before and after a query: static ones, then arrays.

    None means all keys, or that the number is given in the other form. They are counted from the
    key of the same index as the query: an offset adds to the one and subtracts from the other.
    """
    sizes = size if isinstance(size, tuple | list) else (size, size)
    if len(sizes) != 2:
        raise _window_mistake(function, size)
    (before, *of_entries), (after, *others) = (_one_side(function, n, size, batch) for n in sizes)
    # A causal query sees no later position, however far a traced window reaches.
    after = 0 if is_causal else after
    sides = (before, of_entries[0], -offset), (after, others[0], offset)
    (before, of_entries), (after, others) = (_moved(*side) for side in sides)
    return (before, after), of_entries, others


def _moved(known: int | None, traced: Array | None, by: int | Array):
    """Extend one side of a window, in both of its forms."""
    if isinstance(by, int):
        return (
            None if known is None else known + by,
            None if traced is None else jnp.clip(traced + by, -_ALL, _ALL),
        )
    if known is None and traced is None:
        return None, None
    least = jnp.asarray(_ALL if known is None else known, jnp.int32)
    least = least if traced is None else jnp.minimum(least, traced)
    return None, jnp.clip(least + by, -_ALL, _ALL)


def _one_side(function, n, size, batch):
    if n is None:
        return None, None
    if isinstance(n, jax.Array):
        n = _integers(function, "local_window_size", n)
        if n.shape not in ((), batch):
            raise ValueError(
                f"jsoftmax.{function}: `local_window_size` has shape {n.shape}; give one number, "
                f"or one for each batch entry, of shape {batch}."
            )
        n = n.astype(jnp.promote_types(n.dtype, jnp.int32))
        return None, jnp.broadcast_to(jnp.minimum(n, _ALL).astype(jnp.int32), batch)[..., None]
    try:
        values = np.asarray(n)
    except ValueError as error:
        raise _window_mistake(function, size) from error
    if not np.issubdtype(values.dtype, np.integer) or (values < 0).any():
        raise _window_mistake(function, size)
    if values.ndim == 0:
        return min(int(values), _ALL), None
    return _one_side(function, jnp.asarray(values), size, batch)


def _window_mistake(function, size):
    return ValueError(
        f"jsoftmax.{function}: `local_window_size` must be an integer ≥ 0, or a pair (before, "
        f"after), each an integer, integers for each batch entry, or None; got {size!r}."
    )
