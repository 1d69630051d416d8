"""`python -m benchmarks.short_attention`: value and gradient of short attention beside jax.nn."""

import argparse
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import jsoftmax
from benchmarks.machine import machine, sentence
from benchmarks.race import race
from benchmarks.tables import Table, console

RESULTS = pathlib.Path(__file__).parent / "results"
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


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.short_attention")
    parser.add_argument("--quick", action="store_true", help="a smoke run: short, not saved")
    options = parser.parse_args()
    screen = console()
    facts = machine()
    screen.print(sentence(facts))
    seconds = 0.2 if options.quick else 5.0
    found = [(s, measure(s, seconds)) for s in track(SHAPES, "shapes", console=screen)]
    report = table(found)
    screen.print(report.rich())
    if options.quick:
        screen.print("Not saved: a quick run is no evidence.")
        return
    page = "# Short attention, timed\n\nMade by `python -m benchmarks.short_attention`. "
    page += f"{sentence(facts)}\n\n{report.markdown()}"
    (RESULTS / "short_attention.md").write_text(page)
    records = [{"shape": list(shape), "seconds": best} for shape, best in found]
    results = {"machine": facts, "records": records}
    (RESULTS / "short_attention.json").write_text(json.dumps(results, indent=1) + "\n")
    screen.print(f"Saved {RESULTS / 'short_attention.md'} and short_attention.json beside it.")


if __name__ == "__main__":
    main()
