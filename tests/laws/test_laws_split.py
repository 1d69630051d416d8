"""A class axis split over a vmap axis or a mesh gives the same, by sums of one number per row."""

import functools
import math
import operator
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax as js
from tests.catalogue import (
    CAPPED,
    ENTMAX_15,
    NORMMAX,
    SIGMOID,
    SOFTMAX,
    SPARSEMAX,
    TOPK,
    TRACED_15,
    each,
)
from tests.marks import some

ROWS, CLASSES = 2, 8
LOGITS = np.random.default_rng(2).standard_normal((ROWS, CLASSES))
LOGITS[1, 3] = -np.inf
WEIGHTS = np.arange(ROWS * CLASSES, dtype=float).reshape(ROWS, CLASSES)

near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


def mesh(shape, names, kind=AxisType.Auto):
    """The eight forced host devices, or as many of them as the shape has."""
    devices = np.array(jax.devices()[: math.prod(shape)]).reshape(shape)
    return Mesh(devices, names, axis_types=(kind,) * len(names))


def three_orders(mapping):
    """Value, gradient and Hessian of ⟨w, p⟩, in one compilation."""

    def weighed(z):
        p = mapping(z)
        return (WEIGHTS * p).sum(), p

    def gradient(z):
        g, p = jax.grad(weighed, has_aux=True)(z)
        return g, (g, p)

    return jax.jit(jax.jacfwd(gradient, has_aux=True))


@functools.cache
def whole(mapping):
    """The same, on one device."""
    return three_orders(mapping)(LOGITS)


def compare(actual, desired):
    """(Hessian, (gradient, value)) of the two."""
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        near(one, other)


NAME = operator.attrgetter("name")
MEMBERS = [SOFTMAX, ENTMAX_15, TRACED_15, NORMMAX, TOPK, SIGMOID, CAPPED]


