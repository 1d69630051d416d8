"""Masks of truncation, against softmax and against a sort."""

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

SOFTMAX = "jax.nn.softmax"
SHAPES = ((16, 128_256), (128, 32_000))
QUICK = ((4, 4_096),)
SPREADS = (1.0, 4.0)
# How many times the time of softmax, at [16, 128256].
BOUNDS = {"top_p_mask, 0.9": 12.0, "min_p_mask": 1.5, "k, p and min_p together": 14.0}


def together(z: jax.Array) -> jax.Array:
    """Apply top-k, top-p and min-p, one after the other."""
    mask = jsoftmax.top_k_mask(z, 50)
    mask = jsoftmax.top_p_mask(z, 0.9, where=mask)
    return jsoftmax.min_p_mask(z, 0.05, where=mask)


def by_sorting(z: jax.Array) -> jax.Array:
    """Top-p as it is written by hand: sorted probabilities, summed, and a cut."""
    ordered = jnp.sort(z, -1)[:, ::-1]
    below = jnp.cumsum(jax.nn.softmax(ordered), -1) < 0.9
    last = jnp.sum(below, -1, keepdims=True)
    return z >= jnp.take_along_axis(ordered, last, -1)


def by_halving(z: jax.Array) -> jax.Array:
    """Top-p by 31 halvings of an interval of scores, as in serving libraries."""
    p = jax.nn.softmax(z)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        enough = jnp.sum(jnp.where(z >= middle, p, 0), -1, keepdims=True) >= 0.9
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    top = jnp.max(z, -1, keepdims=True)
    return z >= jax.lax.fori_loop(0, 31, halve, (jnp.min(z, -1, keepdims=True), top))[0]


CONTESTANTS: dict[str, Callable[[jax.Array], object]] = {
    SOFTMAX: jax.nn.softmax,
    "top_k_mask, 50": lambda z: jsoftmax.top_k_mask(z, 50),
    "top_k_mask, 1000": lambda z: jsoftmax.top_k_mask(z, 1000),
    "top_p_mask, 0.5": lambda z: jsoftmax.top_p_mask(z, 0.5),
    "top_p_mask, 0.9": lambda z: jsoftmax.top_p_mask(z, 0.9),
    "top_p_mask, 0.99": lambda z: jsoftmax.top_p_mask(z, 0.99),
    "min_p_mask": lambda z: jsoftmax.min_p_mask(z, 0.05),
    "top_n_sigma_mask": lambda z: jsoftmax.top_n_sigma_mask(z, 1.0),
    "eta_mask": lambda z: jsoftmax.eta_mask(z, 3e-4),
    "typical_mask, 0.9": lambda z: jsoftmax.typical_mask(z, 0.9),
    "k, p and min_p together": together,
    "categorical": lambda z: jsoftmax.categorical(jax.random.key(0), z),
    "sample_token with all three": lambda z: jsoftmax.sample_token(
        jax.random.key(0), z, k=50, p=0.9, min_p=0.05
    ),
    "top-p by 31 halvings": by_halving,
    "top-p by a sort": by_sorting,
}


def measure(shape: tuple[int, int], spread: float, rounds: int) -> list[dict]:
    """One record a contestant: milliseconds, and how many times softmax that is."""
    z = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * spread
    logits = jnp.asarray(z)

    def call(function):
        executable = jax.jit(function).lower(logits).compile()
        return lambda: jax.block_until_ready(executable(logits))

    best = race({name: call(function) for name, function in CONTESTANTS.items()}, rounds=rounds)
    return [
        {
            "shape": list(shape),
            "spread": spread,
            "name": name,
            "milliseconds": 1e3 * seconds,
            "ratio": seconds / best[SOFTMAX],
        }
        for name, seconds in best.items()
    ]


def table(records: list[dict], rounds: int) -> Table:
    """Ratios, a column for each shape and spread, and the bound beside."""
    columns = {(tuple(r["shape"]), r["spread"]): None for r in records}
    found = {(r["name"], tuple(r["shape"]), r["spread"]): r["ratio"] for r in records}
    rows = [
        [name, *(f"{found[name, *column]:.2f}" for column in columns), f"{BOUNDS[name]:g}"]
        if name in BOUNDS
        else [name, *(f"{found[name, *column]:.2f}" for column in columns), ""]
        for name in CONTESTANTS
    ]
    heads = [f"[{shape[0]}, {shape[1]}], σ = {spread:g}" for shape, spread in columns]
    return Table(
        "Truncation",
        f"Time divided by that of `{SOFTMAX}`; float32 logits from a normal distribution; minima "
        f"of at least {rounds} interleaved rounds. The bound is for [16, 128256].",
        ["", *heads, "bound"],
        rows,
    )


def run(settings, screen) -> Outcome:
    """Race every shape at every spread."""
    cases = [(shape, spread) for shape in settings.shapes for spread in SPREADS]
    records = [
        record
        for shape, spread in track(cases, "cases", console=screen)
        for record in measure(shape, spread, settings.rounds)
    ]
    kept = {"rounds": settings.rounds, "records": records}
    return Outcome([table(records, settings.rounds)], kept)


BENCHMARK = Benchmark(
    "truncation",
    "Truncation, timed",
    run,
    {"shapes": Setting(SHAPES, QUICK), "rounds": Setting(15, 2, "rounds of every race")},
)


if __name__ == "__main__":
    command("truncation")
