"""Facts about the machine of a measurement: date, processor, cores, versions."""

import datetime
import importlib.metadata
import os
import pathlib
import platform

import jax

PACKAGES = (
    "jax", "jaxlib", "jsoftmax", "flax", "numpy", "optax", "jaxopt", "torch", "entmax", "tokamax",
    "gensim", "netcal", "torchmetrics", "scikit-learn", "mapie", "scipy", "softjax",
)  # fmt: skip


def machine() -> dict[str, object]:
    """Facts to print over every table, ready for JSON."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": versions(),
    }


def sentence(facts: dict) -> str:
    """The same facts as a line of text."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['date']}, {facts['processor']} ({facts['cores']} cores), "
        f"load {facts['load']} at the start, device {facts['device']}, Python {facts['python']}, "
        f"{packages}."
    )


def versions() -> dict[str, str]:
    """The version of every package here that takes part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name, as the system tells it."""
    info = pathlib.Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
