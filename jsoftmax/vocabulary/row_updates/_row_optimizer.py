"""The common part of optimizers that update only a few rows of a large table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.vocabulary.row_updates._distinct_rows import (
    all_distinct,
    each_once,
    in_order,
    summed_in_runs,
)
from jsoftmax.vocabulary.row_updates._stochastic_rounding import rounded

Schedule = Callable[[Array], ArrayLike]

_BLOCK = 4096  # up to so many rows are updated at once
_RISING: dict[str, Any] = {"indices_are_sorted": True, "unique_indices": True}


class RowOptimizer(NamedTuple):
    """An optimizer for rows of a table: `init` and `update`.

    Args:
        init: table of shape [K, ...] → `RowState`.
        update: (table, state, rows, gradients) → (table, state). `rows` are integers of any shape,
            `gradients` of that shape and then that of one row: [..., d] for a table [K, d], [...]
            for a table [K]. The gradients of equal rows are summed before the step, as a dense
            gradient would have it. A row out of range [0, K) is padding: it changes nothing. A
            table of low precision is rounded to nearest once per step: steps of less than half of
            its last digit are always lost. With `key=`, a new key of `jax.random` each step, a
            bfloat16 table is rounded stochastically instead, so that rows are right in the mean.
            `distinct=True` says that rows rise, without duplicates, and that padding comes last;
            then nothing is sorted or summed. The values of a `jax.Array` are not checked: if they
            violate this, the result is undefined.

    Under `jit` with table and state donated they are changed in place, and n rows of width d cost
    O(n (d + log n)), for any K. The update itself is differentiable, as meta-learning needs, in
    forward mode; in reverse mode too where n is at most 4096.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsoftmax.vocabulary import row_sgd
        >>> optimizer = row_sgd(0.5)
        >>> table = jnp.zeros((4, 2))
        >>> state = optimizer.init(table)
        >>> rows, gradients = jnp.array([3, 1, 3, -1]), jnp.ones((4, 2))
        >>> step = jax.jit(optimizer.update, donate_argnums=(0, 1))
        >>> table, state = step(table, state, rows, gradients)
        >>> print(table)
        [[ 0.   0. ]
         [-0.5 -0.5]
         [ 0.   0. ]
         [-1.  -1. ]]
    """

    init: Callable[[Any], RowState]
    update: Callable[..., tuple[Array, RowState]]


class RowState(NamedTuple):
    """The state of a `RowOptimizer`.

    Args:
        step: the number of steps taken, the argument of a schedule.
        memory: a dictionary of arrays; their first axis is that of the table.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsoftmax.vocabulary import row_sgd
        >>> print(row_sgd(0.1).init(jnp.zeros((4, 2))))
        RowState(step=Array(0, dtype=int32), memory={})
    """

    step: Int[Array, ""]
    memory: dict[str, Array]


@runtime_checkable
class Descent(Protocol):
    """The update rule of rows, from gradients and memory; equal rules compare equal."""

    def start(self, table: Array) -> dict[str, Array]:
        """Return the memory before the first step."""
        ...

    def direction(self, g: Array, memory: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return the direction of distinct rows, and their memory after the step."""
        ...


