"""Evaluate a row function on the chip, piece by piece.

Entries of long arrays are computed where they are needed, in a loop over pieces, and discarded:
only numbers of rows are kept. A loop ends in reductions, or stores results; reductions that wait
for the same numbers share one loop. So a row is read only as often as its function needs it, and
need not fit into registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.kernels._plain import as_flag, as_number, is_flag
from jsoftmax.kernels.rows._choices import one_of, outright, packed
from jsoftmax.kernels.rows._graph import Graph, Node, Step, graph_of, has_programs
from jsoftmax.kernels.rows._tile import REDUCTIONS, Tile, is_long, spread

Piece = Callable[[Any, dict], Array]  # of the index of a piece, and the values known in this turn
Room = Callable[[list[Any], Callable[..., Any]], Any]  # for long arrays, while a function runs

_DEAR = 4  # steps: a long array that takes as many is kept over a loop
_FREE = ("broadcast_in_dim", "convert_element_type")

_NEUTRAL = {
    "reduce_sum": 0,
    "reduce_max": -np.inf,
    "reduce_min": np.inf,
    "reduce_or": 0,
    "reduce_and": 1,
}
_JOINED = {
    "reduce_sum": jnp.add,
    "reduce_max": jnp.maximum,
    "reduce_min": jnp.minimum,
    "reduce_or": jnp.maximum,
    "reduce_and": jnp.minimum,
}


class Rows:
    """A graph with values: arrays for numbers of rows, functions of pieces for long arrays."""

    def __init__(
        self, graph: Graph, tile: Tile, arguments: Sequence[Any], room: Room | None = None
    ):
        self.graph, self.tile, self.room = graph, tile, room
        self.values: dict[int, Any] = {
            id(x): v for x, v in zip(graph.arguments, arguments, strict=True)
        }
        self.waiting: list[Step] = []  # reductions,
        self.later: list[Step] = []  # and steps of numbers that need them

    def run(self, then: Callable[[Rows], Any], position: int = 0) -> Any:
        """Compute all numbers of rows from a step on, then return then(self)."""
        for place, step in enumerate(self.graph.steps[position:], position):
            if has_programs(step):
                self.settle_for([x for x in step.inputs if self._is_formed(x)])
                if dear := [x for x in step.inputs if self._is_dear(x)]:
                    return self._keep_pieces_then(dear, then, place)
                if step.name == "cond" and any(is_long(x.aval) for x in step.outputs):
                    return self._choose_then(step, then, place + 1)
                if not any(is_long(x.aval) for x in step.outputs):
                    self._keep(step, self._program(step))
            elif is_long(step.outputs[0].aval):
                pass
            elif any(isinstance(x, Node) and is_long(x.aval) for x in step.inputs):
                self.waiting.append(step)
            else:
                self._compute(step)
        return then(self)

    def number(self, x: Any) -> Any:
        """Return a number of each row, or one of all rows."""
        while isinstance(x, Node) and id(x) not in self.values:
            self.sweep()
        return self.values[id(x)] if isinstance(x, Node) else x

    def long(self, x: Any) -> Any:
        """Return a long array as a function of pieces; a number as it is."""
        if isinstance(x, Node) and is_long(x.aval) and id(x) not in self.values:
            return lambda i, known: self.piece(x, i, known)
        return self.number(x)

    def piece(self, x: Node, i: Any, known: dict) -> Any:
        """Compute a piece of a long array."""
        for node in self._formed(x):
            if id(node) in known:
                continue
            value = self.values.get(id(node))
            if value is not None:
                known[id(node)] = value(i, known)
                continue
            inputs = [
                known[id(y)] if isinstance(y, Node) and is_long(y.aval) else self.number(y)
                for y in node.step.inputs
            ]
            said = outright if has_programs(node.step) else Tile.said
            found = said(self.tile, node.step.equation, inputs, i * self.tile.piece)
            known |= {id(y): v for y, v in zip(node.step.outputs, found, strict=True)}
        return known[id(x)]

    def sweep(self, store: Callable[[Any, dict], Any] | None = None) -> None:
        """Loop once over the pieces: do the reductions that can be done now, and store."""
        ready = [step for step in self.waiting if self._is_ready(step.inputs[0])]
        self.waiting = [step for step in self.waiting if step not in ready]
        if not ready and store is None:
            raise AssertionError("a number of rows depends on itself")
        single = self.tile.pieces == 1

        def turn(i, sums):
            known: dict = {}
            terms = [as_number(self.piece(step.inputs[0], i, known)) for step in ready]
            if store is not None:
                store(i, known)
            if single:
                return terms
            return tuple(_JOINED[s.name](x, y) for s, x, y in zip(ready, sums, terms, strict=True))

        if single:
            sums = turn(0, ())
        else:
            start = tuple(
                jnp.full(self.tile.shape(s.inputs[0].aval), _NEUTRAL[s.name], _dtype(s.inputs[0]))
                for s in ready
            )
            sums = jax.lax.fori_loop(0, self.tile.pieces, turn, start)
        for step, total in zip(ready, sums, strict=True):
            flag = step.inputs[0].aval.dtype == jnp.bool_
            if step.outputs[0].aval.ndim:
                found = self.tile.reduced(step.name, total)
            else:
                found = REDUCTIONS[step.name](total)
            self._keep(step, [found > 0 if flag else found])
        later, self.later = self.later, []
        for step in later:
            self._compute(step)

    def settle(self) -> None:
        """Do all pending reductions."""
        while self.waiting:
            self.sweep()

    def settle_for(self, nodes: Sequence[Any]) -> None:
        """Do the reductions that these long arrays depend on."""
        for x in nodes:
            for node in self._formed(x):
                if id(node) not in self.values:
                    for y in node.step.inputs:
                        if not (isinstance(y, Node) and is_long(y.aval)):
                            self.number(y)

    def _compute(self, step):
        """Compute numbers of rows, or defer them until a reduction that they need is done."""
        if all(id(x) in self.values for x in step.inputs if isinstance(x, Node)):
            inputs = [self.number(x) for x in step.inputs]
            self._keep(step, self.tile.said(step.equation, inputs))
        else:
            self.later.append(step)

    def _keep(self, step, found):
        self.values |= {id(x): v for x, v in zip(step.outputs, found, strict=True)}

    def _formed(self, x: Node) -> list[Node]:
        """Return the long arrays that one is computed from, itself the last."""
        found: dict[int, Node] = {}

        def visit(node):
            stack = [(node, False)]
            while stack:
                y, done = stack.pop()
                if done:
                    found.setdefault(id(y), y)
                elif id(y) not in found:
                    stack.append((y, True))
                    if id(y) not in self.values:
                        stack += [
                            (n, False)
                            for n in y.step.inputs
                            if isinstance(n, Node) and is_long(n.aval)
                        ]

        visit(x)
        return list(found.values())

    def _is_ready(self, x):
        waits = {id(y) for step in (*self.waiting, *self.later) for y in step.outputs}
        return not any(
            id(y) in waits
            for node in self._formed(x)
            if id(node) not in self.values
            for y in node.step.inputs
        )

    def _is_formed(self, x):
        return isinstance(x, Node) and is_long(x.aval) and id(x) not in self.values

    def _is_dear(self, x):
        if self.room is None or not self._is_formed(x):
            return False
        formed = [node for node in self._formed(x) if id(node) not in self.values]
        return sum(node.step.name not in _FREE for node in formed) >= _DEAR

    def _keep_pieces_then(self, nodes, then, position):
        """Compute long arrays once, before the loop that reads them repeatedly."""
        nodes = list({id(x): x for x in nodes}.values())

        def kept(load, store):
            after = self._copied()
            after.sweep(lambda i, known: [store(x, i, after.piece(x, i, known)) for x in nodes])
            after.values |= {id(x): load(x) for x in nodes}
            return after.run(then, position)

        assert self.room is not None
        return self.room(nodes, kept)

    def _inner(self, program, inputs):
        return Rows(graph_of(program), self.tile, inputs, self.room)

    def _program(self, step):
        parameters = step.equation.params
        inputs = [self.long(x) for x in step.inputs]
        if step.name == "while":
            return self._while(inputs, step, **parameters)
        if step.name == "scan":
            return self._scan(inputs, step, **parameters)
        branches = [partial(self._branch, x, inputs[1:]) for x in parameters["branches"]]
        return one_of(inputs[0], branches)

    def _branch(self, program, inputs):
        return self._inner(program, inputs).run(_numbers)

    def _while(self, inputs, step, *, cond_nconsts, cond_jaxpr, body_nconsts, body_jaxpr, **_):
        of_condition, of_body = inputs[:cond_nconsts], inputs[cond_nconsts:]
        of_body, state = of_body[:body_nconsts], of_body[body_nconsts:]
        state = [
            spread(x, self.tile.shape(y.aval)) for x, y in zip(state, step.outputs, strict=True)
        ]
        flags = [is_flag(x) for x in state]

        def unpacked(state):
            return [as_flag(x, flag) for x, flag in zip(state, flags, strict=True)]

        def condition(state):
            return self._inner(cond_jaxpr, [*of_condition, *unpacked(state)]).run(_numbers)[0]

        def body(state):
            found = self._inner(body_jaxpr, [*of_body, *unpacked(state)]).run(_numbers)
            return packed(found, step.outputs, self.tile)

        state = packed(state, step.outputs, self.tile)
        return unpacked(jax.lax.while_loop(condition, body, state))

    def _scan(self, inputs, step, *, jaxpr, num_consts, num_carry, length, reverse, **_):
        if len(inputs) != num_consts + num_carry or len(step.outputs) != num_carry:
            raise NotImplementedError(
                "jsoftmax.kernels: a kernel does not support a scan over arrays; write a fori_loop."
            )
        constants, state = inputs[:num_consts], inputs[num_consts:]
        flags = [is_flag(x) for x in state]

        def unpacked(state):
            return [as_flag(x, flag) for x, flag in zip(state, flags, strict=True)]

        def body(_, state):
            found = self._inner(jaxpr, [*constants, *unpacked(state)]).run(_numbers)
            return packed(found, step.outputs, self.tile)

        state = packed(state, step.outputs, self.tile)
        return unpacked(jax.lax.fori_loop(0, length, body, state))

    def _choose_then(self, step, then, position):
        """Branch on long arrays: run all later steps in each branch."""
        self.settle()
        index, *inputs = (self.long(x) for x in step.inputs)

        def branch(program):
            def chosen(inner):
                inner.settle_for([x for x in inner.graph.results if is_long(_aval(x))])
                after = self._copied()
                after._keep(step, [inner.long(x) for x in inner.graph.results])
                return after.run(then, position)

            return lambda: self._inner(program, inputs).run(chosen)

        return one_of(index, [branch(x) for x in step.equation.params["branches"]])

    def _copied(self):
        copied = object.__new__(Rows)
        copied.graph, copied.tile, copied.room = self.graph, self.tile, self.room
        copied.values = dict(self.values)
        copied.waiting, copied.later = list(self.waiting), list(self.later)
        return copied


def _numbers(rows: Rows) -> list[Any]:
    return [rows.number(x) for x in rows.graph.results]


def _aval(x):
    return x.aval if isinstance(x, Node) else jax.typeof(x)


def _dtype(x):
    return jnp.float32 if x.aval.dtype == jnp.bool_ else x.aval.dtype
