"""Points on a circle of a whole number of units, each of them equally likely to be any unit.

Classes are arcs, as long as they are probable, and a point draws the class on whose arc it falls.
Independent points draw with replacement. Points that are further apart than the longest arc draw
without: all are turned by one random angle, and so each of them, taken by itself, is uniform. The
expected count of a class is therefore its length times the number of points either way, exactly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.sampling._wide_integers import Words, product_high


def independent_points(key: Array, shape: tuple[int, ...], units: int | Array) -> Array:
    """Whole numbers from 0 to units − 1, of 64 bits of noise each: uniform but for 2⁻³²."""
    zero = jnp.uint32(0)
    high, low = jax.random.bits(key, (2, *shape), jnp.uint32)
    return product_high(Words(high, low), Words(zero, jnp.asarray(units, jnp.uint32))).low


def spaced_points(
    key: Array, shape: tuple[int, ...], units: int | Array, steps: int | Array, longest: int | Array
) -> Array:
    """As many as the last axis has, two of which never fall on one arc of at most `longest` units.

    The circle is cut into `steps` pieces of equal length, of which each of the points has one. In
    it a point may move as far as its neighbour, wherever that moves, stays beyond an arc.
    """
    units = jnp.asarray(units, jnp.uint32)
    piece = units // jnp.asarray(steps, jnp.uint32)
    turn_key, move_key = jax.random.split(key)
    turn = independent_points(turn_key, (*shape[:-1], 1), units)
    move = independent_points(move_key, shape, piece + 1 - jnp.asarray(longest, jnp.uint32))
    return turned(turn, jnp.arange(shape[-1], dtype=jnp.uint32) * piece + move, units)


def turned(turn: Array, place: Array, units: Array) -> Array:
    """turn + place modulo `units`, both smaller than that, where their sum may not fit."""
    room = units - place
    return jnp.where(turn < room, turn + place, turn - room)
