"""Random points on a circle of integer length, each uniform by itself.

Classes are arcs, with lengths in proportion to their probabilities, and a point draws the class of
its arc. Independent points draw with replacement. Points that are further apart than the longest
arc draw without replacement: all are rotated by one random angle, so each of them is uniform by
itself. Either way the expected count of a class is exactly its length times the number of points.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.sampling._wide_integers import Words, product_high


def independent_points(key: Array, shape: tuple[int, ...], units: int | Array) -> Array:
    """Draw integers from 0 to units − 1, from 64 bits of noise each: uniform up to 2⁻³²."""
    zero = jnp.uint32(0)
    high, low = jax.random.bits(key, (2, *shape), jnp.uint32)
    return product_high(Words(high, low), Words(zero, jnp.asarray(units, jnp.uint32))).low


def spaced_points(
    key: Array, shape: tuple[int, ...], units: int | Array, steps: int | Array, longest: int | Array
) -> Array:
    """Draw points along the last axis, no two on one arc of at most `longest` units.

    The circle is cut into `steps` pieces of equal length, one for each point. A point moves within
    its piece only so far that its neighbour, wherever that moves, stays more than an arc away.
    """
    units = jnp.asarray(units, jnp.uint32)
    piece = units // jnp.asarray(steps, jnp.uint32)
    turn_key, move_key = jax.random.split(key)
    turn = independent_points(turn_key, (*shape[:-1], 1), units)
    move = independent_points(move_key, shape, piece + 1 - jnp.asarray(longest, jnp.uint32))
    return turned(turn, jnp.arange(shape[-1], dtype=jnp.uint32) * piece + move, units)


def turned(turn: Array, place: Array, units: Array) -> Array:
    """Compute turn + place modulo `units` for numbers below `units`, without overflow."""
    room = units - place
    return jnp.where(turn < room, turn + place, turn - room)
