"""Optimizers for a few rows of a large table: a step costs what the rows cost, not what the table.

A dense gradient of a table of K rows is as large as the table, whatever the loss has read of it.
Where a loss reads a few rows, differentiate with respect to those rows, and update those alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks

Schedule = Callable[[Array], ArrayLike]


class RowOptimizer(NamedTuple):
    """A rule by which rows of a table are updated.

    Args:
        init: table of shape [K, ...] → `RowState`.
        update: (table, state, rows, gradients) → (table, state). `rows` are integers of any shape,
            `gradients` of that shape and then that of one row: [..., d] for a table [K, d], [...]
            for a table [K]. The gradients of equal rows are summed before the step, as a dense
            gradient would have it. A row below 0, or of K and more, is padding: it changes nothing.

    Under `jit` with table and state donated they are changed in place, and n rows of width d cost
    O(n (d + log n)), whatever K is.

    Example:
        >>> import jax, jax.numpy as jnp
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
    update: Callable[[Any, RowState, Any, Any], tuple[Array, RowState]]


class RowState(NamedTuple):
    """What a `RowOptimizer` remembers.

    Args:
        count: how many steps were taken; a schedule is asked at this number.
        memory: a dictionary of arrays whose first axis is that of the table.

    Example:
        >>> import jax.numpy as jnp
        >>> print(row_sgd(0.1).init(jnp.zeros((4, 2))))
        RowState(count=Array(0, dtype=int32), memory={})
    """

    count: Int[Array, ""]
    memory: dict[str, Array]


def row_sgd(learning_rate: ArrayLike | Schedule) -> RowOptimizer:
    r"""Gradient descent on the rows that have a gradient.

    .. math:: w_r ← w_r - η g_r

    With g_r the sum of the gradients given for row r. Equal to `optax.sgd` on the dense gradient.

    Args:
        learning_rate: η ≥ 0, a number or a schedule: a function of the number of steps taken.

    Returns:
        A `RowOptimizer`, without memory.

    Raises:
        TypeError: if `learning_rate` is neither a number nor a function.
        ValueError: if it is a number below 0, or NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = row_sgd(lambda count: 0.1 / (1 + count))
        >>> table = jnp.ones(3)
        >>> table, state = optimizer.update(table, optimizer.init(table), [1, 1], [1.0, 2.0])
        >>> print(table)
        [1.  0.7 1. ]
    """

    def descend(g, memory):
        return g, memory

    return _row_optimizer("row_sgd", learning_rate, lambda table: {}, descend)


def row_adagrad(
    learning_rate: ArrayLike | Schedule,
    *,
    initial_accumulator_value: float = 0.1,
    eps: float = 1e-7,
) -> RowOptimizer:
    r"""Adagrad with one accumulator a row.

    .. math:: a_r ← a_r + \frac{‖g_r‖²}{d}, \qquad w_r ← w_r - η \frac{g_r}{\sqrt{a_r + ε}}

    The accumulator is d times smaller than Adagrad's own, one number for each entry, and all
    entries of a row have the same step size. On a table [K], where d = 1, equal to `optax.adagrad`
    on the dense gradient.

    Args:
        learning_rate: η ≥ 0, a number or a schedule: a function of the number of steps taken.
        initial_accumulator_value: a_r before the first step, at least 0.
        eps: ε > 0.

    Returns:
        A `RowOptimizer`; its memory is `sum_of_squares`, of shape [K], in float32 at least.

    Raises:
        TypeError: if `learning_rate` is neither a number nor a function.
        ValueError: if a number is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = row_adagrad(0.1, initial_accumulator_value=0.0)
        >>> table = jnp.zeros((3, 2))
        >>> table, state = optimizer.update(table, optimizer.init(table), [1], [[1.0, -1.0]])
        >>> print(table, state.memory["sum_of_squares"])
        [[ 0.   0. ]
         [-0.1  0.1]
         [ 0.   0. ]] [0. 1. 0.]

    John Duchi, Elad Hazan and Yoram Singer, "Adaptive Subgradient Methods for Online Learning and
    Stochastic Optimization", 2011.
    """
    function = "row_adagrad"
    _check_number(function, "initial_accumulator_value", initial_accumulator_value, least=0.0)
    _check_number(function, "eps", eps, above=0.0)

    def start(table):
        dtype = checks.compute_dtype(table)
        return {"sum_of_squares": jnp.full(table.shape[:1], initial_accumulator_value, dtype)}

    def descend(g, memory):
        a = memory["sum_of_squares"] + _mean_square(g)
        return g * _per_row(jax.lax.rsqrt(a + eps), g), {"sum_of_squares": a}

    return _row_optimizer(function, learning_rate, start, descend)


