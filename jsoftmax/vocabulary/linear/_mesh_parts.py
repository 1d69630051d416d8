"""Linear losses on a mesh: each device computes its own tokens and classes.

The compiler alone would gather the class table, because blocks of classes cut across the parts of a
split table. So each device loops over blocks of its own classes, as in `shard_map` with an
`axis_name`, and devices exchange only a few numbers per row:

- On Explicit axes, the default of `jax.make_mesh`, types say how arrays are split. Tokens stay on
  their devices, and so do classes over the axes not used by tokens. A kernel that is split along
  its features (FSDP) is gathered once, and its gradient is scattered back.
- On Auto axes the `axis_name` of the call names the mesh axes of the classes. The compiler decides
  how tokens are split; a sharding constraint makes it gather an FSDP kernel once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, PartitionSpec

from jsoftmax.core._explicit_axes import is_split
from jsoftmax.core._mesh_axes import axis_names

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_PER_TOKEN = ("targets", "weights")  # of shape [...]; pairs of targets have one more axis
_PER_TOKEN_MANY = ("ids", "log_probs")  # with one more axis
_PER_CLASS = ("bias", "bias_p", "bias_q", "class_weights")  # of shape [K]
_ONE_TABLE = ("",)


def on_parts(is_sum: bool = False, tables: tuple[str, ...] = _ONE_TABLE) -> Callable:
    """Let a linear loss take arrays that are split over a mesh, outside of `shard_map`.

    The loss has an argument `axis_name`, and `features`, `kernel` and `class_axis` for each table,
    with the suffixes `tables`. It returns one number per token, or with `is_sum` one in all.
    """

    def decorate(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
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
            split = _split(given, tables)
            if split is None:
                return of_any(**given)
            return _over_parts(function, is_sum, split, given)

        return computed

    return decorate


class _Split(NamedTuple):
    """The split of tokens and classes over a mesh."""

    mesh: Any
    manual: frozenset[Hashable]  # the manual axes of `shard_map`
    lead: tuple[Any, ...]  # mesh axes of each axis of the features except the last
    classes: tuple[Hashable, ...]  # mesh axes of the classes
    width: tuple[tuple[Hashable, ...], ...]  # mesh axes of the features of each kernel
    tables: tuple[str, ...]  # the suffixes of the names of tables

    @property
    def tokens(self) -> tuple[Hashable, ...]:
        return tuple(name for part in self.lead for name in _names(part))


def _split(given: dict[str, Any], tables: tuple[str, ...]) -> _Split | None:
    """Return the split of a call; None where nothing is split, or where the caller did it."""
    features, kernels, axes = (
        [given[name + end] for end in tables] for name in ("features", "kernel", "class_axis")
    )
    ndim = jnp.ndim(features[0])
    if (
        not ndim
        or any(jnp.ndim(h) != ndim for h in features)
        or any(jnp.ndim(w) != 2 for w in kernels)
        or not set(axes).issubset((-2, -1, 0, 1))
    ):
        return None  # an error, which the function raises
    named = () if given["axis_name"] is None else axis_names(given["axis_name"])
    mesh = _mesh(jax.tree.leaves(given))
    if mesh is not None:
        free = mesh.explicit_axes
        if not set(named).issubset(free):
            return None
        leads = [lead[:-1] for lead in map(_spec, features) if any(lead)]
        lead = leads[0] if leads else (None,) * (ndim - 1)
        tokens = {name for part in lead for name in _names(part)}
        if tokens.intersection(named):
            shape = jnp.shape(features[0])
            raise ValueError(
                f"jsoftmax: `axis_name` is {given['axis_name']!r}, but the tokens of `features`, "
                f"of shape {shape}, are split over that mesh axis. Split the classes over another "
                "one, or gather the tokens first by `jax.sharding.reshard`."
            )
        known = [
            (_spec(w) or (None, None), axis % 2) for w, axis in zip(kernels, axes, strict=True)
        ]
        of_classes = next((part for spec, i in known if (part := _names(spec[i]))), ())
        classes = named or tuple(n for n in of_classes if n not in tokens)
        width = tuple(tuple(n for n in _names(spec[1 - i]) if n in tokens) for spec, i in known)
        return _Split(mesh, frozenset(free), lead, classes, width, tables)
    mesh = jax.sharding.get_abstract_mesh()
    for end in tables:
        axis = given["class_axis" + end] % 2
        given["kernel" + end] = _with_whole_features(given["kernel" + end], axis)
    if not named or not set(named).issubset(mesh.auto_axes):
        return None
    named = tuple(n for n in named if mesh.shape[n] > 1)
    if not named:  # nothing is split, and XLA refuses to sum over a single device
        given["axis_name"] = None
        return None
    whole = ((),) * len(tables)
    return _Split(mesh, frozenset(named), (None,) * (ndim - 1), named, whole, tables)


def _with_whole_features(kernel: Any, axis: int) -> Any:
    """Constrain a kernel to be whole along its features; the split of its classes stays open."""
    if not isinstance(kernel, Tracer):
        return kernel
    spec: list[Any] = [None, None]
    spec[axis] = PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(kernel, PartitionSpec(*spec))


def _over_parts(function: Callable, is_sum: bool, split: _Split, given: dict[str, Any]) -> Any:
    """Compute the loss; each device has its own tokens and classes."""
    given = {name: _as_array(x) for name, x in given.items()} | {"axis_name": None}
    leaves, structure = jax.tree.flatten(given)
    names = [path[0].key for path, _ in jax.tree_util.tree_flatten_with_path(given)[0]]
    are_arrays = tuple(isinstance(x, jax.Array | np.ndarray) for x in leaves)
    mine = tuple(name for name, is_array in zip(names, are_arrays, strict=True) if is_array)
    others = tuple(x for x, is_array in zip(leaves, are_arrays, strict=True) if not is_array)
    arrays = [x for x, is_array in zip(leaves, are_arrays, strict=True) if is_array]
    if any(isinstance(x, np.ndarray) for x in arrays):
        # Check known values here, since they are traced inside of the program.
        _outline(function, split.mesh, structure, are_arrays, others, arrays)
    arrays = [jnp.asarray(x) for x in arrays]
    outlines = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)
    specs = tuple(_specs(split, mine, outlines, given))
    if split.mesh.explicit_axes:
        arrays = [resharded(split.mesh, x, spec) for x, spec in zip(arrays, specs, strict=True)]
    key = (function, is_sum, split, structure, are_arrays, others, outlines, specs)
    return _program(*key)(*arrays)


@functools.lru_cache(maxsize=512)
def _program(
    function: Callable, is_sum: bool, split: _Split, structure: Any, are_arrays: tuple[bool, ...],
    others: tuple[Any, ...], outlines: tuple[Any, ...], specs: tuple[PartitionSpec, ...],
) -> Callable:  # fmt: skip
    """Compile the loss for arrays of these shapes and this split. Errors are raised here."""
    _outline(function, split.mesh, structure, are_arrays, others, outlines)

    def part(*arrays):
        given = joined(structure, are_arrays, others, arrays)
        for end, width in zip(split.tables, split.width, strict=True):
            if width:
                given["kernel" + end] = jax.lax.all_gather(
                    given["kernel" + end], width, axis=1 - given["class_axis" + end] % 2, tiled=True
                )
        total = function(**given | {"axis_name": split.classes or None})
        return jax.lax.psum(total, split.tokens) if is_sum and split.tokens else total

    return jax.jit(
        jax.shard_map(
            part,
            mesh=split.mesh,
            in_specs=specs,
            out_specs=PartitionSpec() if is_sum else PartitionSpec(*split.lead),
            axis_names=split.manual,
        )
    )


def _outline(function, mesh, structure, are_arrays, others, arrays):
    """Evaluate the shapes of the results, which raises the errors of the function."""
    mesh = getattr(mesh, "abstract_mesh", mesh)
    whole = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))

    def of(*known):
        places = iter(known)
        mixed = [x if isinstance(x, np.ndarray) else next(places) for x in arrays]
        return function(**joined(structure, are_arrays, others, mixed))

    unknown = [x for x in arrays if not isinstance(x, np.ndarray)]
    with jax.sharding.use_abstract_mesh(whole):
        return jax.eval_shape(of, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in unknown))


def joined(structure, are_arrays, others, arrays) -> dict[str, Any]:
    """Rebuild the arguments of a call from its arrays and the other leaves."""
    arrays, others = iter(arrays), iter(others)
    return jax.tree.unflatten(
        structure, [next(arrays) if is_array else next(others) for is_array in are_arrays]
    )


def _specs(split, names, outlines, given):
    """Return the spec of each array: split along its axes of tokens and classes."""
    end = split.tables[0]
    classes = given["kernel" + end].shape[given["class_axis" + end] % 2]
    of_classes = split.classes or None
    kernels = {
        "kernel" + end: (width or None, given["class_axis" + end] % 2)
        for end, width in zip(split.tables, split.width, strict=True)
    }
    for name, x in zip(names, outlines, strict=True):
        if name in ["features" + end for end in split.tables]:
            yield PartitionSpec(*split.lead, None)
        elif name in kernels:
            width, axis = kernels[name]
            parts = (width, of_classes)
            yield PartitionSpec(*(parts if axis else parts[::-1]))
        elif name in _PER_CLASS:
            yield PartitionSpec(of_classes)
        else:
            *lead, last = (1,) * (len(split.lead) + 1 - x.ndim) + x.shape
            is_pair = name in _PER_TOKEN_MANY or (
                name == "targets" and isinstance(given["targets"], tuple)
            )
            if name in _PER_TOKEN and not is_pair:
                lead, end = (1,) * (len(split.lead) - x.ndim) + x.shape, ()
            else:
                end = (of_classes if not is_pair and last == classes > 1 else None,)
            spec = [
                part if size > 1 else None for part, size in zip(split.lead, lead, strict=False)
            ]
            yield PartitionSpec(*[*spec, *end][len(spec) + len(end) - x.ndim :])


def resharded(mesh: Any, x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Reshard the array if its split differs."""
    known = jax.typeof(x).sharding
    if known.mesh == mesh and known.spec == spec:
        return x
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(mesh, spec))


def _as_array(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_as_array, x))
    return np.asarray(x) if isinstance(x, list) else x


def _mesh(arrays: list[Any]) -> Any:
    """Return the mesh with Explicit axes of one of the arrays."""
    for x in arrays:
        if isinstance(x, jax.Array) and (mesh := jax.typeof(x).sharding.mesh).explicit_axes:
            concrete: Any = x
            return mesh if isinstance(x, Tracer) else concrete.sharding.mesh
    return None


def _spec(x: Any) -> tuple[Any, ...]:
    return tuple(jax.typeof(x).sharding.spec) if isinstance(x, jax.Array) else ()


def _names(part: Any) -> tuple[Hashable, ...]:
    return () if part is None else axis_names(part)
