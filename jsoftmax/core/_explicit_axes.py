"""Compute with arrays on Explicit mesh axes as on Auto axes.

On an Explicit axis JAX derives the sharding of every result from the operands, which is impossible
for blocks of tokens, sorting and scattering. The compiler then chooses shardings, as it does on an
Auto axis, and results are sharded like the rows they belong to.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def on_explicit_axes(
    like: str, axis: str | tuple[int, ...] = (-1,)
) -> Callable[[Callable[_Given, _Result]], Callable[_Given, _Result]]:
    """Let a function take arrays on Explicit axes.

    Results with the rows of the argument `like` are sharded as these are, and others are
    replicated. The rows of `like` are all its axes except the class axes. `axis` gives the class
    axes, or names the argument that gives them.
    """

    def decorate(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
        signature = inspect.signature(function)
        of_any: Callable[..., _Result] = function

        @functools.wraps(function)
        def computed(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
            given, structure = jax.tree.flatten((args, kwargs))
            if not any(map(is_split, given)):
                return function(*args, **kwargs)
            arguments = signature.bind(*args, **kwargs)
            arguments.apply_defaults()
            named = arguments.arguments
            rows = _rows(named[like], named[axis] if isinstance(axis, str) else axis)
            there = [i for i, x in enumerate(given) if _explicit_mesh(x) is not None]

            def of_arrays(*arrays):
                whole = list(given)
                for i, x in zip(there, arrays, strict=True):
                    whole[i] = x
                args, kwargs = jax.tree.unflatten(structure, whole)
                return of_any(*args, **kwargs)

            arrays = [given[i] for i in there]
            mesh = _explicit_mesh(arrays[0])
            auto = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
            with jax.sharding.use_abstract_mesh(auto):
                like_them = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
                shapes = jax.eval_shape(of_arrays, *like_them)
            shardings = jax.tree.map(lambda x: NamedSharding(mesh, _spec(x.shape, rows)), shapes)
            found: Any = jax.sharding.auto_axes(of_arrays, out_sharding=shardings)(*arrays)
            return found

        return computed

    return decorate


def _explicit_mesh(x: Any) -> Any:
    """Return the mesh of an array if it has Explicit axes; None for everything else."""
    if not isinstance(x, jax.Array):
        return None
    mesh = jax.typeof(x).sharding.mesh
    return mesh if mesh.explicit_axes else None


def is_split(x: Any) -> bool:
    """Return whether an array is split over an Explicit axis."""
    mesh = _explicit_mesh(x)
    if mesh is None:
        return False
    parts = jax.typeof(x).sharding.spec
    names = (n for part in parts for n in (part if isinstance(part, tuple) else (part,)))
    return any(n in mesh.explicit_axes for n in names)


class _Rows(NamedTuple):
    """The rows of an array, and how they are split."""

    shape: tuple[Any, ...]  # of the array
    spec: tuple[Any, ...]  # of the array, None for the class axes
    kept: tuple[int, ...]  # the row axes


def _rows(x: Any, axis: Any) -> _Rows:
    if not isinstance(x, jax.Array) or not x.ndim:
        return _Rows((), (), ())
    axes = axis if isinstance(axis, tuple) else range(x.ndim) if axis is None else (axis,)
    classes = {a % x.ndim for a in axes}
    spec = jax.typeof(x).sharding.spec
    kept = tuple(a for a in range(x.ndim) if a not in classes)
    return _Rows(x.shape, tuple(spec[a] if a in kept else None for a in range(x.ndim)), kept)


def _spec(shape: tuple[Any, ...], rows: _Rows) -> PartitionSpec:
    """Return the sharding of a result, from the shape and the sharding of the rows.

    A result of the shape of the whole array is sharded like it. One with the row shape, perhaps
    with draws before or classes after it, is sharded like the rows. All others are replicated.
    """
    if shape == rows.shape:
        return PartitionSpec(*rows.spec)
    sizes, spec = (tuple(x[a] for a in rows.kept) for x in (rows.shape, rows.spec))
    more = len(shape) - len(sizes)
    if more == 0 and all(n in (1, m) for n, m in zip(shape, sizes, strict=True)):
        return PartitionSpec(*(s if n > 1 else None for n, s in zip(shape, spec, strict=True)))
    if more >= 0 and shape[more:] == sizes:
        return PartitionSpec(*[None] * more, *spec)
    if more >= 0 and shape[: len(sizes)] == sizes:
        return PartitionSpec(*spec, *[None] * more)
    return PartitionSpec(*[None] * len(shape))