@pytest.mark.parametrize("mapping", some(MEMBERS, [TRACED_15, TOPK, CAPPED]), ids=NAME)
def test_split_over_a_vmap_axis(mapping):
    """Value, gradient and Hessian, differentiated outside."""
    split = jax.vmap(
        functools.partial(mapping, axis_name="parts"), in_axes=1, out_axes=1, axis_name="parts"
    )

    def reassembled(z):
        return split(z.reshape(ROWS, 4, CLASSES // 4)).reshape(ROWS, CLASSES)

    compare(three_orders(reassembled)(LOGITS), whole(mapping))


@pytest.mark.parametrize(**each(MEMBERS))
def test_split_over_devices_in_shard_map(mapping):
    """Rows over two of them, classes over four: value, gradient and Hessian, from outside."""
    split = jax.shard_map(
        functools.partial(mapping, axis_name="classes"),
        mesh=mesh((2, 4), ("rows", "classes")),
        in_specs=P("rows", "classes"),
        out_specs=P("rows", "classes"),
    )
    compare(three_orders(split)(LOGITS), whole(mapping))


@pytest.mark.parametrize(**each([SOFTMAX, TRACED_15, TOPK]))
def test_differentiated_inside_shard_map(mapping):
    """With check_vma on, which is the default, a psum of the loss has the right gradient."""

    def gradient(z, weights):
        def loss(z):
            p = mapping(z, axis_name="classes")
            return jax.lax.psum((weights * p).sum(), "classes")

        return jax.grad(loss)(z)

    spec = P("rows", "classes")
    split = jax.shard_map(
        gradient,
        mesh=mesh((2, 4), ("rows", "classes")),
        in_specs=(spec, spec),
        out_specs=spec,
    )
    near(jax.jit(split)(LOGITS, WEIGHTS), whole(mapping)[1][0])


@pytest.mark.parametrize(
    "per_row",
    [
        js.logsumexp,
        functools.partial(js.smoothmax, alpha=1.5),
        functools.partial(js.soft_argmax, alpha=1.5),
        lambda z, **options: js.entropy(js.softmax(z, **options), **options),
        js.log_partition,
        js.heat_capacity,
    ],
    ids=["logsumexp", "smoothmax", "soft_argmax", "entropy", "log_partition", "heat_capacity"],
)
def test_what_is_one_number_a_row_is_the_same_on_every_part(per_row):
    logits = np.where(np.isinf(LOGITS), 0, LOGITS)
    split = jax.shard_map(
        functools.partial(per_row, axis_name="classes"),
        mesh=mesh((8,), ("classes",)),
        in_specs=P(None, "classes"),
        out_specs=P(),
    )
    gradient = jax.grad(lambda z: split(z).sum())
    value, slope = jax.jit(lambda z: (split(z), gradient(z)))(logits)
    near(value, per_row(logits))
    near(slope, jax.jit(jax.grad(lambda z: per_row(z).sum()))(logits))


def test_nan_and_infinities_on_one_part_reach_all_the_others():
    logits = np.zeros((4, CLASSES))
    logits[0, 0], logits[1, 7], logits[2, 2] = np.nan, np.inf, -np.inf
    for mapping in (SOFTMAX, ENTMAX_15, TOPK):
        split = jax.shard_map(
            functools.partial(mapping, axis_name="classes"),
            mesh=mesh((8,), ("classes",)),
            in_specs=P(None, "classes"),
            out_specs=P(None, "classes"),
        )
        near(jax.jit(split)(logits), jax.jit(mapping)(logits))


COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast"
    r"|reduce-scatter|ragged-all-to-all)(?:-start)?\("
)


def collectives(compiled) -> list[tuple[str, int]]:
    """(operation, size of the largest array it moves) for each collective in compiled HLO."""
    found = []
    for shapes, operation in COLLECTIVE.findall(compiled.as_text()):
        sizes = [
            math.prod(int(n) for n in dimensions.split(",") if n)
            for dimensions in re.findall(r"\w+\[([\d,]*)\]", shapes)
        ]
        found.append((operation, max(sizes)))
    return found


@pytest.mark.parametrize(**each([SOFTMAX, SPARSEMAX, ENTMAX_15, TRACED_15, NORMMAX, TOPK]))
def test_under_plain_jit_a_split_class_axis_costs_one_number_a_row(mapping):
    """Only all-reduces, none larger than the number of rows: in the value and in the gradient."""
    assert_row_sized(mapping, rows=4, classes=64)


@pytest.mark.parametrize("classes", [1000, 1024, 2056, 4096])
@pytest.mark.parametrize(**each([SOFTMAX, ENTMAX_15]))
def test_that_holds_for_long_rows_of_any_even_split(mapping, classes):
    """Also where the parts are not a power of two, and where rows are reduced in two levels."""
    assert_row_sized(mapping, rows=4, classes=classes)


def assert_row_sized(mapping, rows, classes):
    """Compile value and gradient with the classes over eight devices; look, run and compare."""
    split = NamedSharding(mesh((8,), ("classes",)), P(None, "classes"))

    def both(z, weights):
        p, back = jax.vjp(mapping, z)
        return p, back(weights)[0]

    logits, weights = np.random.default_rng(3).standard_normal((2, rows, classes))
    compiled = jax.jit(both, in_shardings=split, out_shardings=split).lower(logits, weights)
    compiled = compiled.compile()
    moved = collectives(compiled)
    assert moved, "nothing was split"
    assert {operation for operation, _ in moved} == {"all-reduce"}
    assert max(size for _, size in moved) <= rows
    actual = compiled(*jax.device_put((logits, weights), split))
    for one, other in zip(actual, jax.jit(both)(logits, weights), strict=True):
        near(one, other)


@pytest.mark.parametrize("mapping", some(MEMBERS[:5], [ENTMAX_15, TOPK]), ids=NAME)
def test_on_an_explicit_mesh(mapping):
    """Value and gradient, with the sharding of the scores in the type of the result."""
    explicit = mesh((2, 4), ("rows", "classes"), AxisType.Explicit)
    with jax.set_mesh(explicit):
        z, weights = jax.device_put(
            (LOGITS, WEIGHTS), NamedSharding(explicit, P("rows", "classes"))
        )
        p = jax.jit(mapping)(z)
        gradient = jax.jit(jax.grad(lambda z: (weights * mapping(z)).sum()))(z)
        assert jax.typeof(p).sharding.spec == P("rows", "classes")
        _, (right, value) = whole(mapping)
        near(np.asarray(p), value)
        near(np.asarray(gradient), right)


def test_long_rows_on_an_explicit_mesh():
    """Where no reshape may cut a row, it is reduced as it is."""
    explicit = mesh((8,), ("classes",), AxisType.Explicit)
    logits = np.random.default_rng(4).standard_normal((2, 4096))
    with jax.set_mesh(explicit):
        z = jax.device_put(jnp.asarray(logits), NamedSharding(explicit, P(None, "classes")))
        for mapping in (SOFTMAX, ENTMAX_15):
            near(np.asarray(jax.jit(mapping)(z)), jax.jit(mapping)(logits))
