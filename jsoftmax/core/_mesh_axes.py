"""Align the varying mesh axes of arrays inside `shard_map`, which JAX tracks in their types.

A loop carry must vary over the same axes at each iteration, and a hand-written gradient over the
same axes as its argument: a replicated class table has a gradient that differs from device to
device until it is summed. So an array that varies over fewer axes than the rest is first cast to
vary over all of them, and the transpose of that cast is the sum.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
from jax import Array


def alike(trees: Any, but: Hashable | None = None) -> Any:
    """Return the arrays of a tree, cast to vary over every mesh axis that any of them varies over.

    The axis `but`, which splits the classes, is left out.
    """
    axes = {a for x in jax.tree.leaves(trees) for a in varies_over(x)}
    axes -= set(axis_names(but))

    def lifted(x):
        missing = tuple(sorted(axes - set(varies_over(x))))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(lifted, trees) if axes else trees


def gathered(x: Array, axis_name: Hashable, axis: int) -> Array:
    """Return the parts of all devices concatenated along `axis`, typed as equal everywhere."""
    # Under `vmap` JAX does not track varying axes, and refuses an invarying result.
    to = "invarying" if varies_over(x).issuperset(axis_names(axis_name)) else "varying"
    return jax.lax.all_gather(x, axis_name, axis=axis, tiled=True, to=to)


def axis_names(axis_name: Hashable) -> tuple[Hashable, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def varies_over(x: Any) -> frozenset[Any]:
    """Return the varying axes of an array inside `shard_map`; none elsewhere."""
    return jax.typeof(x).manual_axis_type.varying
