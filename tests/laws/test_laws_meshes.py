"""Every public function and module with its rows, classes or both split over a mesh of 2 × 4.

Rows lie over `data` and classes over `model`: under plain `jit` on Auto axes and on Explicit ones,
called eagerly on these, and in `shard_map`, which checks types by default. Values and gradients are
those of one device. docs/meshes.md has the table of the tests here and in `tests/attention`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax.calibration
from jsoftmax.vocabulary import Candidates
from tests.eager_calls import CALLS, Call, public
from tests.eager_modules import MODULE_CALLS

WAYS = {
    "jit": AxisType.Auto, "Explicit": AxisType.Explicit, "eager": AxisType.Explicit,
    "shard_map": AxisType.Auto, "vmap": AxisType.Auto,
}  # fmt: skip
PLACES = {"rows": "data", "classes": "model", "both": "model"}
CLASSES = (8, 12)  # sizes of class axes, which nothing else has
ROWS = 4

# Axes of these sizes are widths here, not classes.
WITHOUT_CLASSES = {
    "dot_product_attention", "attention_weights", "attention_fn", "merge_attention",
    "attention_skipped_share", "paged_attention",
    "nnx.AdaptivelySparseAttention", "linen.AdaptivelySparseAttention", "visible_keys",
    "ALiBi", "T5Buckets", "ForgettingGate",
    "nnx.ScalableAttention", "linen.ScalableAttention",
}  # fmt: skip
# In `shard_map` each part has rows of its own, and these make something of all of them.
OF_ALL_ROWS = {
    "row_sgd", "row_adagrad", "row_adam", "gathered_classes", "in_batch_candidates",
    "uniform_sampler", "log_uniform_sampler", "unigram_sampler", "reinforce_leave_one_out",
    "target_sampling_loss", "AliasTable", "nnx.Router", "linen.Router",
}  # fmt: skip
OVER_ROWS = {
    "route",
    "contrastive_loss",
    "sigmoid_contrastive_loss",
}  # their `axis_name` is that of the rows, as in calibration
READS_NUMBERS = {"target_partitions"}  # of labels, in Python
QUICK = {
    "smoothmax - classes - eager", "linear_cross_entropy_sum - rows - shard_map",
    "adaptive_cross_entropy - rows - shard_map", "linear_topk - classes - shard_map",
    "nnx.LinearSoftmax, loss - classes - Explicit", "row_adagrad - rows - Explicit",
    "expected_calibration_error - rows - shard_map", "linear_cross_entropy - classes - vmap",
    "temperature_scaling - rows - vmap",
}  # fmt: skip


@functools.cache
def mesh(kind: AxisType) -> Any:
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)


def spec_of(shape: tuple[int, ...], has_rows: bool, places: str) -> P:
    """Where an array of this shape lies."""
    parts: list[str | None] = [None] * len(shape)
    if has_rows and places in ("rows", "both") and shape[:1] == (ROWS,):
        parts[0] = "data"
    for axis, size in enumerate(shape):
        if places in ("classes", "both") and size in CLASSES:
            parts[axis] = "model"
    return P(*parts)


def is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def specs_of(operands: Any, places: str) -> list[Any]:
    """Of operands or results: arrays have rows; tables, trees and parameters have none."""

    def of_operand(x):
        if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
            return P() if is_key(x) else spec_of(x.shape, True, places)
        has_rows = isinstance(x, Candidates)  # the counts of labels
        return jax.tree.map(lambda leaf: spec_of(leaf.shape, has_rows, places), x)

    return [of_operand(x) for x in operands]


def spec_leaves(specs: Any) -> list[P]:
    return jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, P))


def is_split(specs: Any) -> bool:
    return any(name for spec in spec_leaves(specs) for name in spec)


def place_of(name: str, spec: P) -> int | None:
    """The axis that is split over the mesh axis `name`."""
    return list(spec).index(name) if name in spec else None


def has_axis_name(call: Call) -> bool:
    if call in MODULE_CALLS:
        return False
    return "axis_name" in inspect.signature(public(call.public_name)).parameters


@functools.cache
def operands_of(call: Call) -> list[Any]:
    return call.operands(0)


def title_of(call: Call) -> str:
    """The public name; of a module also the method."""
    if call not in MODULE_CALLS:
        return call.public_name
    return ", ".join(call.name.split(", ")[:2])


def is_of_calibration(call: Call) -> bool:
    return hasattr(jsoftmax.calibration, call.public_name) or call.public_name in OVER_ROWS


@dataclasses.dataclass(frozen=True)
class Split:
    """A call, its split axes, and the kind of split."""

    call: Call
    places: str
    way: str

    @property
    def name(self) -> str:
        return f"{title_of(self.call)} - {self.places} - {self.way}"

    @functools.cached_property
    def specs(self) -> list[Any]:
        return specs_of(operands_of(self.call), self.places)

    def exists(self) -> bool:
        name = self.call.public_name
        if name in READS_NUMBERS or not is_split(self.specs):
            return False
        if self.places != "rows" and name in WITHOUT_CLASSES:
            return False
        if self.places == "both":
            axes = {axis for spec in spec_leaves(self.specs) for axis in spec}
            if self.way == "vmap" or not axes >= {"data", "model"}:
                return False
        if self.way in ("jit", "Explicit", "eager"):
            return True
        if self.way == "vmap" and not self.names_axis():
            return False  # which any function may be
        takes_classes = has_axis_name(self.call) and not is_of_calibration(self.call)
        if self.places == "classes":
            return takes_classes
        return name not in OF_ALL_ROWS and (takes_classes or self.places == "rows")

    def found(self) -> tuple[Any, Any]:
        """The value, and the gradient or None where there is none to compare."""
        on = mesh(WAYS[self.way])
        call, operands = self.call, operands_of(self.call)
        if self.way in ("shard_map", "vmap"):
            mapped = self.mapped if self.way == "shard_map" else self.vmapped
            call = dataclasses.replace(call, function=mapped(operands))
        else:
            operands = jax.tree.map(
                lambda x, s: jax.device_put(x, NamedSharding(on, s)), operands, self.specs
            )
        run = (lambda f: f) if self.way == "eager" else jax.jit
        with contextlib.nullcontext() if self.way == "vmap" else jax.set_mesh(on):
            value = run(call.value)(operands)
            if not self.has_gradient():
                return value, None
            return value, run(call.gradient)(operands)

    def mapped(self, operands: list[Any]) -> Any:
        """The function in `shard_map`; the sum of losses is added up over the parts of the rows."""
        more = {"axis_name": PLACES[self.places]} if self.names_axis() else {}
        results = jax.eval_shape(self.call.value, operands)
        leaves, structure = jax.tree.flatten(results)
        out = specs_of(leaves, self.places)

        def function(*operands):
            found = structure.flatten_up_to(self.call.function(*operands, **more))
            if self.call.public_name == "linear_cross_entropy_sum" and self.places != "classes":
                found = [jax.lax.psum(x, "data") for x in found]
            return structure.unflatten(found)

        return jax.shard_map(
            function,
            mesh=mesh(AxisType.Auto),
            in_specs=tuple(self.specs),
            out_specs=structure.unflatten(out),
        )

    def vmapped(self, operands: list[Any]) -> Any:
        """The function of the parts, stacked on a first axis that `vmap` gives the name."""
        axis = PLACES[self.places]
        parts = mesh(AxisType.Auto).shape[axis]
        leaves, structure = jax.tree.flatten(jax.eval_shape(self.call.value, operands))
        out = specs_of(leaves, self.places)
        places = [place_of(axis, s) for s in spec_leaves(self.specs)]
        inner = functools.partial(self.call.function, axis_name=axis)

        def of_parts(*given):
            found = inner(*jax.tree.unflatten(jax.tree.structure(tuple(operands)), given))
            return structure.flatten_up_to(found)

        def function(*operands):
            given = [
                x if i is None else jnp.stack(jnp.split(x, parts, i))
                for x, i in zip(jax.tree.leaves(operands), places, strict=True)
            ]
            axes = [None if i is None else 0 for i in places]
            found = jax.vmap(of_parts, axes, axis_name=axis, axis_size=parts)(*given)
            joined = [
                x[0] if (i := place_of(axis, s)) is None else jnp.concatenate(list(x), i)
                for x, s in zip(found, out, strict=True)
            ]
            return structure.unflatten(joined)

        return function

    def has_gradient(self) -> bool:
        return self.call.is_differentiable

    def names_axis(self) -> bool:
        """Functions take the axis of their classes; those of calibration that of their rows."""
        of_rows = is_of_calibration(self.call) and has_axis_name(self.call)
        return of_rows if self.places == "rows" else has_axis_name(self.call)

    def is_other_draw(self) -> bool:
        """Whether each part draws its rows from a key that all have."""
        keyed = any(is_key(x) for x in jax.tree.leaves(operands_of(self.call)))
        return keyed and self.way == "shard_map" and self.places != "classes"


@functools.cache
def expected(call: Call) -> tuple[Any, Any]:
    operands = operands_of(call)
    gradient = jax.jit(call.gradient)(operands) if call.is_differentiable else None
    return jax.jit(call.value)(operands), gradient


def first_of_each_name() -> list[Call]:
    calls: dict[str, Call] = {}
    for call in CALLS + MODULE_CALLS:
        calls.setdefault(title_of(call), call)
    return list(calls.values())


EVERY = [
    split
    for call in first_of_each_name()
    for places in PLACES
    for way in WAYS
    if (split := Split(call, places, way)).exists()
]
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]


def table() -> str:
    """Format the table of tests in docs/meshes.md."""
    columns = [(places, way) for places in PLACES for way in WAYS]
    columns.remove(("both", "vmap"))  # which has one axis
    known = {split.name for split in EVERY}
    lines = [
        "| | " + " | ".join(f"{places}, {way}" for places, way in columns) + " |",
        "|---|" + ":-:|" * len(columns),
    ]
    for call in first_of_each_name():
        marks = ["✓" if Split(call, *column).name in known else "" for column in columns]
        if any(marks):
            lines.append(f"| `{title_of(call)}` | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "split", [pytest.param(s, id=s.name, marks=[] if s.name in QUICK else NIGHTLY) for s in EVERY]
)
def test_values_and_gradients_are_those_of_one_device(split):
    found, right = split.found(), expected(split.call)
    if not split.has_gradient():
        right = right[0], None
    if split.is_other_draw():
        chex.assert_trees_all_equal_shapes(found, right)
        return
    found, right = (
        jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
        for tree in (found, right)
    )
    chex.assert_trees_all_close(found, right, rtol=1e-4, atol=2e-5)


def test_what_is_quick_exists():
    assert {split.name for split in EVERY} >= QUICK


def test_the_documentation_has_the_table():
    """To write it anew: python -m tests.laws.test_laws_meshes > docs/meshes.md, below its text."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "meshes.md"
    assert table() in page.read_text()


if __name__ == "__main__":
    print(table(), end="")
