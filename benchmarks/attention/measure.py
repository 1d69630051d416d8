"""Compile attention ahead of time, race it, and hand back plain records."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.attention.contestants import Case, Contestant, bounded, torch_peers
from benchmarks.compiled import FORWARD
from benchmarks.race import race

Shape = tuple[int, ...]


def raced(case: Case, rounds: int, seconds: float) -> Iterator[dict]:
    """One record a contestant and quantity: milliseconds, megabytes, seconds to compile."""
    for quantity in case.quantities:
        ready = {each.name: compiled(each, case.shapes, quantity) for each in case.contestants}
        running = [each for each in case.contestants if each.runs]
        calls = {each.name: ready[each.name].on(case) for each in running}
        best = race(calls, rounds=rounds, seconds=seconds)
        for name, each in ready.items():
            yield record(case, name, quantity, best.get(name), each)


def once(case: Case) -> Iterator[dict]:
    """The same for calls of many seconds, each of which is timed once."""
    for quantity in case.quantities:
        for each in case.contestants:
            ready = compiled(each, case.shapes, quantity)
            call = ready.on(case)
            start = time.perf_counter()
            if each.runs:
                call()
            seconds = time.perf_counter() - start if each.runs else None
            yield record(case, each.name, quantity, seconds, ready)


def against_torch(case: Case, rounds: int) -> Iterator[dict]:
    """Ours and those in torch, which take seconds a call, for a few rounds."""
    for quantity in case.quantities:
        ours = {each.name: compiled(each, case.shapes, quantity) for each in bounded()}
        theirs = {name: prepare(case, quantity) for name, prepare in torch_peers().items()}
        calls = {**{name: ready.on(case) for name, ready in ours.items()}, **theirs}
        for name, seconds in race(calls, rounds=rounds, seconds=0).items():
            yield record(case, name, quantity, seconds, ours.get(name))


def record(case: Case, name: str, quantity: str, seconds: float | None, ready) -> dict:
    """Plain data, ready for a table and for JSON."""
    return {
        "case": case.name,
        "contestant": name,
        "quantity": quantity,
        "spread": case.spread,
        "milliseconds": None if seconds is None else 1e3 * seconds,
        "megabytes": ready and ready.megabytes,
        "compile_seconds": ready and ready.seconds,
    }


@dataclasses.dataclass(frozen=True)
class Compiled:
    """An executable with its further arguments."""

    executable: Any
    arguments: tuple[Any, ...]
    seconds: float  # to trace, lower and compile
    megabytes: float | None  # of temporaries: allocated besides inputs and outputs

    def on(self, case: Case) -> Callable[[], object]:
        """A call without arguments, which returns when its work is done."""
        inputs = (*arrays(case), *self.arguments)
        return lambda: jax.block_until_ready(self.executable(*inputs))


@functools.cache
def compiled(contestant: Contestant, shapes: tuple[Shape, ...], quantity: str) -> Compiled:
    """Attention, or the value and gradient of Σ w·attention for given weights w.

    Compiled once: every race and every spread of the scores shares the executable.
    """

    def forward(weights, *inputs):
        return contestant.attend(*inputs)

    def weighted(weights, *inputs):
        return jnp.sum(weights * contestant.attend(*inputs))

    positions = tuple(1 + i for i in contestant.differentiate)  # after the weights
    function = forward if quantity == FORWARD else jax.value_and_grad(weighted, positions)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    start = time.perf_counter()
    executable = jax.jit(function).lower(*inputs, *contestant.traced).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    megabytes = None if memory is None else memory.temp_size_in_bytes / 1e6
    return Compiled(executable, contestant.traced, seconds, megabytes)


@functools.lru_cache(maxsize=1)
def arrays(case: Case) -> tuple[jax.Array, ...]:
    """The inputs of a case: one copy, which all racers read."""
    return tuple(map(jnp.asarray, case.inputs()))
