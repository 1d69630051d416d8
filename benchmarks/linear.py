"""Losses from features and a class table, against the dense way."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

PRODUCTS, DENSE = "three matrix products", "optax on h @ W"
PER_TOKEN, SUM = "jsoftmax.linear_cross_entropy", "jsoftmax.linear_cross_entropy_sum"
ENTMAX, TOKAMAX = "jsoftmax.linear_entmax_loss, 1.5", "tokamax, xla"


@dataclasses.dataclass(frozen=True)
class Case:
    """`tokens` rows of `width` features, and a table of `classes`."""

    tokens: int
    width: int
    classes: int
    large: bool = False
    is_size: bool = False  # only against the dense way, for how the ratio goes with the size

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.tokens} × {self.width} × {self.classes}"


CASES = (Case(2048, 512, 32_000, large=True), Case(256, 64, 1_000))
# From 2²⁰ to 2²⁴ scores, even and odd, wide and high; beyond, where scores are computed twice.
SIZES = tuple(
    Case(*size, is_size=True)
    for size in (
        (256, 64, 4_096), (256, 64, 16_001), (512, 64, 13_777), (4_096, 64, 1_024),
        (1_024, 256, 8_000), (128, 512, 131_072), (4_096, 64, 4_096), (4_096, 64, 4_200),
    )
)  # fmt: skip
QUICK = (Case(256, 32, 4_000, large=True), Case(64, 16, 100), Case(64, 16, 999, is_size=True))


@dataclasses.dataclass(frozen=True)
class Bound:
    """A ratio of times, or of temporaries, that should be kept."""

    what: str
    over: str
    most: float
    large: bool
    quantity: str = "milliseconds"


BOUNDS = (
    Bound(PER_TOKEN, DENSE, 1.0, large=True),
    Bound(PER_TOKEN, PRODUCTS, 1.5, large=True),
    Bound(SUM, PRODUCTS, 1.2, large=True),
    Bound(ENTMAX, PER_TOKEN, 2.0, large=True),
    Bound(PER_TOKEN, DENSE, 0.2, large=True, quantity="megabytes"),
    Bound(SUM, DENSE, 0.2, large=True, quantity="megabytes"),
    Bound(PER_TOKEN, DENSE, 1.0, large=False),
    Bound(SUM, DENSE, 1.0, large=False),
)


def contestants(labels: jax.Array) -> dict[str, Callable]:
    """Everything that goes from (features, kernel) to a mean loss and its two gradients."""
    n = labels.size

    def of(loss):
        return jax.value_and_grad(loss, argnums=(0, 1))

    def dense(h, kernel):
        return optax.softmax_cross_entropy_with_integer_labels(h @ kernel, labels).mean()

    found = {
        PRODUCTS: products,
        DENSE: of(dense),
        PER_TOKEN: of(lambda h, w: jsoftmax.linear_cross_entropy(h, w, labels).mean()),
        SUM: of(lambda h, w: jsoftmax.linear_cross_entropy_sum(h, w, labels, 1 / n)),
        ENTMAX: of(lambda h, w: jsoftmax.linear_entmax_loss(h, w, labels, alpha=1.5).mean()),
    }
    if (tokamax := optional("tokamax")) is not None:
        theirs = tokamax.linear_softmax_cross_entropy_loss
        sys.argv[1:] = []  # which it reads for flags of its own
        options = {"reduction": "mean", "implementation": "xla"}
        found[TOKAMAX] = of(lambda h, w: theirs(h, labels, w, **options))
    return found


def products(h: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least work of any way: the scores, and two products of their size for the gradients."""
    z = h @ kernel
    return z @ kernel.T, h.T @ z


