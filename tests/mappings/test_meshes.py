"""Losses of rows with classes split over a mesh; laws/test_laws_split.py has the mappings."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jsoftmax

LABELS = np.array([1, 2])
SPLIT, ROWS = PartitionSpec("rows", "classes"), PartitionSpec("rows")
LOSSES = {"cross_entropy": jsoftmax.cross_entropy, "entmax_loss": jsoftmax.entmax_loss}
Z = 2 * np.random.default_rng(0).standard_normal((2, 16))
WEIGHTS = np.array([1.0, -0.5])


def mesh_of(kind):
    return jax.make_mesh((2, 4), ("rows", "classes"), axis_types=(kind, kind))


def weighed(name, labels, weights):
    return lambda z: (LOSSES[name](z, labels) * weights).sum()


def gradient_of_the_whole(name):
    return jax.grad(weighed(name, jnp.asarray(LABELS), WEIGHTS))(jnp.asarray(Z))


@pytest.mark.parametrize("name", LOSSES)
def test_under_jit_only_numbers_of_one_per_row_travel(name):
    gradient = jax.jit(jax.grad(weighed(name, jnp.asarray(LABELS), WEIGHTS)))
    parts = jax.device_put(jnp.asarray(Z), NamedSharding(mesh_of(AxisType.Auto), SPLIT))
    text = gradient.lower(parts).compile().as_text()
    assert not re.search(r"all-gather|all-to-all|collective-permute|reduce-scatter", text)
    for sizes in re.findall(r"= \w+\[([\d,]*)\]\S* all-reduce", text):
        assert np.prod([int(n) for n in sizes.split(",") if n]) <= 2
    np.testing.assert_allclose(gradient(parts), gradient_of_the_whole(name), atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_explicit_meshes_give_the_same(name):
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        labels, weights = (jax.device_put(x, NamedSharding(mesh, ROWS)) for x in (LABELS, WEIGHTS))
        parts = jax.device_put(jnp.asarray(Z), NamedSharding(mesh, SPLIT))
        gradient = jax.jit(jax.grad(weighed(name, labels, weights)))(parts)
    np.testing.assert_allclose(np.asarray(gradient), gradient_of_the_whole(name), atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_shard_map_gives_the_same(name):
    split = jax.shard_map(
        lambda z, labels: LOSSES[name](z, labels, axis_name="classes"),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(SPLIT, ROWS),
        out_specs=ROWS,
    )
    labels = jnp.asarray(LABELS)
    gradient = jax.jit(jax.grad(lambda z: (split(z, labels) * WEIGHTS).sum()))(jnp.asarray(Z))
    np.testing.assert_allclose(gradient, gradient_of_the_whole(name), atol=1e-12)
