"""Every public function and module with its rows, or its classes, split over a mesh of 2 × 4.

Rows lie over `data` and classes over `model`: under plain `jit` on Auto axes and on Explicit ones,
called eagerly on these, and in `shard_map`, which checks types by default. Values and gradients are
those of one device. docs/meshes.md has the table of what is tested here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.eager_calls import CALLS, Call, public
from tests.eager_modules import MODULE_CALLS

WAYS = {
    "jit": AxisType.Auto, "Explicit": AxisType.Explicit, "eager": AxisType.Explicit,
    "shard_map": AxisType.Auto,
}  # fmt: skip
PLACES = {"rows": "data", "classes": "model"}
CLASSES = (8, 12)  # sizes of class axes, which nothing else has
ROWS = 4


@functools.cache
def mesh(kind: AxisType) -> Any:
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)


def spec_of(shape: tuple[int, ...], has_rows: bool, places: str) -> P:
    """Where an array of this shape lies."""
    parts: list[str | None] = [None] * len(shape)
    if has_rows and "rows" in places and shape[:1] == (ROWS,):
        parts[0] = "data"
    if "classes" in places:
        for axis, size in enumerate(shape):
            if size in CLASSES:
                parts[axis] = "model"
    return P(*parts)


def specs_of(operands: Any, places: str) -> list[Any]:
    """Of operands or results: arrays have rows; tables, trees and parameters have none."""

    def of_operand(x):
        if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
            is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            return P() if is_key else spec_of(x.shape, True, places)
        return jax.tree.map(lambda leaf: spec_of(leaf.shape, False, places), x)

    return [of_operand(x) for x in operands]


def axes_of(specs: Any) -> set[Any]:
    leaves = jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, P))
    return {name for spec in leaves for name in spec} - {None}


@dataclasses.dataclass(frozen=True)
class Split:
    """A call, what of it is split, and in which way."""

    call: Call
    places: str
    way: str

    @property
    def specs(self) -> list[Any]:
        return specs_of(self.call.operands(0), self.places)

    def exists(self) -> bool:
        return axes_of(self.specs) == {PLACES[name] for name in self.places.split(" and ")}

    def found(self) -> tuple[Any, Any]:
        """The value and the gradient."""
        on = mesh(WAYS[self.way])
        call, operands = self.call, self.call.operands(0)
        if self.way == "shard_map":
            call = dataclasses.replace(call, function=self.mapped(operands))
        else:
            operands = jax.tree.map(
                lambda x, s: jax.device_put(x, NamedSharding(on, s)), operands, self.specs
            )
        with jax.set_mesh(on):
            run = (lambda f: f) if self.way == "eager" else jax.jit
            value = run(call.value)(operands)
            return value, run(call.gradient)(operands) if call.is_differentiable else None

    def mapped(self, operands: list[Any]) -> Any:
        more = {"axis_name": "model"} if "classes" in self.places else {}
        results = jax.eval_shape(self.call.value, operands)
        leaves, structure = jax.tree.flatten(results)
        out = structure.unflatten(specs_of(leaves, self.places))
        function = functools.partial(self.call.function, **more)
        return jax.shard_map(function, mesh=mesh(AxisType.Auto), in_specs=tuple(self.specs), out_specs=out)


@functools.cache
def expected(call: Call) -> tuple[Any, Any]:
    operands = call.operands(0)
    gradient = jax.jit(call.gradient)(operands) if call.is_differentiable else None
    return jax.jit(call.value)(operands), gradient
