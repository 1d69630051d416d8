"""Arrays inside of `shard_map`, where JAX types each by the mesh axes over which it varies.

What is carried through a loop must vary over the same axes at each turn, and a gradient formed by
hand over the same as its argument: a class table that is whole everywhere has a gradient that
differs from device to device, until it is summed. So what varies over fewer axes than the rest is
first taken as varying over all of them, and the transpose of that is the sum.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
from jax import Array


def alike(trees: Any, but: Hashable | None = None) -> Any:
    """The arrays of a tree, each varying over every mesh axis over which another one does.

    On the axis `but`, over which classes are split, each stays as it is.
    """
    axes = {a for x in jax.tree.leaves(trees) for a in varies_over(x)}
    axes -= set(axis_names(but))

    def lifted(x):
        missing = tuple(sorted(axes - set(varies_over(x))))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(lifted, trees) if axes else trees


def gathered(x: Array, axis_name: Hashable, axis: int) -> Array:
    """The parts of all devices along `axis`, put side by side; known to be the same everywhere."""
    # Under `vmap` JAX does not track what varies, and refuses a result that does not.
    to = "invarying" if varies_over(x).issuperset(axis_names(axis_name)) else "varying"
    return jax.lax.all_gather(x, axis_name, axis=axis, tiled=True, to=to)


def axis_names(axis_name: Hashable) -> tuple[Hashable, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def varies_over(x: Any) -> frozenset[Any]:
    """The axes over which `shard_map` knows that an array varies; none elsewhere."""
    return jax.typeof(x).manual_axis_type.varying
