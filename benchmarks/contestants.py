"""The mappings that race, whom each races against, and how fast it must be."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jsoftmax
from benchmarks.compiled import FORWARD, GRADIENT, QUANTITIES

SHAPES = ((4096, 64), (4096, 512), (128, 32_000), (16, 128_256), (1, 1_000_000))
SPREADS = (0.1, 2.0, 20.0)  # standard deviation of the logits


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A mapping of ours (or a mark to measure by) and the `jax.nn` function it is divided by.

    Bounds are ratios: `mean_bound` for the geometric mean over all shapes and spreads,
    `worst_bound` for each single case; None where nothing was promised.
    """

    name: str
    mapping: Callable[..., jax.Array]
    against: Callable[..., jax.Array] = jax.nn.softmax
    traced: tuple[float, ...] = ()  # further arguments of the jitted function
    differentiate: tuple[int, ...] = (0,)
    quantities: tuple[str, ...] = QUANTITIES
    mean_bound: float | None = None
    worst_bound: float | None = None
    ours: bool = True


def contestants() -> list[Contestant]:
    """Everything that is raced against `jax.nn`; the first two are marks to read the rest by."""
    return [
        Contestant("jax.nn.softmax again (noise)", jax.nn.softmax, ours=False),
        Contestant("one max, one write (floor)", _one_pass, quantities=(FORWARD,), ours=False),
        *(
            Contestant(f"{ours.__name__}", ours, against, mean_bound=1.1, worst_bound=1.1)
            for ours, against in (
                (jsoftmax.softmax, jax.nn.softmax),
                (jsoftmax.log_softmax, jax.nn.log_softmax),
                (jsoftmax.logsumexp, _logsumexp),
            )
        ),
        Contestant("sparsemax", jsoftmax.sparsemax, mean_bound=2.0, worst_bound=4.0),
        Contestant("entmax 1.5", _entmax(1.5), mean_bound=2.0, worst_bound=4.0),
        *(
            Contestant(f"entmax {alpha}", _entmax(alpha), mean_bound=6.0, worst_bound=6.0)
            for alpha in (1.25, 1.75, 3.0, 0.7)
        ),
        *(
            Contestant(
                f"entmax, traced alpha {alpha}",
                jsoftmax.entmax,
                traced=(alpha,),
                mean_bound=8.0,
                worst_bound=8.0,
            )
            for alpha in (1.5, 1.25)
        ),
        Contestant(
            "entmax, traced alpha 1.5, d/dalpha too",
            jsoftmax.entmax,
            traced=(1.5,),
            differentiate=(0, 1),
            quantities=(GRADIENT,),
        ),
    ]


def _entmax(alpha: float) -> Callable[[jax.Array], jax.Array]:
    return lambda logits: jsoftmax.entmax(logits, alpha)


def _logsumexp(logits: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(logits, axis=-1)


def _one_pass(logits: jax.Array) -> jax.Array:
    # No mapping to the simplex can do less: see the whole row, then write it.
    return jnp.maximum(logits - logits.max(-1, keepdims=True) + 1, 0)
