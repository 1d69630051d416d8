"""Time and memory of exact draws, against those of jax.random."""

import dataclasses
import math
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

THEIRS = "jax.random.categorical"
# A call of theirs that needs more than this is compiled for its memory, and not run.
MOST_NUMBERS = 2e8
BOUNDS = {"time": 50.0, "memory": 100.0}  # for M = K = 10,000, how many times theirs is ours


@dataclasses.dataclass(frozen=True)
class Case:
    """`draws` of each of `rows` rows of `classes` logits."""

    rows: int
    draws: int
    classes: int
    bounded: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        rows = f"{self.rows:,} rows, " if self.rows > 1 else ""
        return f"{rows}{self.draws:,} of {self.classes:,}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits."""
        return (self.rows, self.classes) if self.rows > 1 else (self.classes,)

    @property
    def result(self) -> tuple[int, ...]:
        """Of the draws."""
        return (self.rows,) if self.rows > 1 else (self.draws,)


CASES = (
    Case(1, 1, 1_000_000),
    Case(1, 10_000, 10_000, bounded=True),
    Case(1, 1_000_000, 1_000),
    Case(1024, 1, 32_000),
)
QUICK = (Case(1, 1_000, 1_000), Case(64, 1, 4_000))

Sampler = Callable[[jax.Array, jax.Array], jax.Array]


def samplers(case: Case) -> dict[str, Sampler]:
    """Everything that draws (key, logits) → classes; the table is made beforehand."""
    options = {"shape": case.result}
    found: dict[str, Sampler] = {
        THEIRS: lambda key, z: jax.random.categorical(key, z, **options),
        "jsoftmax.categorical": lambda key, z: jsoftmax.categorical(key, z, **options),
        "jsoftmax.gumbel_argmax": lambda key, z: jsoftmax.gumbel_argmax(key, z, **options),
    }
    if case.rows == 1:
        found["jsoftmax.sample_from, softmax"] = lambda key, z: jsoftmax.sample_from(
            key, jsoftmax.softmax(z), **options
        )
        found["jsoftmax.AliasTable"] = lambda key, table: table.sample(key, case.result)
    return found


def measure(case: Case, rounds: int) -> list[dict]:
    """One record a sampler: milliseconds, megabytes of temporaries, ratios to theirs."""
    key = jax.random.key(0)
    logits = np.random.default_rng(0).standard_normal(case.shape).astype(np.float32)
    table = jsoftmax.AliasTable.of(np.exp(logits)) if case.rows == 1 else None
    calls, memory = {}, {}
    for name, sampler in samplers(case).items():
        inputs = (key, table if "Alias" in name else jnp.asarray(logits))
        executable = jax.jit(sampler).lower(*inputs).compile()
        analysis = executable.memory_analysis()
        memory[name] = None if analysis is None else analysis.temp_size_in_bytes / 1e6
        noise = math.prod(case.result) * case.classes
        if noise <= MOST_NUMBERS or ("jsoftmax" in name and "gumbel" not in name):
            calls[name] = _call(executable, inputs)
    best = race(calls, rounds=rounds)
    return [
        {
            "case": case.name,
            "sampler": name,
            "milliseconds": 1e3 * best[name] if name in best else None,
            "megabytes": memory[name],
            "times_faster": _ratio(best.get(THEIRS), best.get(name)),
            "times_smaller": _ratio(memory[THEIRS], memory[name]),
            "bounded": case.bounded and name == "jsoftmax.categorical",
        }
        for name in memory
    ]


def _call(executable, inputs) -> Callable[[], object]:
    return lambda: jax.block_until_ready(executable(*inputs))


def _ratio(theirs: float | None, ours: float | None) -> float | None:
    return theirs / ours if theirs and ours else None


def tables(records: list[dict], rounds: int) -> list[Table]:
    """One table for all cases, and one for the promise."""
    rows = [
        [
            record["case"],
            record["sampler"],
            _shown(record["milliseconds"]),
            _times(record["times_faster"]),
            _shown(record["megabytes"]),
            _times(record["times_smaller"]),
        ]
        for record in records
    ]
    made = [
        Table(
            "Exact draws",
            f"Draws of K classes, by float32 logits of standard deviation 1; minima of {rounds} "
            "interleaved rounds. Memory is allocated by the compiler, besides input and output. "
            f"A dash: more than {MOST_NUMBERS:.0e} numbers of noise, compiled but not run. The "
            "alias table is made beforehand; its time is that of the draws.",
            ["draws", "sampler", "ms", "times as fast", "MB", "times as small"],
            rows,
        )
    ]
    bounded = [record for record in records if record["bounded"]]
    if bounded:
        made.append(
            Table(
                "Bounds",
                f"jsoftmax.categorical against {THEIRS}, {bounded[0]['case']}.",
                ["quantity", "ratio", "bound", "met"],
                [
                    [what, _times(bounded[0][ratio]), f"{bound:g}×", _met(bounded[0][ratio], bound)]
                    for (what, bound), ratio in zip(
                        BOUNDS.items(), ("times_faster", "times_smaller"), strict=True
                    )
                ],
            )
        )
    return made


def _met(ratio: float | None, bound: float) -> str:
    return "–" if ratio is None else "yes" if ratio >= bound else "no"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{_shown(ratio)}×"


def run(settings, screen) -> Outcome:
    """Race every case."""
    records = [
        record
        for case in track(settings.cases, "cases", console=screen)
        for record in measure(case, settings.rounds)
    ]
    kept = {"rounds": settings.rounds, "records": records}
    return Outcome(tables(records, settings.rounds), kept)


BENCHMARK = Benchmark(
    "sampling",
    "Exact sampling, timed",
    run,
    {"cases": Setting(CASES, QUICK), "rounds": Setting(10, 2, "rounds of every race")},
)


if __name__ == "__main__":
    command("sampling")
