"""Sum over tiles: in memory on the chip of a TPU, in registers of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.kernels.attention._visits import Visits
from jsoftmax.kernels.attention._walk import Source, walk

Shapes = Sequence[tuple[int, ...] | None]


def summed(
    refs: Sequence[Any] | None,
    shapes: Shapes,
    dtype: Any,
    sources: Sequence[Source],
    visits: Visits,
    terms: Callable[[Any, list[Array]], Sequence[Array | None]],
    is_alive: Callable[[Any], Array] | None = None,
    is_begun: bool = False,
) -> list[Any]:
    """Return Σ terms(i, tiles) over the visited tiles, None where a shape is None.

    `refs` hold the sums, as many as there are shapes, and keep their values if the sum `is_begun`;
    without them the loop carries the sums. Where a tile is not alive its terms are 0, and are not
    computed.
    """
    places = [i for i, shape in enumerate(shapes) if shape is not None]

    def where_alive(i, add, otherwise):
        return add() if is_alive is None else jax.lax.cond(is_alive(i), add, otherwise)

    if refs is None:

        def with_terms(i, tiles, state):
            def add():
                found = terms(i, tiles)
                return tuple(x + found[j] for x, j in zip(state, places, strict=True))

            return where_alive(i, add, lambda: state)

        zeros = tuple(jnp.zeros(shapes[i] or (), dtype) for i in places)
        sums = list(walk(sources, visits, with_terms, zeros))
    else:
        used = [refs[i] for i in places]
        for ref in [] if is_begun else used:
            ref[...] = jnp.zeros(ref.shape, ref.dtype)

        def turn(i, tiles, _):
            def add():
                found = terms(i, tiles)
                for ref, j in zip(used, places, strict=True):
                    ref[...] += found[j]
                return 0

            return where_alive(i, add, lambda: 0)

        walk(sources, visits, turn, 0)
        sums = [ref[...] for ref in used]
    results: list[Any] = [None] * len(shapes)
    for i, x in zip(places, sums, strict=True):
        results[i] = x
    return results
