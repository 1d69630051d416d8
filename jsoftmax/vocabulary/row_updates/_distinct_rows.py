"""Remove duplicates among row ids, and sum the gradients of equal rows."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

_RUN = 8  # summands of one partial sum


def each_once(ids: Array, size: int) -> tuple[Array, Array, Array]:
    """Return the distinct ids, rising, the position of each id among them, and their number.

    Unused places hold distinct numbers ≥ `size`, so that gathers and scatters may assume rising and
    distinct ids. The position of padding, `size`, is past the end.
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
    """Make rising ids distinct where they are padding, `size`, at the end."""
    return jnp.where(ids < size, ids, size + jnp.arange(ids.shape[0], dtype=jnp.int32))


def in_order(place: Array) -> tuple[Array, Array]:
    """Sort places from 0 to n; return them with the permutation.

    Single numbers sort many times faster than pairs. So a few digits of a place and its index form
    one number. Higher digits are sorted in further rounds, each of them stable.
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
    """Replace runs of eight summands with one place by their sum.

    The final sum then adds at most 14 partial sums of each size. Added one after another, a hundred
    thousand numbers would lose a thousandth.
    """
    n = place.shape[0]
    places, gs = [], []
    while place.shape[0] > _RUN:
        whole = place.shape[0] // _RUN * _RUN
        runs = place[:whole].reshape(-1, _RUN)
        # Places rise, so a run has one place if its ends are equal.
        is_one = runs[:, 0] == runs[:, -1]
        sums = jnp.sum(g[:whole].reshape(-1, _RUN, *g.shape[1:]), axis=1)
        left = jnp.where(is_one[:, None], n, runs).reshape(-1)
        places.append(jnp.concatenate([left, place[whole:]]))
        gs.append(g)
        place = runs[:, 0]
        g = jnp.where(is_one.reshape(-1, *[1] * (g.ndim - 1)), sums, 0)
    return jnp.concatenate([*places, place]), jnp.concatenate([*gs, g])
