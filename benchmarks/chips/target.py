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

# An H100 SXM as its maker describes it, in the form in which XLA asks for a GPU.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a"
  device_address_bits: 64 name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
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
        """What can be divided by that of a peer."""
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
                platform="cuda", topology_name="h100", target_config=_H100, topology=f"1x1x{count}"
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
