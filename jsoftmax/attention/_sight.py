"""Which keys a query may see: by places, lengths, segments and windows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.core import _checks as checks


def _integers(function, name, x):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"jsoftmax.{function}: `{name}` has dtype {x.dtype}; give it integers.")
    return x


def places_of(size: int, part: ArrayLike | None) -> Array:
    places = jnp.arange(size, dtype=jnp.int32)
    return places if part is None else places + jnp.asarray(part, jnp.int32) * size


def in_length(function, name, lengths, batch, places):
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
                f"place, of shape {shape}."
            )
        found.append(ids.reshape((1,) * (len(shape) - ids.ndim) + ids.shape))
    return tuple(found)


def window_of(function, size, is_causal):
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
