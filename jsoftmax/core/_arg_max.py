"""Find the largest scores of rows that are recomputed wherever they are needed.

A recomputed score may round differently, so no score need equal the stored maximum. Scores are
therefore compared with the midpoint between the largest score and the runner-up.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._axis import ClassAxis

Pair = tuple[Array, Array]  # the largest score of a row, and the next below it
Hard = bool | Array  # the rows where the map is arg max; True: all, False: none


def highest(z: Array) -> Pair:
    """Return the pair of the last axis, kept with size 1."""
    top = jnp.max(z, axis=-1, keepdims=True)
    return top, jnp.max(jnp.where(z < top, z, -jnp.inf), axis=-1, keepdims=True)


def higher(one: Pair, other: Pair) -> Pair:
    """Return the pair of two pairs together."""
    top = jnp.maximum(one[0], other[0])
    below = (jnp.where(x < top, x, -jnp.inf) for x in (*one, *other))
    return top, functools.reduce(jnp.maximum, below)


def of_whole_rows(pair: Pair, classes: ClassAxis) -> Pair:
    """Return the pair of rows that are split into parts."""
    top = classes.max(pair[0])
    return top, classes.max(jnp.maximum(jnp.where(pair[0] < top, pair[0], -jnp.inf), pair[1]))


def floor_of(pair: Pair) -> Array:
    """Return a bound that the largest score reaches and the next does not, despite rounding."""
    top, second = pair
    middle = top / 2 + second / 2
    return jnp.where(second > -jnp.inf, jnp.where(middle > second, middle, top), second)


def only_highest(z: Array, floor: Array) -> Array:
    """Return 0 for the largest scores, −∞ for all others, NaN for NaN."""
    return jnp.where((z >= floor) & (z > -jnp.inf), 0, jnp.where(z == z, -jnp.inf, z))


def hardened(hard: Hard, z: Array, floor: Array) -> Array:
    """Return the scores or, where the map is arg max, 0 for the largest and −∞ for the others."""
    return z if hard is False else where_hard(hard, only_highest(z, floor), z)


def where_hard(hard: Hard, limit: Array, otherwise: Array) -> Array:
    """Return `limit` where the map is arg max, and `otherwise` elsewhere."""
    if isinstance(hard, bool):
        return limit if hard else otherwise
    return jnp.where(hard, limit, otherwise)
