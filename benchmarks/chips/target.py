"""A TPU or a GPU that is not here, as something to compile for."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks.chips.hlo import Program
from jsoftmax.kernels.trial._absent_chips import H100

KINDS = {"tpu": "TPU v5e", "gpu": "H100"}
AXES = {"data": 2, "model": 4}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program on one device of its target."""

    seconds: float
    arguments: int  # bytes,
    results: int
    temporaries: int
    program: Program

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are divided by those of a peer."""
        totals = self.program.totals
        return {
            "temporaries": self.temporaries,
            "traffic": totals.traffic,
            "cycles": totals.cycles,
            "launches": totals.launches,
        }


class Target:
    """One device, or a mesh with axes of a type: 2 × 4, or as `sizes` says."""

    def __init__(
        self,
        platform: str,
        axes: AxisType | None = None,
        topology: str = "v5e:2x4",
        sizes: dict[str, int] | None = None,
    ):
        if axes is None:
            axes, sizes = AxisType.Auto, {"one": 1}
        sizes = AXES if sizes is None else sizes
        count = math.prod(sizes.values())
        if platform == "tpu":
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        else:
            found = topologies.get_topology_desc(
                platform="cuda", topology_name="h100", target_config=H100, topology=f"1x1x{count}"
            )
        devices = np.array(found.devices[:count]).reshape(*sizes.values())
        self.mesh = Mesh(devices, tuple(sizes), axis_types=(axes,) * len(sizes))

    def array(self, shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> Any:
        """The outline of an array that lies on the target."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, spec))

    def compile(self, function: Callable, *arrays: Any) -> Compiled:
        """Compile a function of such arrays."""
        start = time.perf_counter()
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            compiled = jax.jit(function).lower(*arrays).compile()
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        return Compiled(
            seconds,
            memory.argument_size_in_bytes,
            memory.output_size_in_bytes,
            memory.temp_size_in_bytes,
            Program(compiled.as_text()),
        )
