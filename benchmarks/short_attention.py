"""Value and gradient of short attention beside jax.nn."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

BOUND = 1.1
# Batch, length, heads, key heads, width.
SHAPES = (
    (1, 64, 8, 2, 64),
    (8, 64, 8, 2, 64),
    (16, 64, 4, 2, 32),
    (1, 64, 2, 2, 64),
    (4, 64, 2, 2, 64),
)
PEER, AGAIN = "jax.nn.dot_product_attention", "jax.nn again"
CONTESTANTS: dict[str, Callable] = {
    PEER: jax.nn.dot_product_attention,
    AGAIN: jax.nn.dot_product_attention,
    "jsoftmax": jsoftmax.dot_product_attention,
}


def measure(shape: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Seconds of each contestant: value and gradient in queries, keys and values."""
    batch, length, heads, key_heads, width = shape
    rng = np.random.default_rng(0)

    def of_heads(n):
        return jnp.asarray(rng.standard_normal((batch, length, n, width)), jnp.float32)

    given = of_heads(heads), of_heads(key_heads), of_heads(key_heads)

    def call(attend):
        def total(q, k, v):
            return jnp.sum(jnp.sin(attend(q, k, v)))

        program = jax.jit(jax.value_and_grad(total, (0, 1, 2))).lower(*given).compile()
        return lambda: jax.block_until_ready(program(*given))

    return race({name: call(attend) for name, attend in CONTESTANTS.items()}, seconds=seconds)


def table(found: list[tuple[tuple[int, ...], dict[str, float]]]) -> Table:
    """Ratios to jax.nn."""
    rows = [
        [
            str(shape),
            f"{1e3 * best[PEER]:.3f}",
            f"{best[AGAIN] / best[PEER]:.2f}",
            f"{best['jsoftmax'] / best[PEER]:.2f}",
            "yes" if best["jsoftmax"] <= BOUND * best[PEER] else "no",
        ]
        for shape, best in found
    ]
    return Table(
        "Short attention, value and gradient",
        "Float32, softmax; minima of interleaved rounds, divided by that of "
        f"`jax.nn.dot_product_attention`. The bound is {BOUND:g}.",
        ["batch, length, heads, key heads, width", "jax.nn, ms", "again", "jsoftmax", "met"],
        rows,
    )


def run(settings, screen) -> Outcome:
    """Race every shape."""
    shapes = track(settings.shapes, "shapes", console=screen)
    found = [(shape, measure(shape, settings.seconds)) for shape in shapes]
    records = [{"shape": list(shape), "seconds": best} for shape, best in found]
    return Outcome([table(found)], {"records": records})


BENCHMARK = Benchmark(
    "short_attention",
    "Short attention, timed",
    run,
    {"shapes": Setting(SHAPES), "seconds": Setting(5.0, 0.2, "of every race, at least")},
)


if __name__ == "__main__":
    command("short_attention")