def row_adam(
    learning_rate: ArrayLike | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> RowOptimizer:
    r"""Lazy Adam with one second moment a row.

    .. math:: m_r ← β_1 m_r + (1-β_1) g_r, \qquad v_r ← β_2 v_r + (1-β_2) \frac{‖g_r‖²}{d}, \qquad
              w_r ← w_r - η \frac{m_r/(1-β_1^{t_r})}{\sqrt{v_r/(1-β_2^{t_r})} + ε}

    Lazy: a row without a gradient is left as it is, its moments do not decay, and its step does not
    go on. The bias is therefore corrected by t_r, the number of steps that row r itself has taken,
    so that the first step of a rare row is no larger than that of a frequent one. First moments
    are one for each entry, second moments one for each row. On a table [K] of which every row has
    a gradient at every step, equal to `optax.adam`.

    Args:
        learning_rate: η ≥ 0, a number or a schedule: a function of the number of steps taken, by
            whatever rows.
        b1: β₁, from 0 to 1, 1 excluded.
        b2: β₂, from 0 to 1, 1 excluded.
        eps: ε > 0.

    Returns:
        A `RowOptimizer`; its memory is `mean` of the shape of the table and `mean_square` of shape
        [K], in float32 at least, and `steps` of shape [K], int32.

    Raises:
        TypeError: if `learning_rate` is neither a number nor a function.
        ValueError: if a number is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = row_adam(0.1)
        >>> table = jnp.zeros((3, 2))
        >>> table, state = optimizer.update(table, optimizer.init(table), [1], [[3.0, -3.0]])
        >>> print(table, state.memory["steps"])
        [[ 0.   0. ]
         [-0.1  0.1]
         [ 0.   0. ]] [0 1 0]

    Diederik P. Kingma and Jimmy Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """
    function = "row_adam"
    for name, b in (("b1", b1), ("b2", b2)):
        _check_number(function, name, b, least=0.0, below=1.0)
    _check_number(function, "eps", eps, above=0.0)

    def start(table):
        dtype = checks.compute_dtype(table)
        return {
            "mean": jnp.zeros(table.shape, dtype),
            "mean_square": jnp.zeros(table.shape[:1], dtype),
            "steps": jnp.zeros(table.shape[:1], jnp.int32),
        }

    def descend(g, memory):
        steps = memory["steps"] + 1
        m = b1 * memory["mean"] + (1 - b1) * g
        v = b2 * memory["mean_square"] + (1 - b2) * _mean_square(g)
        t = steps.astype(v.dtype)
        size = _per_row(1 / (jnp.sqrt(v / (1 - b2**t)) + eps) / (1 - b1**t), g)
        return m * size, {"mean": m, "mean_square": v, "steps": steps}

    return _row_optimizer(function, learning_rate, start, descend)


def _row_optimizer(
    function: str,
    learning_rate: Any,
    start: Callable[[Array], dict[str, Array]],
    descend: Callable[[Array, dict[str, Array]], tuple[Array, dict[str, Array]]],
) -> RowOptimizer:
    """An optimizer whose `descend` sees only rows, each once: (g, memory) → (direction, memory)."""
    _check_rate(function, learning_rate)

    def init(table: Any) -> RowState:
        return RowState(jnp.zeros((), jnp.int32), start(_read_table(function, table)))

    def update(
        table: Any, state: RowState, rows: Any, gradients: Any
    ) -> tuple[Float[Array, "..."], RowState]:
        table = _read_table(function, table)
        dtype = checks.compute_dtype(table)
        ids, g = _read_rows(function, table, rows, gradients)
        ids, g = _each_once(ids, g.astype(dtype), table.shape[0])
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        direction, moved = descend(g, jax.tree.map(lambda x: _rows_of(x, ids), state.memory))
        new = _rows_of(table, ids).astype(dtype) - jnp.asarray(rate, dtype) * direction
        memory = jax.tree.map(lambda x, rows: _with_rows(x, ids, rows), state.memory, moved)
        return _with_rows(table, ids, new), RowState(state.count + 1, memory)

    return RowOptimizer(init, update)


def _each_once(ids: Array, g: Array, size: int) -> tuple[Array, Array]:
    """Ids in rising order, none twice, with the sums of their gradients.

    There are as many as before; those that are left over are distinct numbers of `size` and more,
    so that whoever reads or writes the rows may rely on order and distinctness.
    """
    n = ids.shape[0]
    order = jnp.argsort(ids)
    ids = ids[order]
    first = jnp.concatenate([jnp.ones_like(ids[:1], bool), ids[1:] != ids[:-1]])
    place = jnp.cumsum(first, dtype=jnp.int32) - 1
    sums = jnp.zeros_like(g).at[place].add(g[order], indices_are_sorted=True)
    slots = jnp.arange(n, dtype=jnp.int32)
    each = jnp.full_like(ids, size).at[place].set(ids, indices_are_sorted=True)
    return jnp.where(each < size, each, size + slots), sums


def _rows_of(x: Array, ids: Array) -> Array:
    return x.at[ids].get(mode="fill", fill_value=0, indices_are_sorted=True, unique_indices=True)


def _with_rows(x: Array, ids: Array, rows: Array) -> Array:
    rows = rows.astype(x.dtype)
    return x.at[ids].set(rows, mode="drop", indices_are_sorted=True, unique_indices=True)


def _mean_square(g: Array) -> Array:
    """‖g_r‖²/d of every row."""
    return jnp.mean(g * g, axis=tuple(range(1, g.ndim)))


def _per_row(x: Array, like: Array) -> Array:
    return x.reshape(x.shape + (1,) * (like.ndim - 1))


def _read_table(function: str, table: Any) -> Array:
    table = jnp.asarray(table)
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
    """Ids of shape (n,), padding numbered K, and gradients of shape (n, …)."""
    ids, g = jnp.asarray(rows), checks.as_array(function, "gradients", gradients)
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


def _check_number(
    function: str,
    name: str,
    x: Any,
    least: float = -np.inf,
    above: float = -np.inf,
    below: float = np.inf,
) -> None:
    known = checks.static_number(x)
    if known is None or not (known >= least and above < known < below):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` must be a number known while tracing, "
            + (f"above {above:g}" if above > -np.inf else f"at least {least:g}")
            + (f" and below {below:g}" if below < np.inf else "")
            + f", got {x!r}."
        )
