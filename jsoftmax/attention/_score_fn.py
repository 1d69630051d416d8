"""Validate score functions, lay out their arrays, and apply them block by block.

A score function is any callable. Its arrays, the leaves of a pytree or the closed-over arrays of a
plain function, are differentiable inputs. Those of ours have axes along queries and keys, so that a
block needs only its part; those of a user's function are whole everywhere, and indexed in the
function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._mesh_axes import varies_over

INDICES = ("batch", "head", "query", "key")


@dataclasses.dataclass(frozen=True)
class Outline:
    """The sizes of an attention, for the check and the layout of a score function's arrays."""

    function: str
    batch: tuple[Any, ...]
    queries: Any
    keys: Any
    key_heads: int
    groups: int
    offset: int | Array  # of the positions of queries
    axis_name: Any  # that splits the keys
    dtype: Any

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.key_heads * self.groups

    def by_head(self, x: Array) -> Array:
        """Reshape (heads or 1, ...) to (1, ..., key heads, groups, 1, ...)."""
        split = (self.key_heads, self.groups) if x.shape[0] == self.heads else (1, 1)
        lead = (1,) * len(self.batch)
        return x.reshape(*lead, *split, *(x.shape[1:] or (1, 1))).astype(self.dtype)

    def by_place(self, x: Array) -> Array:
        """Transpose (*batch, positions, heads or 1) to (*batch, key heads, groups, positions)."""
        x = jnp.swapaxes(x, -1, -2)
        split = (self.key_heads, self.groups) if x.shape[-2] == self.heads else (1, 1)
        x = x.reshape(*x.shape[:-2], *split, x.shape[-1])
        return x.reshape((1,) * (len(self.batch) + 3 - x.ndim) + x.shape).astype(self.dtype)


class LaidScore:
    """Base of our score functions: their arrays have axes of heads, queries and keys.

    It is a pytree: the fields named in `arrays` are leaves. `along` gives the axis of an array
    along the sequence, which is split where the sequence is.
    """

    arrays: ClassVar[tuple[str, ...]] = ()
    along: ClassVar[dict[str, int]] = {}

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_with_keys(cls, _flatten_with_keys, _unflatten(cls), _flatten)

    def check(self, outline: Outline) -> None:
        """Raise an error for arrays that do not match the sizes of the attention."""
        raise NotImplementedError

    def laid(self, outline: Outline) -> tuple[tuple[Array, ...], ...]:
        """Return arrays (*batch, head, group, query, key): by head, by query, by key."""
        raise NotImplementedError

    def of_block(
        self, score: Array, laid: tuple[tuple[Array, ...], ...], query: Array, key: Array
    ) -> Array:
        """Return the scores of a block, from its part of the laid arrays and from positions."""
        raise NotImplementedError


def _flatten(x):
    static = tuple(f.name for f in dataclasses.fields(x) if f.name not in x.arrays)
    return [getattr(x, n) for n in x.arrays], tuple((n, getattr(x, n)) for n in static)


def _flatten_with_keys(x):
    leaves, static = _flatten(x)
    keys = map(jax.tree_util.GetAttrKey, x.arrays)
    return list(zip(keys, leaves, strict=True)), static


def _unflatten(cls):
    def unflatten(static, leaves):  # unchecked: leaves may be tangents, or none
        x = object.__new__(cls)
        for name, y in (*static, *zip(cls.arrays, leaves, strict=True)):
            object.__setattr__(x, name, y)
        return x

    return unflatten


class _Closure:
    """A plain function, traced with its closed-over arrays as arguments."""

    def __init__(self, function: Callable, closed: Any):
        self.function, self.closed = function, closed
        self.key = tuple(jax.typeof(x) for x in closed.consts)

    def __eq__(self, other: Any) -> bool:
        same = isinstance(other, _Closure) and self.function is other.function
        return same and self.key == other.key

    def __hash__(self) -> int:
        return hash((id(self.function), self.key))

    def __call__(self, arrays: tuple[Array, ...], *scalars: Array) -> Array:
        from jax.extend.core import ClosedJaxpr, jaxpr_as_fun  # which imports Pallas

        if not arrays:
            return jnp.asarray(self.function(*scalars))
        _, *indices = scalars
        if any(varies_over(x) for x in indices):
            raise NotImplementedError(
                "jsoftmax: where the sequence is split over a mesh, `score_fn` cannot be a "
                "function that closes over arrays. Make it a callable pytree with the arrays as "
                "leaves, by `jax.tree_util.register_dataclass`."
            )
        closed = ClosedJaxpr(self.closed.jaxpr, arrays)
        (result,) = jaxpr_as_fun(closed)(*scalars)
        return result


@dataclasses.dataclass(frozen=True)
class _Structure:
    """A callable pytree without its leaves."""

    tree: Any

    def __call__(self, arrays: tuple[Array, ...], *scalars: Array) -> Array:
        return jnp.asarray(jax.tree.unflatten(self.tree, arrays)(*scalars))


