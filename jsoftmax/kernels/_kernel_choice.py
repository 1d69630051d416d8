"""Choose between a kernel and XLA by the record, for each platform that may run a program."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jsoftmax.kernels._record import Entry, entries

FARTHEST = 4  # largest ratio of a size to the recorded one, or its inverse


def chosen(*operations: str, shape: tuple[Any, ...], dtype: Any, case: str = "") -> frozenset[str]:
    """Return the platforms where `implementation=None` chooses the kernel.

    A platform is returned if this process has devices of a recorded kind there, and if the kernel
    was right, and faster than XLA, at the nearest recorded shape: for each of the operations, with
    these versions of jsoftmax and jax. A shape has no record if one of its sizes differs more than
    fourfold from the recorded one, or is symbolic. The file is read again only when it changes. The
    choice is made while a function is traced: a compiled function keeps it.

    Args:
        operations: such as "attention" and "attention gradient"; the kernel must win in all.
        shape: sizes of the problem, in the order of the record.
        dtype: of the arrays.
        case: a variant of the operation, from `case_of`.

    Returns:
        Names as `jax.lax.platform_dependent` has them: "tpu", "cuda", "rocm".

    Example:
        >>> import jsoftmax.kernels
        >>> with jsoftmax.kernels.using_record(None):
        ...     print(sorted(jsoftmax.kernels.chosen("mapping", shape=(8, 9), dtype="float32")))
        []
    """
    known = entries()
    if not known or not all(isinstance(n, int) and n > 0 for n in shape):
        return frozenset()
    current = versions()
    name = jax.numpy.dtype(dtype).name
    usable = [
        x for x in known
        if x.case == case and x.dtype == name and len(x.shape) == len(shape)
        and (x.jsoftmax, x.jax) == current
    ]  # fmt: skip
    if not usable:
        return frozenset()
    return frozenset(
        platform
        for platform, kind in _devices()
        if all(
            _holds([x for x in usable if x.device == kind and x.operation == operation], shape)
            for operation in operations
        )
    )


def by_record(
    platforms: Iterable[str], kernel: Callable[..., Any], xla: Callable[..., Any], *arrays: Any
) -> Any:
    """Call `kernel(*arrays)` on the platforms given, `xla(*arrays)` on all others.

    Args:
        platforms: from `chosen`.
        kernel: a function of the arrays.
        xla: a function with results of the same shapes and dtypes.
        arrays: pytrees of arrays.

    Returns:
        The result of one of the two, selected when the program is lowered.

    Example:
        >>> print(by_record(["tpu"], lambda x: x + 1, lambda x: x + 2, 0))
        2
    """
    platforms = frozenset(platforms)
    if not platforms:
        return xla(*arrays)
    return jax.lax.platform_dependent(*arrays, default=xla, **dict.fromkeys(platforms, kernel))


def case_of(alpha: float | None, *flags: str) -> str:
    """Return the name of a variant in the record.

    Args:
        alpha: α where it is static, None where it is traced.
        flags: such as "causal".

    Returns:
        The name, a string.

    Example:
        >>> print(case_of(1.5, "causal"))
        α = 1.5, causal
    """
    return ", ".join(["traced α" if alpha is None else f"α = {alpha:g}", *flags])


def _holds(tried: list[Entry], shape: tuple[int, ...]) -> bool:
    def distance(entry: Entry) -> float:
        return max((abs(math.log2(n / m)) for n, m in zip(shape, entry.shape, strict=True)))

    if not tried:
        return False
    nearest = min(tried, key=distance)
    return distance(nearest) <= math.log2(FARTHEST) and nearest.is_chosen


def _devices() -> set[tuple[str, str]]:
    """Return the platform and kind of the devices of this process."""
    return {(platform_of(device), device.device_kind) for device in jax.local_devices()}


def platform_of(device: Any) -> str:
    """Return the platform of a device, by its name in `jax.lax.platform_dependent`."""
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def versions() -> tuple[str, str]:
    """Return the versions of jsoftmax and jax."""
    return sys.modules["jsoftmax"].__version__, jax.__version__
