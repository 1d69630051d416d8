"""Compile targets for hardware that this machine lacks."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# An H100 SXM as its maker describes it, in XLA's format for a GPU target.
H100 = """
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
_TPU = ("tpu", "libtpu", 'pip install "jax[tpu]"')
_GPU = ("cuda", "jax_cuda12_plugin", 'pip install "jax[cuda12]"')
TARGETS = {
    "v5e": (*_TPU, {"topology_name": "v5e:2x2"}),
    "v6e": (*_TPU, {"topology_name": "v6e:2x2"}),
    "v5p": (*_TPU, {"topology_name": "v5p:2x2x1"}),
    "h100": (
        *_GPU,
        {"topology_name": "h100", "target_config": H100, "topology": "1x1x1"},
    ),
}
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # no query of a cloud for the TPU
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # there is no driver
}


def missing(name: str) -> str | None:
    """Return the remedy where the compiler of a target is not installed."""
    _, package, remedy, _ = TARGETS[name]
    return None if importlib.util.find_spec(package) else f"{package} is not installed: {remedy}"


def sharding_on(name: str) -> NamedSharding:
    """Return a sharding on one device of a target. Programs are traced on the CPU."""
    from jax.experimental import topologies

    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")
    platform, _, _, described = TARGETS[name]
    found: Any = topologies.get_topology_desc(platform=platform, **described)
    return NamedSharding(Mesh(np.array(found.devices[:1]), ("one",)), PartitionSpec())