def row_optimizer(function: str, learning_rate: Any, descent: Descent) -> RowOptimizer:
    """Make an optimizer that moves rows against the direction of `descent`, each of them once."""
    _check_rate(function, learning_rate)
    rule = _Rule(function, learning_rate, descent)
    return RowOptimizer(rule.init, rule.update)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The two functions of an optimizer: methods, since nested functions cannot be pickled."""

    function: str
    learning_rate: Any
    descent: Descent

    def init(self, table: Any) -> RowState:
        table = _read_table(self.function, table)
        return RowState(jnp.zeros((), jnp.int32), self.descent.start(table))

    @on_explicit_axes(like="table", axis=())
    def update(
        self,
        table: Any,
        state: Any,
        rows: Any,
        gradients: Any,
        *,
        key: Any = None,
        distinct: bool = False,
    ) -> tuple[Float[Array, "..."], RowState]:
        function, learning_rate, descent = self.function, self.learning_rate, self.descent
        table = _read_table(function, table)
        dtype = checks.compute_dtype(table)
        ids, g = _read_rows(function, table, rows, gradients)
        if distinct:
            _check_distinct(function, rows, table.shape[0])
        _check_state(function, state, jax.eval_shape(descent.start, table))
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        rate, g = jnp.asarray(rate, dtype), g.astype(dtype)
        key = _read_key(function, key, table)
        table, memory = _moved(descent, distinct, table, state.memory, ids, g, rate, key)
        return table, RowState(state.step + 1, memory)


# Compiled once per shape, even when called outside of `jit`; inlined inside it.
@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _moved(descent, distinct, table, memory, ids, g, rate, key):
    """Return the table and the memory after a step."""

    def move(turn, tables, ids, g):
        table, memory = tables
        direction, moved = descent.direction(g, jax.tree.map(lambda x: _rows_of(x, ids), memory))
        memory = jax.tree.map(lambda x, rows: _with_rows(x, ids, rows), memory, moved)
        step = rate * direction
        if table.dtype == step.dtype:
            return table.at[ids].add(-step, mode="drop", **_RISING), memory
        moved = _rows_of(table, ids).astype(step.dtype) - step
        if key is not None:
            moved = rounded(jax.random.fold_in(key, turn), moved)
        return _with_rows(table, ids, moved), memory

    if distinct:
        size = table.shape[0]
        return move(0, (table, memory), all_distinct(ids, size), g)
    return _for_each(move, (table, memory), ids, g)


def _for_each(move: Callable, tables: Any, ids: Array, g: Array) -> Any:
    """Apply move(i, tables, ids, g) to blocks i of rising, distinct ids with summed gradients.

    Most ids of a batch are repeated, such as the upper nodes of a tree. So the distinct ones often
    fit the first block, and the others are skipped. Rows without memory cost less than a loop.
    """
    n, size = ids.shape[0], tables[0].shape[0]
    if n == 0:
        return tables
    each, place, count = each_once(ids, size)
    place, order = in_order(place)
    place, g = summed_in_runs(place, g[order])
    block = n if n <= _BLOCK or not jax.tree.leaves(tables[1]) else max(_BLOCK, -(-n // 4))
    blocks = -(-n // block)
    if blocks * block > n:
        each = jnp.concatenate([each, size + jnp.arange(n, blocks * block, dtype=jnp.int32)])

    def turn(i, tables):
        start = i * block
        here = place - start
        here = jnp.where((here >= 0) & (here < block), here, block)
        sums = jnp.zeros((block, *g.shape[1:]), g.dtype).at[here].add(g, mode="drop")
        return move(i, tables, jax.lax.dynamic_slice_in_dim(each, start, block), sums)

    if blocks == 1:
        return turn(0, tables)
    return jax.lax.fori_loop(0, -(-count // block), turn, tables)


def _rows_of(x: Array, ids: Array) -> Array:
    return x.at[ids].get(mode="fill", fill_value=0, **_RISING)


def _with_rows(x: Array, ids: Array, rows: Array) -> Array:
    rows = rows.astype(x.dtype)
    return x.at[ids].set(rows, mode="drop", **_RISING)


def _read_table(function: str, table: Any) -> Array:
    table = checks.as_array(function, "table", table)
    if not jnp.issubdtype(table.dtype, jnp.floating):
        raise TypeError(
            f"jsoftmax.{function}: `table` has dtype {table.dtype}; give it floating-point numbers."
        )
    if table.ndim == 0 or table.size == 0:
        raise ValueError(
            f"jsoftmax.{function}: `table` has shape {table.shape}; give it at least one row, "
            "along the first axis."
        )
    return table


def _read_rows(function: str, table: Array, rows: Any, gradients: Any) -> tuple[Array, Array]:
    """Read ids of shape (n,), with K for padding, and gradients of shape (n, …)."""
    ids = checks.as_array(function, "rows", rows)
    g = checks.as_array(function, "gradients", gradients)
    if ids.size == 0 and isinstance(rows, list | tuple):
        ids = ids.astype(jnp.int32)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"jsoftmax.{function}: `rows` have dtype {ids.dtype}; give it integers.")
    if g.shape != ids.shape + table.shape[1:]:
        raise ValueError(
            f"jsoftmax.{function}: `gradients` have shape {g.shape}; for `rows` of shape "
            f"{ids.shape} of a table of shape {table.shape} give {ids.shape + table.shape[1:]}."
        )
    size = table.shape[0]
    wide = ids if ids.dtype.itemsize >= 4 else ids.astype(jnp.int32)
    ids = jnp.where((wide >= 0) & (wide < size), wide, size).astype(jnp.int32)
    return ids.reshape(-1), g.reshape(-1, *table.shape[1:])


def _read_key(function: str, key: Any, table: Array) -> Array | None:
    """Return the key that rounds a bfloat16 table; None for round-to-nearest."""
    if key is None:
        return None
    key = one_key(function, key)
    if table.dtype == jnp.bfloat16:
        return key
    if table.dtype == checks.compute_dtype(table):
        return None
    raise TypeError(
        f"jsoftmax.{function}: `key` rounds tables of bfloat16, but `table` has dtype "
        f"{table.dtype}; convert it, or leave `key` out."
    )


def _check_distinct(function: str, rows: Any, size: int) -> None:
    """Check rows given as Python or numpy values, while tracing."""
    known = checks.known_values(rows)
    if known is None:
        return
    known = np.asarray(known).reshape(-1)
    known = np.where((known >= 0) & (known < size), known, size)
    if np.any((known[1:] <= known[:-1]) & (known[1:] < size)):
        raise ValueError(
            f"jsoftmax.{function}: `rows` do not rise, or have duplicates; leave `distinct` out, "
            "and they are sorted and summed."
        )


def _check_state(function: str, state: Any, memory: dict[str, Any]) -> None:
    if not isinstance(state, RowState):
        raise TypeError(
            f"jsoftmax.{function}: `state` is of type {type(state).__name__}; give it the result "
            "of init(table)."
        )
    found, needed = (jax.tree.map(jnp.shape, x) for x in (state.memory, memory))
    if found != needed:
        raise ValueError(
            f"jsoftmax.{function}: `state` belongs to another table or optimizer: its memory is "
            f"{found}, but {needed} is needed. Make it by init(table)."
        )


def _check_rate(function: str, rate: Any) -> None:
    if callable(rate):
        return
    checks.as_array(function, "learning_rate", rate)
    if jnp.ndim(rate):
        raise ValueError(
            f"jsoftmax.{function}: `learning_rate` has shape {jnp.shape(rate)}; give one number, "
            "or a function of the number of steps taken."
        )
    known = checks.static_number(rate)
    if known is not None and not known >= 0:
        raise ValueError(f"jsoftmax.{function}: `learning_rate` must be at least 0, got {rate!r}.")