def read_score_fn(score_fn: Any, outline: Outline) -> tuple[tuple[Array, ...], Any]:
    """Return the arrays of a score function, and its static, hashable rest.

    Raises:
        TypeError: for an object that is not callable, and for results that are not real numbers.
        ValueError: for arrays that do not match, and for results that are not scalars.
    """
    function = outline.function
    if score_fn is None:
        return (), None
    if not callable(score_fn):
        raise TypeError(
            f"jsoftmax.{function}: `score_fn` must be a function of (score, "
            f"{', '.join(INDICES)}), got {type(score_fn).__name__}. An array that is added to "
            "scores is a `bias`."
        )
    if isinstance(score_fn, LaidScore):
        score_fn.check(outline)
    leaves, tree = jax.tree.flatten(score_fn)
    scalars = [jax.ShapeDtypeStruct((), outline.dtype)]
    scalars += [jax.ShapeDtypeStruct((), jnp.int32)] * len(INDICES)
    if len(leaves) == 1 and leaves[0] is score_fn:
        plain: Any = score_fn
        closed, result = jax.make_jaxpr(plain, return_shape=True)(*scalars)
        arrays, applied = tuple(closed.consts), _Closure(plain, closed)
    else:
        arrays = tuple(checks.as_array(function, "score_fn", x) for x in leaves)
        applied = _Structure(tree)
        if isinstance(score_fn, LaidScore):
            return arrays, applied
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)
        result = jax.eval_shape(applied, shapes, *scalars)
    if getattr(result, "shape", None) != ():
        raise ValueError(
            f"jsoftmax.{function}: `score_fn` must return a scalar for a score and four indices, "
            f"got {result}; it is called with scalars, and mapped over all positions."
        )
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(
            f"jsoftmax.{function}: `score_fn` must return a real number, got dtype {result.dtype}."
        )
    return arrays, applied


def laid_score(
    applied: Any, arrays: tuple[Array, ...], outline: Outline
) -> tuple[tuple[Array, ...], ...]:
    """Return arrays by head, by query, by key, and whole ones."""
    if (ours := _ours(applied, arrays)) is not None:
        return *ours.laid(outline), ()
    return (), (), (), arrays


def axes_of_places(applied: Any) -> tuple[int | None, ...]:
    """Return each array's axis along the sequence; an empty tuple if no array has one."""
    ours = _ours(applied, None)
    if ours is None or not ours.along:
        return ()
    return tuple(ours.along.get(name) for name in ours.arrays)


def numbers_of(outline: Outline) -> tuple[Array, Array]:
    """Return the indices of batch entries and of heads, with the axes of scores."""
    entries = jnp.arange(math.prod(outline.batch), dtype=jnp.int32)
    entries = entries.reshape(*outline.batch, 1, 1, 1, 1)
    heads = jnp.arange(outline.heads, dtype=jnp.int32)
    lead = (1,) * len(outline.batch)
    return entries, heads.reshape(*lead, outline.key_heads, outline.groups, 1, 1)


def with_score_fn(z: Array, applied: Any, moving: Any, fixed: Any, offset: int) -> Array:
    """Apply the score function to the scores of a block."""
    query = fixed.row_places + (offset if fixed.offset is None else fixed.offset)
    key = fixed.column_places
    if (ours := _ours(applied, None)) is not None:
        return ours.of_block(z, (moving.of_heads, moving.of_queries, moving.of_keys), query, key)

    return _elementwise(applied, moving.whole, z, fixed.entries, fixed.heads, query, key)


def _ours(applied, arrays):
    if isinstance(applied, _Structure):
        arrays = (None,) * applied.tree.num_leaves if arrays is None else arrays
        found = jax.tree.unflatten(applied.tree, arrays)
        return found if isinstance(found, LaidScore) else None
    return None


def _elementwise(function: Callable, arrays: Any, z: Array, *indices: Array) -> Array:
    """Map function(arrays, *scalars) over every entry of z, over the axes of each array."""

    def mapped(arrays, z, *indices):
        def of_scalars(*scalars):
            return function(arrays, *scalars).astype(z.dtype)

        has = [(True,) * z.ndim, *(tuple(n != 1 for n in x.shape) for x in indices)]
        kept = [x.reshape([n for n, h in zip(x.shape, own, strict=True) if h])
                for x, own in zip((z, *indices), has, strict=True)]  # fmt: skip
        for axes in list(zip(*has, strict=True))[::-1]:
            of_scalars = jax.vmap(of_scalars, in_axes=tuple(0 if h else None for h in axes))
        return of_scalars(*kept)

    spec = jax.typeof(z).sharding.spec
    if all(part is None for part in spec):
        return mapped(arrays, z, *indices)
    if not isinstance(function, _Closure):
        # On Explicit axes JAX does not index by a split array: there XLA decides its layout.
        decided: Any = jax.sharding.auto_axes(mapped, out_sharding=spec)
        return decided(arrays, z, *indices)
    # A program that was traced on Explicit axes stays on them: all mapped arrays are split alike.
    own = ([s if n != 1 else None for s, n in zip(spec, x.shape, strict=True)] for x in indices)
    indices = tuple(
        jax.sharding.reshard(x, jax.sharding.PartitionSpec(*parts)) if any(parts) else x
        for x, parts in zip(indices, own, strict=True)
    )
    return mapped(arrays, z, *indices)
