"""Set up devices and processes for the command line, before JAX initialises any device."""

from __future__ import annotations

import os

import jax

from examples.language_model.config import Mistake


def start(devices: int, *, coordinator: str | None, processes: int, process: int, timeout: int):
    """Force host devices where CPUs are few, and join the other processes.

    Args:
        devices: the number of devices of the mesh, in all processes together.
        coordinator: HOST:PORT of process 0; None for one process.
        processes: the number of processes.
        process: the index of this process.
        timeout: after so many seconds without a heartbeat a process counts as dead, and all others
            end with an error.
    """
    if devices % processes:
        raise Mistake(f"--mesh of {devices} devices is not a multiple of --processes {processes}.")
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not forced and devices > 1:
        jax.config.update("jax_num_cpu_devices", devices // processes)
    if coordinator is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            coordinator,
            num_processes=processes,
            process_id=process,
            coordinator_bind_address=coordinator if process == 0 else None,  # no other interface
            heartbeat_timeout_seconds=timeout,
            initialization_timeout=120,
        )
    if devices > jax.device_count():
        raise Mistake(
            f"--mesh needs {devices} devices; there are {jax.device_count()} of "
            f"{jax.devices()[0].device_kind}."
        )
