"""Rows that are named many times: each of them once, and the sums of their gradients."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

_RUN = 8  # summands that become one


def each_once(ids: Array, size: int) -> tuple[Array, Array, Array]:
    """Ids in rising order, none twice; where among them each id is; how many there are.

    What is left over holds distinct numbers of `size` and more, so that whoever reads or writes
    the rows may rely on order and distinctness. Padding, `size`, has its place behind all.
    """
    n = ids.shape[0]
    rising = jnp.sort(ids)
    first = jnp.concatenate([jnp.ones_like(rising[:1], bool), rising[1:] != rising[:-1]])
    place = jnp.cumsum(first, dtype=jnp.int32) - 1
    each = jnp.full_like(ids, size).at[place].set(rising, indices_are_sorted=True)
    each = all_distinct(each, size)
    place = jnp.searchsorted(each, ids, method="scan_unrolled").astype(jnp.int32)
    return each, jnp.where(ids < size, place, n), jnp.sum(first & (rising < size), dtype=jnp.int32)


def all_distinct(ids: Array, size: int) -> Array:
    """Rising ids, of which those that are padding, `size` at the end, become distinct too."""
    return jnp.where(ids < size, ids, size + jnp.arange(ids.shape[0], dtype=jnp.int32))


def in_order(place: Array) -> tuple[Array, Array]:
    """Places from 0 to n in rising order, and where each has been.

    One number is sorted many times faster than a pair is. So a few digits of a place and where it
    stands are one number, and higher digits follow in a turn of their own, which keeps the order of
    those that are equal.
    """
    n = place.shape[0]
    standing = max((n - 1).bit_length(), 1)
    digits = 32 - standing
    slots = jnp.arange(n, dtype=jnp.uint32)
    place, order = place.astype(jnp.uint32), slots
    for shift in range(0, n.bit_length(), digits):
        part = (place >> shift) & (2**digits - 1)
        both = jnp.sort((part << standing) | slots)
        here = both & (2**standing - 1)
        place, order = place[here], order[here]
    return place.astype(jnp.int32), order.astype(jnp.int32)


def summed_in_runs(place: Array, g: Array) -> tuple[Array, Array]:
    """Fewer summands for each place, of the same sum: of equal places in a row eight become one.

    Whoever adds up the result adds at most 14 numbers of each size, where one after another a
    hundred thousand would lose a thousandth.
    """
    n = place.shape[0]
    places, gs = [], []
    while place.shape[0] > _RUN:
        whole = place.shape[0] // _RUN * _RUN
        runs = place[:whole].reshape(-1, _RUN)
        # Places rise, so that a run is of one place where its ends are.
        is_one = runs[:, 0] == runs[:, -1]
        sums = jnp.sum(g[:whole].reshape(-1, _RUN, *g.shape[1:]), axis=1)
        left = jnp.where(is_one[:, None], n, runs).reshape(-1)
        places.append(jnp.concatenate([left, place[whole:]]))
        gs.append(g)
        place = runs[:, 0]
        g = jnp.where(is_one.reshape(-1, *[1] * (g.ndim - 1)), sums, 0)
    return jnp.concatenate([*places, place]), jnp.concatenate([*gs, g])
