"""Split a batch of pairs over a mesh, and gather it on each device.

Every query is compared with the keys of all devices. Features, [batch, d], are gathered, not
scores, [batch, batch]. The transpose of the gathering sums the gradients of a key over the devices,
and leaves each device the gradients of its own keys.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import PartitionSpec

from jsoftmax.core._explicit_axes import is_split
from jsoftmax.core._mesh_axes import axis_names
from jsoftmax.vocabulary.linear._mesh_parts import joined, resharded

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def on_batch_parts(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Let a loss of `queries` and `keys` take a split batch outside of `shard_map`.

    On Explicit axes the types of the arrays say how the batch is split, on Auto axes the
    `axis_name` of the call.
    """
    signature = inspect.signature(function)
    of_any: Callable[..., _Result] = function

    @functools.wraps(function)
    def computed(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        are_split = any(map(is_split, jax.tree.leaves((args, kwargs))))
        if not are_split and not jax.sharding.get_abstract_mesh().auto_axes:
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        mesh, manual, axes = _split(given)
        if mesh is None:
            return of_any(**given)
        leaves, structure = jax.tree.flatten(given | {"axis_name": None})
        are_arrays = tuple(isinstance(x, jax.Array | np.ndarray) for x in leaves)
        others = tuple(x for x, is_array in zip(leaves, are_arrays, strict=True) if not is_array)
        arrays = [
            jnp.asarray(x) for x, is_array in zip(leaves, are_arrays, strict=True) if is_array
        ]
        batch = np.shape(given["queries"])[:1], np.shape(given["keys"])[:1]
        specs = tuple(PartitionSpec(axes if x.shape[:1] in batch else None) for x in arrays)
        specs = tuple(s if x.ndim else PartitionSpec() for s, x in zip(specs, arrays, strict=True))
        if mesh.explicit_axes:
            arrays = [resharded(mesh, x, s) for x, s in zip(arrays, specs, strict=True)]
        return _program(function, mesh, manual, axes, structure, are_arrays, others, specs)(*arrays)

    return computed


def _split(given: dict[str, Any]) -> tuple[Any, frozenset[Hashable], tuple[Hashable, ...]]:
    """Return the mesh, its manual axes, and the axes of the batch; None if nothing is split."""
    pair = [given[name] for name in ("queries", "keys")]
    for x in pair:
        if is_split(x):
            part = jax.typeof(x).sharding.spec[0]
            mesh = _mesh_of(x)
            return mesh, frozenset(mesh.explicit_axes), () if part is None else axis_names(part)
    mesh = jax.sharding.get_abstract_mesh()
    named = () if given["axis_name"] is None else axis_names(given["axis_name"])
    if not named or not set(named).issubset(mesh.auto_axes):
        return None, frozenset(), ()
    return mesh, frozenset(named), named


def _mesh_of(x: Any) -> Any:
    return jax.typeof(x).sharding.mesh if isinstance(x, Tracer) else x.sharding.mesh


@functools.lru_cache(maxsize=512)
def _program(
    function: Callable, mesh: Any, manual: frozenset[Hashable], axes: tuple[Hashable, ...],
    structure: Any, are_arrays: tuple[bool, ...], others: tuple[Any, ...],
    specs: tuple[PartitionSpec, ...],
) -> Callable:  # fmt: skip
    """Compile the loss of a batch that is split like this."""

    def part(*arrays):
        given = joined(structure, are_arrays, others, arrays)
        return function(**given | {"axis_name": axes or None})

    out = PartitionSpec(axes or None)
    return jax.jit(jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=out, axis_names=manual))


def gathered_batch(x: Array, axis_name: Hashable | None) -> Array:
    """Gather the rows of all devices, in their order."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, axis=0, tiled=True)


def first_row(x: Array, axis_name: Hashable | None) -> Any:
    """Return the number of rows of the devices before this one."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * x.shape[0]
