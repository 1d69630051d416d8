"""Graph of a row function: calls inlined, equal steps merged, unused ones removed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from jsoftmax.kernels._plain import INLINED, number

_IDENTITIES = (
    "stop_gradient",
    "optimization_barrier",
    "copy",
    "copy_p",
    "pvary",
    "reduce_precision",
)
_WITH_PROGRAMS = ("while", "cond", "scan")


@dataclasses.dataclass(eq=False)
class Node:
    """One array of the graph: an argument, or a result of a step."""

    aval: Any
    step: Any = None  # the Step that computes it


@dataclasses.dataclass(eq=False)
class Step:
    """An equation of nodes and static numbers."""

    equation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Node, ...]

    @property
    def name(self) -> str:
        return self.equation.primitive.name


@dataclasses.dataclass(eq=False)
class Graph:
    """Steps in order, without any that the results do not need."""

    arguments: list[Node]
    steps: list[Step]
    results: list[Any]

    @property
    def size(self) -> int:
        """The number of steps, those in loops and choices included."""
        return sum(1 + sum(graph_of(x).size for x in _programs(step)) for step in self.steps)


def traced(function: Callable, shapes: Sequence[Any]) -> Graph:
    """Return the graph of a function of arrays."""
    with jax.enable_x64(False):
        return graph_of(jax.make_jaxpr(function)(*shapes))


@functools.lru_cache(maxsize=256)
def graph_of(jaxpr: Any) -> Graph:
    """Return the graph of a closed jaxpr."""
    builder = _Builder()
    arguments = [Node(x.aval) for x in jaxpr.jaxpr.invars]
    results = builder.inlined(jaxpr.jaxpr, jaxpr.consts, arguments)
    return Graph(arguments, _needed(builder.steps, results), results)


class _Builder:
    def __init__(self):
        self.steps: list[Step] = []
        self.known: dict[Any, Step] = {}

    def inlined(self, jaxpr, constants, arguments):
        values = dict(zip(jaxpr.constvars, map(_constant, constants), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(x):
            return number(x) if isinstance(x, jex.Literal) else values[x]

        for equation in jaxpr.eqns:
            inputs, name = tuple(map(read, equation.invars)), equation.primitive.name
            if name in INLINED:
                inner = equation.params[INLINED[name]]
                inner, consts = (
                    (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
                )
                outputs = self.inlined(inner, consts, inputs)
            elif name in _IDENTITIES:
                outputs = inputs
            else:
                outputs = self.step(equation, inputs).outputs
            values |= dict(zip(equation.outvars, outputs, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def step(self, equation, inputs):
        key = _key(equation, inputs)
        if key not in self.known:
            outputs = tuple(Node(x.aval) for x in equation.outvars)
            step = Step(equation, inputs, outputs)
            for node in outputs:
                node.step = step
            self.steps.append(step)
            self.known[key] = step
        return self.known[key]


def _constant(x: Any) -> Any:
    """Return a number that a function closes over; an array would have to be an argument."""
    if isinstance(x, Node):
        return x
    if np.ndim(x):
        raise NotImplementedError(
            f"jsoftmax.kernels: a row function closes over an array of shape {np.shape(x)}; "
            "keep the arrays of a regularizer in its fields."
        )
    return np.asarray(x)


def _key(equation, inputs):
    """Return a key that is equal for steps with equal results."""
    parameters = tuple((k, _text(v)) for k, v in sorted(equation.params.items()))
    places = tuple(id(x) if isinstance(x, Node) else (str(x.dtype), x.tobytes()) for x in inputs)
    return equation.primitive.name, parameters, places


def _text(x):
    if isinstance(x, int | str | type(None)):
        return x
    if hasattr(x, "jaxpr"):
        return _program_text(x)
    return tuple(map(_text, x)) if isinstance(x, tuple) else str(x)


@functools.lru_cache(maxsize=64)
def _program_text(program):
    return str(program)


def _needed(steps, results):
    wanted = {id(x) for x in results}
    kept = []
    for step in reversed(steps):
        if any(id(x) in wanted for x in step.outputs):
            wanted |= {id(x) for x in step.inputs}
            kept.append(step)
    return kept[::-1]


def _programs(step):
    for x in step.equation.params.values():
        yield from (y for y in (x if isinstance(x, tuple) else (x,)) if hasattr(y, "jaxpr"))


def has_programs(step: Step) -> bool:
    """Whether a step is a loop or a branch."""
    return step.name in _WITH_PROGRAMS
