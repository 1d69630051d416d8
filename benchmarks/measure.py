"""Run one race and hand back a plain record, ready for a table and for JSON."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.compiled import Compiled, compiled
from benchmarks.contestants import Contestant
from benchmarks.race import race
from benchmarks.slow import Peer

Shape = tuple[int, ...]


def against_jax(
    contestant: Contestant, quantity: str, shape: Shape, spread: float, rounds: int
) -> dict:
    """Race a mapping against its counterpart in `jax.nn`."""
    z = logits(shape, spread)
    best = race(
        {
            "ours": executable(contestant, quantity, shape).on(z),
            "theirs": compiled(contestant.against, quantity, shape).on(z),
        },
        rounds=rounds,
    )
    return {
        "mapping": contestant.name,
        "quantity": quantity,
        "shape": list(shape),
        "spread": spread,
        "milliseconds": 1e3 * best["ours"],
        "reference_milliseconds": 1e3 * best["theirs"],
        "ratio": best["ours"] / best["theirs"],
    }


def against_peer(
    peer: Peer, ours: Contestant, quantity: str, shape: Shape, spread: float, rounds: int
) -> dict:
    """Race a slow peer against our mapping and against softmax, for a few rounds."""
    z = logits(shape, spread)
    best = race(
        {
            "peer": peer.prepare(z, quantity),
            "ours": executable(ours, quantity, shape).on(z),
            "softmax": compiled(jax.nn.softmax, quantity, shape).on(z),
        },
        rounds=rounds,
        seconds=0,
    )
    return {
        "peer": peer.name,
        "mapping": ours.name,
        "quantity": quantity,
        "shape": list(shape),
        "spread": spread,
        **{f"{name}_milliseconds": 1e3 * seconds for name, seconds in best.items()},
    }


def cost(contestant: Contestant, quantity: str, shape: Shape) -> dict:
    """The seconds of the contestant's compilation, and the memory of its executable."""
    ready = executable(contestant, quantity, shape)
    return {
        "mapping": contestant.name,
        "quantity": quantity,
        "shape": list(shape),
        "compile_seconds": ready.seconds,
        "temporaries": ready.temporaries,
    }


def executable(contestant: Contestant, quantity: str, shape: Shape) -> Compiled:
    """The contestant, compiled for this shape."""
    return compiled(
        contestant.mapping, quantity, shape, contestant.traced, contestant.differentiate
    )


@functools.lru_cache(maxsize=1)
def logits(shape: Shape, spread: float) -> jax.Array:
    """Normal logits of the given standard deviation: one array, which all racers read."""
    return jnp.asarray(np.random.default_rng(0).normal(0, spread, shape), jnp.float32)
