"""Optimizers for a few rows of a large table; the cost of a step does not depend on the table.

A dense gradient of a table of K rows is as large as the table, however few rows the loss reads.
Where a loss reads a few rows, differentiate with respect to those rows, and update those alone.
For a table in bfloat16 pass a `key` to each update, for stochastic rounding.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.row_updates._row_optimizer import RowOptimizer, Schedule, row_optimizer


def row_sgd(learning_rate: ArrayLike | Schedule) -> RowOptimizer:
    r"""Gradient descent on the rows that have a gradient.

    .. math:: w_r ← w_r - η g_r

    with g_r the sum of the gradients given for row r. Equal to `optax.sgd` on the dense gradient.

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
    return row_optimizer("row_sgd", learning_rate, _Plain())


def row_adagrad(
    learning_rate: ArrayLike | Schedule,
    *,
    initial_accumulator_value: float = 0.1,
    eps: float = 1e-7,
) -> RowOptimizer:
    r"""Adagrad with one accumulator per row.

    .. math:: a_r ← a_r + \frac{‖g_r‖²}{d}, \qquad w_r ← w_r - η \frac{g_r}{\sqrt{a_r + ε}}

    Adagrad itself has one accumulator per entry. This one is d times smaller, and all entries of a
    row share the step size. On a table [K], where d = 1, equal to `optax.adagrad` on the dense
    gradient.

    Args:
        learning_rate: η ≥ 0, a number or a schedule: a function of the number of steps taken.
        initial_accumulator_value: a_r before the first step, at least 0.
        eps: ε > 0.

    Returns:
        A `RowOptimizer`; its memory is `sum_of_squares`, of shape [K], in float32 at least.

    Raises:
        TypeError: if `learning_rate` is neither a number nor a function.
        ValueError: if a number is out of range.

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

    return row_optimizer(function, learning_rate, _Adagrad(initial_accumulator_value, eps))


def row_adam(
    learning_rate: ArrayLike | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> RowOptimizer:
    r"""Lazy Adam with one second moment per row.

    .. math:: m_r ← β_1 m_r + (1-β_1) g_r, \qquad v_r ← β_2 v_r + (1-β_2) \frac{‖g_r‖²}{d}, \qquad
              w_r ← w_r - η \frac{m_r/(1-β_1^{t_r})}{\sqrt{v_r/(1-β_2^{t_r})} + ε}

    Lazy: a row without a gradient is left unchanged, its moments do not decay, and its step count
    does not grow. The bias is therefore corrected by t_r, the number of steps that row r itself has
    taken, so that the first step of a rare row is no larger than that of a frequent one. There is
    one first moment per entry, and one second moment per row. On a table [K], and if every row has
    a gradient at every step, equal to `optax.adam`.

    Args:
        learning_rate: η ≥ 0, a number or a schedule: a function of the number of steps taken, by
            any rows.
        b1: β₁, from 0 to 1, 1 excluded.
        b2: β₂, from 0 to 1, 1 excluded.
        eps: ε > 0.

    Returns:
        A `RowOptimizer`; its memory is `mean` of the shape of the table and `mean_square` of shape
        [K], in float32 at least, and `steps` of shape [K], int32.

    Raises:
        TypeError: if `learning_rate` is neither a number nor a function.
        ValueError: if a number is out of range.

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

    return row_optimizer(function, learning_rate, _Adam(b1, b2, eps))


@dataclasses.dataclass(frozen=True)
class _Plain:
    def start(self, table):
        return {}

    def direction(self, g, memory):
        return g, memory


@dataclasses.dataclass(frozen=True)
class _Adagrad:
    initial: float
    eps: float

    def start(self, table):
        dtype = checks.compute_dtype(table)
        return {"sum_of_squares": jnp.full(table.shape[:1], self.initial, dtype)}

    def direction(self, g, memory):
        a = memory["sum_of_squares"] + _mean_square(g)
        return g * _per_row(jax.lax.rsqrt(a + self.eps), g), {"sum_of_squares": a}


@dataclasses.dataclass(frozen=True)
class _Adam:
    b1: float
    b2: float
    eps: float

    def start(self, table):
        dtype = checks.compute_dtype(table)
        return {
            "mean": jnp.zeros(table.shape, dtype),
            "mean_square": jnp.zeros(table.shape[:1], dtype),
            "steps": jnp.zeros(table.shape[:1], jnp.int32),
        }

    def direction(self, g, memory):
        b1, b2, steps = self.b1, self.b2, memory["steps"] + 1
        m = b1 * memory["mean"] + (1 - b1) * g
        v = b2 * memory["mean_square"] + (1 - b2) * _mean_square(g)
        t = steps.astype(v.dtype)
        size = _per_row(1 / (jnp.sqrt(v / (1 - b2**t)) + self.eps) / (1 - b1**t), g)
        return m * size, {"mean": m, "mean_square": v, "steps": steps}


def _mean_square(g: Array) -> Array:
    """Compute ‖g_r‖²/d of every row."""
    return jnp.mean(g * g, axis=tuple(range(1, g.ndim)))


def _per_row(x: Array, like: Array) -> Array:
    return x.reshape(x.shape + (1,) * (like.ndim - 1))


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
