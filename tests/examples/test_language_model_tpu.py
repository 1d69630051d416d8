"""The training step of examples/ compiled for a TPU that is not there, v5e of 2 × 4."""

import dataclasses
import os
import re

import jax
import pytest
from jax.experimental import topologies

from examples.language_model.config import Config
from examples.language_model.train import Training, make_mesh


@pytest.fixture(scope="module")
def mesh():
    """A mesh of the eight chips, described by the compiler alone."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no server to ask
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
    return make_mesh(2, 4, devices=topology.devices)


@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
    "change", [{}, {"alpha": 1.5}, {"remat": True, "accumulate": 2}], ids=["", "sparse", "remat"]
)
def test_the_step_compiles_for_eight_chips(mesh, change):
    """Every part of a table and of the windows stays where it lies: only sums travel."""
    with jax.enable_x64(False):
        training = Training(dataclasses.replace(Config(layers=2), **change), mesh)
        compiled = training.compile()
    assert training.mesh.devices.flat[0].platform == "tpu"
    assert not re.findall(r"= \S+ all-(?:gather|to-all)(?:-start)?\(", compiled.as_text())
    parts = compiled.memory_analysis().argument_size_in_bytes
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(training.abstract))
    assert parts < whole / 3, "the state is split over the four parts of the model axis"
