"""Sums over tiles: in memory on the chip of a TPU, in registers of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Shapes = Sequence[tuple[int, ...] | None]


def summed(
    refs: Sequence[Any] | None,
    shapes: Shapes,
    first: Any,
    last: Any,
    terms: Callable[[Any], Sequence[Array | None]],
    is_alive: Callable[[Any], Array] | None = None,
) -> list[Array | None]:
    """Σ terms(i) over first ≤ i < last, None where a shape is.

    `refs` hold the sums, of which there are as many as shapes; without them the sums go round the
    loop. Where a tile is not alive its terms are 0, and are not formed.
    """
    places = [i for i, shape in enumerate(shapes) if shape is not None]

    def chosen(terms):
        return [x for x in (terms[i] for i in places)]

    def where_alive(i, add, otherwise):
        return add() if is_alive is None else jax.lax.cond(is_alive(i), add, otherwise)

    if refs is None:

        def turn(i, state):
            def add():
                return tuple(x + y for x, y in zip(state, chosen(terms(i)), strict=True))

            return where_alive(i, add, lambda: state)

        zeros = tuple(jnp.zeros(shapes[i], jnp.float32) for i in places)
        found = list(jax.lax.fori_loop(first, last, turn, zeros))
    else:
        used = [refs[i] for i in places]
        for ref in used:
            ref[...] = jnp.zeros(ref.shape, jnp.float32)

        def turn(i, _):
            def add():
                for ref, x in zip(used, chosen(terms(i)), strict=True):
                    ref[...] += x
                return 0

            return where_alive(i, add, lambda: 0)

        jax.lax.fori_loop(first, last, turn, 0)
        found = [ref[...] for ref in used]
    results: list[Array | None] = [None] * len(shapes)
    for i, x in zip(places, found, strict=True):
        results[i] = x
    return results
