"""Loops and branches of kernels: they carry flags as numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jsoftmax.kernels._plain import as_flag, as_number, is_flag
from jsoftmax.kernels.rows._graph import Node, graph_of, has_programs
from jsoftmax.kernels.rows._tile import Tile, spread


def packed(values: Any, outputs: Any, tile: Tile) -> tuple[Any, ...]:
    """Pack the carry of a loop, in the shapes of its results."""
    shapes = [tile.shape(x.aval) for x in outputs]
    return tuple(jnp.asarray(as_number(spread(x, s))) for x, s in zip(values, shapes, strict=True))


def one_of(index: Any, branches: list[Callable[[], Any]]) -> list[Any]:
    """Return the results of one of the branches; all are numbers inside, flags too."""
    flags: list[bool] = []

    def numbers(branch):
        def run():
            found = branch()
            flags[:] = [is_flag(x) for x in found]
            return tuple(map(as_number, found))

        return run

    found = _among(index, [numbers(branch) for branch in branches])
    return [as_flag(x, flag) for x, flag in zip(found, flags, strict=True)]


def _among(index, branches):
    first, *others = branches
    if not others:
        return first()
    away = index if index.dtype == jnp.bool_ else index > 0
    after = index - 1 if len(others) > 1 else index
    return jax.lax.cond(away, lambda: _among(after, others), first)


def outright(tile: Tile, equation: Any, inputs: list[Any], start: Any) -> list[Any]:
    """Evaluate a loop or a branch over the entries of a piece, each by itself."""
    parameters = equation.params

    def inner(program, arguments):
        graph = graph_of(program)
        values = {id(x): v for x, v in zip(graph.arguments, arguments, strict=True)}
        for step in graph.steps:
            said = outright if has_programs(step) else Tile.said
            known = [values[id(x)] if isinstance(x, Node) else x for x in step.inputs]
            found = said(tile, step.equation, known, start)
            values |= {id(x): v for x, v in zip(step.outputs, found, strict=True)}
        return [values[id(x)] if isinstance(x, Node) else x for x in graph.results]

    outputs = equation.outvars
    flags = [x.aval.dtype == jnp.bool_ and x.aval.ndim > 0 for x in outputs]

    def unpacked(state):
        return [as_flag(x, flag) for x, flag in zip(state, flags, strict=True)]

    if equation.primitive.name == "while":
        a, b = parameters["cond_nconsts"], parameters["body_nconsts"]
        of_condition, of_body, state = inputs[:a], inputs[a : a + b], inputs[a + b :]
        state = jax.lax.while_loop(
            lambda s: inner(parameters["cond_jaxpr"], [*of_condition, *unpacked(s)])[0],
            lambda s: packed(
                inner(parameters["body_jaxpr"], [*of_body, *unpacked(s)]), outputs, tile
            ),
            packed(state, outputs, tile),
        )
        return unpacked(state)
    if equation.primitive.name == "cond":
        index, *operands = inputs
        branches = [
            lambda x=x: packed(inner(x, operands), outputs, tile) for x in parameters["branches"]
        ]
        return unpacked(_among(index, branches))
    raise NotImplementedError(f"jsoftmax.kernels: `{equation.primitive.name}` over classes.")
