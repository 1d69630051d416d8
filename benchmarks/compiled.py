"""Compile a mapping ahead of time; note the cost of compilation and the memory of a call."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

QUANTITIES = FORWARD, GRADIENT = "forward", "value and gradient"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """An executable with all its arguments but the logits."""

    executable: Any
    arguments: tuple[jax.Array, ...]
    seconds: float  # to trace, lower and compile
    temporaries: float | None  # bytes allocated besides input and output, per byte of the logits

    def on(self, logits: jax.Array) -> Callable[[], object]:
        """A call without arguments, which returns when its work is done."""
        return lambda: jax.block_until_ready(self.executable(logits, *self.arguments))


@functools.cache
def compiled(
    mapping: Callable[..., jax.Array],
    quantity: str,
    shape: tuple[int, ...],
    traced: tuple[float, ...] = (),
    differentiate: tuple[int, ...] = (0,),
) -> Compiled:
    """`mapping(logits, *traced)`, or the value and gradient of Σ w·mapping for random weights w.

    Compiled once: every race and every spread of the logits shares the executable.

    Args:
        mapping: takes the logits, then the traced parameters.
        quantity: one of `QUANTITIES`.
        shape: of the logits.
        traced: values that enter as arguments, so that the compiler does not see them.
        differentiate: positions of the arguments to differentiate in.
    """
    logits = jnp.zeros(shape)
    arguments = tuple(jnp.float32(value) for value in traced)
    if quantity == GRADIENT:
        # The weights are an argument too: as a constant they would be compiled in.
        output = jax.eval_shape(mapping, logits, *arguments)
        weights = np.random.default_rng(1).normal(size=output.shape)
        arguments += (jnp.asarray(weights, output.dtype),)

    def forward(*inputs):  # a new function every time: jit would remember `mapping` itself
        return mapping(*inputs)

    def weighted(*inputs):
        *inputs, weights = inputs
        return jnp.sum(weights * mapping(*inputs))

    function = forward if quantity == FORWARD else jax.value_and_grad(weighted, differentiate)
    start = time.perf_counter()
    executable = jax.jit(function).lower(logits, *arguments).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    temporaries = None if memory is None else memory.temp_size_in_bytes / logits.nbytes
    return Compiled(executable, arguments, seconds, temporaries)
