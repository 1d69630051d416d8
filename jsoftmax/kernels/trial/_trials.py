"""Trials: the distance of a kernel from XLA, in value and gradient, and the time of both."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsoftmax.kernels._kernel_choice import versions
from jsoftmax.kernels._record import Entry
from jsoftmax.kernels.trial._operations import Operation, Shape

# A kernel may be twice as far from float32 on XLA as XLA is in the same dtype. It may also be eight
# roundings off in float32, since sums have another order, and two in fewer bits, since sums are not
# taken in these.
_TIMES_XLA, _ROUNDINGS, _FEW_ROUNDINGS = 2, 8, 2
_SAMPLES, _SAMPLE = 5, 0.02  # how many, and seconds of one


@dataclasses.dataclass(frozen=True)
class Trial:
    """The outcome of a trial: an entry for the record, or the reason for none."""

    device: str
    operation: str
    case: str
    shape: Shape
    dtype: str
    entry: Entry | None = None
    problem: str = ""
    is_refused: bool = False  # by the kernel, which does not support such arguments

    @property
    def key(self) -> tuple[Any, ...]:
        """The key of the trial, as of an `Entry`."""
        return self.device, self.operation, self.case, self.shape, self.dtype


def trials(operation: Operation, shape: Shape, dtype: str, device: Any, timed: bool = True):
    """Try the value, then the gradient if it is defined, of an operation at one shape."""
    arrays = operation.arrays(shape, dtype)
    for name, form in forms_of(operation).items():
        about = (device.device_kind, operation.name + name, operation.case, shape, dtype)
        try:
            error, allowed = distances(operation, form, arrays, dtype)
            seconds = dict(_seconds(operation, form, arrays, timed))
        except NotImplementedError as refusal:
            yield Trial(*about, problem=_first_line(refusal), is_refused=True)
            continue
        except Exception as problem:
            # A kernel that does not compile, or does not fit, does not end the table.
            yield Trial(*about, problem=f"{type(problem).__name__}: {_first_line(problem)}")
            continue
        entry = Entry(*about, *versions(), error, allowed, seconds)
        yield Trial(*about, entry)


def forms_of(operation: Operation) -> dict[str, Callable[..., Any]]:
    """Return the forms to try, by the suffix of the operation's name."""
    return {"": value_of} | ({" gradient": gradient_of} if operation.moving else {})


def value_of(operation: Operation, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself."""
    return function


def gradient_of(operation: Operation, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the gradient of a weighted sum, with weights that are not all alike."""

    def total(*arrays):
        x = function(*arrays).astype(jnp.float32)
        weights = jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
        return jnp.sum(weights * x)

    return jax.grad(total, operation.moving)


def distances(operation: Operation, form: Any, arrays: Any, dtype: str) -> tuple[float, float]:
    """Return the kernel's distance from XLA in float32, and the allowed distance."""
    wide = [x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in arrays]
    with jax.default_matmul_precision("highest"):
        truth = _run(operation, form, "xla", wide)
    kernel, xla = (_run(operation, form, name, arrays) for name in ("pallas", "xla"))
    roundings = _ROUNDINGS if jnp.dtype(dtype).itemsize >= 4 else _FEW_ROUNDINGS
    allowed = max(_TIMES_XLA * _distance(xla, truth), roundings * float(jnp.finfo(dtype).eps))
    return _distance(kernel, truth), allowed


def _run(operation, form, implementation, arrays):
    return jax.jit(form(operation, by_name(operation, implementation)))(*arrays)


def by_name(operation: Operation, implementation: str) -> Callable[..., Any]:
    """Return the operation with its implementation named."""
    return lambda *arrays: operation.function(*arrays, implementation=implementation)


def _distance(found: Any, truth: Any) -> float:
    """Return the largest difference, divided by the largest number of that result."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        x, y = (np.asarray(a.astype(jnp.float32), np.float64) for a in (x, y))
        # NaN, which np.maximum keeps, is never right.
        worst = np.maximum(worst, np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-30))
    return float(worst)


def _seconds(operation, form, arrays, timed) -> Iterator[tuple[str, float]]:
    if not timed:
        yield from (("pallas", 0.0), ("xla", 0.0))
        return
    for name in ("pallas", "xla"):
        yield name, seconds_of(jax.jit(form(operation, by_name(operation, name))), arrays)
    for name, peer in operation.peers().items():
        try:
            yield name, seconds_of(jax.jit(form(operation, peer)), arrays)
        except Exception:
            continue  # a peer that refuses a shape or this device has no time


def seconds_of(function: Callable[..., Any], arrays: Any) -> float:
    """Return the least time of a call, from samples of many calls: devices run asynchronously."""
    jax.block_until_ready(function(*arrays))
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arrays))
    calls = max(1, int(_SAMPLE / max(time.perf_counter() - start, 1e-6)))
    found = []
    for _ in range(_SAMPLES):
        start = time.perf_counter()
        for _ in range(calls):
            result = function(*arrays)
        jax.block_until_ready(result)
        found.append((time.perf_counter() - start) / calls)
    return min(found)


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else ""
