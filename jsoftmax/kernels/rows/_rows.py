"""Row functions by kernels, with derivatives: the first by kernels too, further ones in jnp."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.kernels._linear_operator import LinearOperator
from jsoftmax.kernels.rows._on_chip import on_chip
from jsoftmax.kernels.rows._row_call import RowCall


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def by_rows(call: RowCall, *arrays: Any) -> list[Array]:
    """Return the results of a row function. `vmap` adds rows."""
    return on_chip(call, *arrays)


@partial(by_rows.defjvp, symbolic_zeros=True)
def _by_rows_jvp(call, arrays, tangents):
    results = by_rows(call, *arrays)
    moving = tuple(
        i for i, d in enumerate(tangents)
        if not isinstance(d, SymbolicZero) and jnp.issubdtype(arrays[i].dtype, jnp.floating)
    )  # fmt: skip
    if not moving:
        return results, [jnp.zeros_like(x) for x in results]
    # A shared array has a tangent in each row; plain jnp sums their cotangents.
    rows = max(x.shape[0] for x in arrays)

    def own(i, x):
        return jnp.broadcast_to(x, (rows, x.shape[1])) if i in moving else x

    residuals = [own(i, x) for i, x in enumerate(arrays)]
    x = [own(i, tangents[i]) for i in moving]
    change = _Change(call, moving)
    operator = LinearOperator(change.forward, change.transposed, change.reference)
    return results, operator(residuals, x)


@dataclasses.dataclass(frozen=True)
class _Change:
    """The derivative of a row function in some arguments, in forward and reverse mode."""

    call: RowCall
    moving: tuple[int, ...]

    def forward(self, residuals: list[Array], x: list[Array]) -> list[Array]:
        """Return the tangents of the results, from those of the differentiated arguments."""
        longs = (*self.call.longs, *(self.call.longs[i] for i in self.moving))
        call = dataclasses.replace(self.call, function=self._pushed, longs=longs)
        return on_chip(call, *residuals, *x)

    def transposed(self, residuals: list[Array], cotangents: list[Array]) -> list[Array]:
        """Return the cotangents of the differentiated arguments."""
        longs = (*self.call.longs, *(long for long, _ in self.call.results))
        results = tuple((self.call.longs[i], residuals[i].dtype) for i in self.moving)
        call = RowCall(self._pulled, self.call.classes, longs, results)
        return on_chip(call, *residuals, *cotangents)

    def reference(self, residuals: list[Array], x: list[Array]) -> list[Array]:
        """Compute `forward` in plain jnp."""
        found = self._pushed(*residuals, *x, None)
        dtypes = (dtype for _, dtype in self.call.results)
        return [d.astype(dtype) for d, dtype in zip(found, dtypes, strict=True)]

    def _pushed(self, *arrays: Any):
        *known, mask = arrays
        count = len(self.call.longs)
        primals = tuple(known[i] for i in self.moving)
        return jax.jvp(partial(self._at, known[:count], mask), primals, tuple(known[count:]))[1]

    def _pulled(self, *arrays: Any):
        *known, mask = arrays
        count = len(self.call.longs)
        primals = tuple(known[i] for i in self.moving)
        _, pull = jax.vjp(partial(self._at, known[:count], mask), *primals)
        return pull(tuple(known[count:]))

    def _at(self, arrays, mask, *moved):
        arrays = list(arrays)
        for i, x in zip(self.moving, moved, strict=True):
            arrays[i] = x
        return self.call.function(*arrays, mask)