def optional(name: str):
    """A package that need not be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def measure(case: Case, rounds: int) -> list[dict]:
    """One record a contestant: milliseconds, and megabytes of temporaries."""
    rng = np.random.default_rng(0)
    h = jnp.asarray(rng.normal(size=(case.tokens, case.width)), jnp.float32)
    spread = 2 / case.width**0.5  # scores of standard deviation 2
    kernel = jnp.asarray(rng.normal(0, spread, (case.width, case.classes)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, case.classes, case.tokens))
    calls, memory = {}, {}
    racers = contestants(labels)
    if case.is_size:
        racers = {name: racers[name] for name in (DENSE, PER_TOKEN, SUM)}
    for name, contestant in racers.items():
        executable = jax.jit(contestant).lower(h, kernel).compile()
        analysis = executable.memory_analysis()
        memory[name] = None if analysis is None else analysis.temp_size_in_bytes / 1e6
        calls[name] = _call(executable, (h, kernel))
    best = race(calls, rounds=rounds, seconds=5 if case.is_size else 15)
    return [
        {
            "case": case.name,
            "large": case.large,
            "is_size": case.is_size,
            "contestant": name,
            "milliseconds": 1e3 * best[name],
            "megabytes": memory[name],
        }
        for name in calls
    ]


def _call(executable, inputs) -> Callable[[], object]:
    return lambda: jax.block_until_ready(executable(*inputs))


def tables(records: list[dict], rounds: int) -> list[Table]:
    """One table for the bounds, one for all contestants, and one for the sizes."""
    sizes = [record for record in records if record["is_size"]]
    records = [record for record in records if not record["is_size"]]
    rows = []
    for record in records:
        rows.append(
            [
                record["case"],
                record["contestant"],
                f"{record['milliseconds']:.3g}",
                *(f"{_over(records, record, name):.2f}" for name in (PRODUCTS, DENSE)),
                "–" if record["megabytes"] is None else f"{record['megabytes']:.3g}",
            ]
        )
    kept = []
    for bound in BOUNDS:
        mine = _record(records, bound.large, bound.what)
        theirs = _record(records, bound.large, bound.over)
        if mine[bound.quantity] is None or not theirs[bound.quantity]:
            continue
        ratio = mine[bound.quantity] / theirs[bound.quantity]
        is_time = bound.quantity == "milliseconds"
        kept.append(
            [
                mine["case"],
                f"{bound.what} ÷ {bound.over}",
                "time" if is_time else "temporaries",
                f"{ratio:.2f}",
                f"{bound.most:g}",
                "yes" if round(ratio, 2) <= bound.most else "no",
            ]
        )
    return [
        Table(
            "Bounds",
            "The most that ratios should be.",
            ["case", "ratio", "of", "measured", "bound", "met"],
            kept,
        ),
        Table(
            "Loss and gradients",
            "Tokens × features × classes, float32; the mean loss and its gradients in features and "
            f"kernel. Minima of at least {rounds} interleaved rounds. Memory is allocated by the "
            "compiler, besides input and output.",
            ["case", "contestant", "ms", f"÷ {PRODUCTS}", f"÷ {DENSE}", "MB"],
            rows,
        ),
        Table(
            "From 2²⁰ to 2²⁴ scores, and one beyond",
            f"The same against {DENSE} alone: no more time and no more temporaries are the bounds "
            "up to 2²⁴.",
            ["case", "contestant", "ms", "÷ dense", "MB", "÷ dense"],
            list(_size_rows(sizes)),
        ),
    ]


def _size_rows(records: list[dict]) -> Iterator[list[str]]:
    dense = {r["case"]: r for r in records if r["contestant"] == DENSE}
    for record in records:
        over, mb = dense[record["case"]], record["megabytes"]
        yield [
            record["case"],
            record["contestant"],
            f"{record['milliseconds']:.3g}",
            f"{record['milliseconds'] / over['milliseconds']:.2f}",
            "–" if mb is None else f"{mb:.3g}",
            "–" if mb is None else f"{mb / over['megabytes']:.2f}",
        ]


def _record(records: list[dict], large: bool, name: str) -> dict:
    return next(r for r in records if r["large"] == large and r["contestant"] == name)


def _over(records: list[dict], record: dict, name: str) -> float:
    return record["milliseconds"] / _record(records, record["large"], name)["milliseconds"]


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
    "linear",
    "Linear losses, timed",
    run,
    {
        "cases": Setting((*CASES, *SIZES), QUICK),
        "rounds": Setting(10, 2, "rounds of every race"),
    },
)


if __name__ == "__main__":
    command("linear")
