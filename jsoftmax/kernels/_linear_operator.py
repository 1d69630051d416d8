"""Linear maps computed by a kernel, and transposed by another.

A rule for `jvp` may call one. Reverse mode then transposes it by the kernel given for that, and
further derivatives, in the residuals of the map, come from a reference in plain jnp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = Any


@dataclasses.dataclass(frozen=True)
class LinearOperator:
    """A map of (residuals, x) that is linear in x.

    `transposed` maps (residuals, cotangent of the result) to the cotangent of x. `reference`
    computes the same as `forward` in plain jnp: derivatives in the residuals are taken from it.
    """

    forward: Callable[[Tree, Tree], Tree]
    transposed: Callable[[Tree, Tree], Tree]
    reference: Callable[[Tree, Tree], Tree]

    def __call__(self, residuals: Tree, x: Tree) -> Tree:
        known, of_residuals = jax.tree.flatten(residuals)
        moving, of_x = jax.tree.flatten(x)
        flat = _Flat(self, of_residuals, of_x, len(known))
        results = _operator.bind(*known, *moving, flat=flat)
        return jax.tree.unflatten(flat.structure([*known, *moving]), results)


@dataclasses.dataclass(frozen=True)
class _Flat:
    """An operator with flat arguments: first the residuals, then x."""

    operator: LinearOperator
    of_residuals: Any
    of_x: Any
    count: int  # of residuals

    def trees(self, arguments):
        known, moving = arguments[: self.count], arguments[self.count :]
        return jax.tree.unflatten(self.of_residuals, known), jax.tree.unflatten(self.of_x, moving)

    def results(self, *arguments):
        return jax.tree.leaves(self.operator.forward(*self.trees(arguments)))

    def structure(self, arguments):
        shapes = jax.eval_shape(self.operator.forward, *self.trees(arguments))
        return jax.tree.structure(shapes)

    def reference(self, *arguments):
        return jax.tree.leaves(self.operator.reference(*self.trees(arguments)))

    def turned(self, shapes: list[Any], of_results: Any) -> _Flat:
        """Return the transposed map, for an x of these shapes."""
        forward, transposed, reference = (
            self.operator.forward, self.operator.transposed, self.operator.reference,
        )  # fmt: skip
        x = jax.tree.unflatten(self.of_x, shapes)

        def turned_reference(residuals, cotangent):
            (found,) = jax.linear_transpose(lambda x: reference(residuals, x), x)(cotangent)
            return found

        operator = LinearOperator(transposed, forward, turned_reference)
        return _Flat(operator, self.of_residuals, of_results, self.count)


_operator = Primitive("jsoftmax_linear_operator")
_operator.multiple_results = True


@_operator.def_abstract_eval
def _shapes(*avals, flat):
    # From a traced program, which also records how arrays vary over the axes of `shard_map`.
    traced = jax.make_jaxpr(flat.results)(*avals)
    return [x.update(weak_type=False) for x in traced.out_avals]


@_operator.def_impl
def _computed(*arguments, flat):
    return jax.jit(flat.results)(*arguments)


mlir.register_lowering(
    _operator,
    mlir.lower_fun(lambda *arguments, flat: flat.results(*arguments), multiple_results=True),
)


def _moved(primals, tangents, *, flat):
    results = _operator.bind(*primals, flat=flat)
    known = list(primals[: flat.count])
    total = [None] * len(results)

    def add(terms):
        for i, x in enumerate(terms):
            total[i] = x if total[i] is None else total[i] + x

    along = tangents[flat.count :]
    if not all(isinstance(x, ad.Zero) for x in along):
        add(_operator.bind(*known, *map(ad.instantiate_zeros, along), flat=flat))
    places = [i for i, x in enumerate(tangents[: flat.count]) if not isinstance(x, ad.Zero)]
    if places:

        def at(*moved):
            arguments = list(primals)
            for i, x in zip(places, moved, strict=True):
                arguments[i] = x
            return flat.reference(*arguments)

        still, moved = (tuple(x[i] for i in places) for x in (known, tangents))
        add(jax.jvp(at, still, moved)[1])
    return results, [
        jnp.zeros_like(x) if d is None else d for x, d in zip(results, total, strict=True)
    ]


ad.primitive_jvps[_operator] = _moved


def _transposed(cotangents, *arguments, flat):
    known, moving = arguments[: flat.count], arguments[flat.count :]
    shapes = [_outline(x.aval) for x in moving]
    turned = flat.turned(shapes, flat.structure([*known, *shapes]))
    found = _operator.bind(*known, *map(ad.instantiate_zeros, cotangents), flat=turned)
    return [None] * flat.count + found


ad.primitive_transposes[_operator] = _transposed


def _outline(x):
    varies = {"sharding": x.sharding, "manual_axis_type": x.manual_axis_type}
    return jax.ShapeDtypeStruct(x.shape, x.dtype, **(varies if x.manual_axis_type.varying else {}))


def _batched(arguments, axes, *, flat):
    pairs = list(zip(arguments, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)

    def first(x, axis):
        return jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)

    # x is batched as a whole, so that its cotangent is.
    moving = [first(*pair) for pair in pairs[flat.count :]]
    places = list(axes[: flat.count])

    def over(function):
        def batched(residuals, x):
            leaves, structure = jax.tree.flatten(residuals)

            def of_one(leaves, x):
                return function(jax.tree.unflatten(structure, leaves), x)

            return jax.vmap(of_one, in_axes=(places, 0))(leaves, x)

        return batched

    operator = flat.operator
    functions = operator.forward, operator.transposed, operator.reference
    flat = dataclasses.replace(flat, operator=LinearOperator(*map(over, functions)))
    results = _operator.bind(*arguments[: flat.count], *moving, flat=flat)
    return results, [0] * len(results)


batching.primitive_batchers[_operator] = _batched
