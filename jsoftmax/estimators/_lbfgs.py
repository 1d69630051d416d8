"""A smooth convex function brought to its minimum by L-BFGS, in one loop that compiles once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

_MEMORY = 20  # pairs of steps and changes of the gradient from which the Hessian is guessed
_MOST_SEARCHES = 30  # evaluations along one direction


class Minimum(NamedTuple):
    """Where the search ended and how: the size of the gradient, and the steps it took."""

    point: Any
    value: Array
    gradient: Array
    steps: Array


def minimise(
    function: Callable[[Any], Array],
    start: Any,
    size: Callable[[Any], Array],
    tol: Array,
    most: Array,
) -> Minimum:
    """Take steps until the `size` of the gradient is `tol`, there were `most`, or none moves.

    Close to the minimum the function changes by less than its rounding. The zoom line search of
    optax then judges a step by its slopes alone (Hager and Zhang's approximate decrease), which
    is what lets the gradient fall to 1e-12 in float64.
    """
    search = optax.scale_by_zoom_linesearch(_MOST_SEARCHES, initial_guess_strategy="one")
    optimizer = optax.lbfgs(memory_size=_MEMORY, linesearch=search)
    value, gradient = jax.value_and_grad(function)(start)
    # The line search keeps the value and the gradient it ended with; give it those at the start.
    state = optax.tree.set(optimizer.init(start), value=value, grad=gradient)

    def unfinished(carry):
        steps, moved, _, state = carry
        return (steps < most) & moved & ~(size(optax.tree.get(state, "grad")) <= tol)

    def advance(carry):
        steps, _, point, state = carry
        value, gradient = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
        step, state = optimizer.update(
            gradient, state, point, value=value, grad=gradient, value_fn=function
        )
        ahead = optax.apply_updates(point, step)
        moved = largest(jax.tree.map(jnp.subtract, ahead, point)) > 0
        return steps + 1, moved, ahead, state

    carry = jnp.zeros_like(most), jnp.asarray(True), start, state
    steps, _, point, state = jax.lax.while_loop(unfinished, advance, carry)
    gradient = size(optax.tree.get(state, "grad"))
    return Minimum(point, optax.tree.get(state, "value"), gradient, steps)


def largest(tree: Any) -> Array:
    """The largest absolute value anywhere."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))
