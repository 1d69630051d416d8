"""Compile kernels, and XLA's programs beside them, for hardware that this machine lacks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from jsoftmax.kernels.trial._operations import Operation
from jsoftmax.kernels.trial._trials import by_name, forms_of

REFUSED = "refused"
HEAD = ("operation", "shape", "dtype", "pallas", "MB beside", "xla", "MB beside")


def compiled(operations: Iterable[Operation], sharding: Any) -> Iterator[tuple[str, ...]]:
    """Yield rows of a table: seconds to compile, and the temporaries of the program in MB."""
    for operation in operations:
        for shape in operation.shapes:
            for dtype in operation.dtypes:
                for suffix, form in forms_of(operation).items():
                    cells = []
                    for name in ("pallas", "xla"):
                        function = form(operation, by_name(operation, name))
                        cells += _tried(function, operation.outlines(shape, dtype), sharding)
                    title = f"{operation.name}{suffix}, {operation.case}"
                    yield (title, "×".join(map(str, shape)), dtype, *cells)


def _tried(function, outlines, sharding) -> tuple[str, str]:
    arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in outlines]
    start = time.perf_counter()
    try:
        with jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh):
            program = jax.jit(function).lower(*arrays).compile()
    except NotImplementedError:
        return REFUSED, ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:60]}", ""
    memory = program.memory_analysis()
    temporaries = "" if memory is None else f"{memory.temp_size_in_bytes / 1e6:.1f}"
    return f"{time.perf_counter() - start:.1f} s", temporaries
