"""Adaptive softmax against torch's, and against all classes."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

OURS, TORCH = "jsoftmax.adaptive_cross_entropy", "torch AdaptiveLogSoftmaxWithLoss"
DIFFERENTIATED, FULL = (
    "jsoftmax.vocabulary.differentiated_cross_entropy",
    "jsoftmax.linear_cross_entropy",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Tokens of `width` features, and classes that occur as Zipf's law has it, or evenly."""

    tokens: int
    width: int
    classes: int
    cutoffs: tuple[int, ...]
    zipf: bool = True

    @property
    def name(self) -> str:
        """For the table."""
        law = "Zipf" if self.zipf else "even"
        return f"{self.tokens} × {self.width} × {self.classes}, {law}"

    def counts(self) -> np.ndarray:
        """How often classes occur."""
        return 1 / np.arange(1.0, self.classes + 1) if self.zipf else np.ones(self.classes)


CASES = (
    Case(2048, 512, 32_000, (2_000, 10_000)),
    Case(2048, 512, 32_000, (2_000, 10_000), zipf=False),
    Case(256, 64, 1_000, (100, 400)),
)
QUICK = (Case(64, 32, 1_000, (100, 400)),)


def optional(name: str) -> Any:
    """A package that need not be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class Problem:
    """Features, labels and tables, the same for everybody."""

    def __init__(self, case: Case):
        rng = np.random.default_rng(0)
        share = case.counts() / case.counts().sum()
        self.case = case
        self.h = rng.normal(size=(case.tokens, case.width)).astype(np.float32)
        self.labels = rng.choice(case.classes, case.tokens, p=share)
        key = jax.random.key(0)
        shape = case.width, case.classes, case.cutoffs
        self.tables = jsoftmax.vocabulary.adaptive_tables(key, *shape)
        self.bands = jsoftmax.vocabulary.differentiated_tables(key, *shape)
        self.kernel = jax.random.normal(key, (case.classes, case.width)) * case.width**-0.5

    def ours(self) -> dict[str, tuple[Any, Any]]:
        """From features and parameters to a mean loss and its gradients; and the parameters."""
        labels = jnp.asarray(self.labels)

        def of(loss, parameters, **options):
            def mean(h, parameters):
                return loss(h, parameters, labels, **options).mean()

            run = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
            return run.lower(self.h, parameters).compile(), parameters

        return {
            OURS: of(jsoftmax.adaptive_cross_entropy, self.tables),
            DIFFERENTIATED: of(jsoftmax.vocabulary.differentiated_cross_entropy, self.bands),
            FULL: of(jsoftmax.linear_cross_entropy, self.kernel, class_axis=0),
        }

    def theirs(self, torch: Any) -> Callable[[], Any]:
        """torch's module with our tables: () → loss, gradients of features, head and tails."""
        case = self.case
        layer = torch.nn.AdaptiveLogSoftmaxWithLoss(
            case.width, case.classes, list(case.cutoffs), div_value=4.0
        )
        tables, first = self.tables, self.tables.bands[0]
        weights = [np.concatenate([first.table, tables.clusters])]
        for band in tables.bands[1:]:
            weights += [np.asarray(band.projection).T, np.asarray(band.table)]
        parameters = list(layer.parameters())
        with torch.no_grad():
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.copy_(torch.tensor(weight))
        h = torch.tensor(self.h, requires_grad=True)
        labels = torch.tensor(self.labels)

        def run():
            return layer(h, labels).loss, h, parameters

        def gradients():
            loss, *leaves = run()
            return loss.detach(), torch.autograd.grad(loss, [h, *leaves[1]])

        return gradients


def flat(gradients: Any) -> list[np.ndarray]:
    """Our gradients in the order of torch's."""
    h, tables = gradients
    found = [h, np.concatenate([tables.bands[0].table, tables.clusters])]
    for band in tables.bands[1:]:
        found += [np.asarray(band.projection).T, band.table]
    return [np.asarray(x) for x in found]


def measure(case: Case, rounds: int) -> list[dict]:
    """One record a contestant: milliseconds, megabytes, and how far it is from torch."""
    problem, calls, memory = Problem(case), {}, {}
    executables = problem.ours()
    for name, (executable, parameters) in executables.items():
        analysis = executable.memory_analysis()
        memory[name] = None if analysis is None else analysis.temp_size_in_bytes / 1e6
        calls[name] = _call(executable, (jnp.asarray(problem.h), parameters))
    distance = None
    if (torch := optional("torch")) is not None:
        calls[TORCH] = problem.theirs(torch)
        loss, gradients = calls[OURS]()
        their_loss, their_gradients = calls[TORCH]()
        distance = abs(float(loss) - float(their_loss)) / float(their_loss)
        for mine, his in zip(flat(gradients), their_gradients, strict=True):
            his = his.numpy()
            scale = max(float(np.abs(his).max()), 1e-30)
            distance = max(distance, float(np.abs(mine - his).max()) / scale)
    best = race(calls, rounds=rounds)
    return [
        {
            "case": case.name,
            "contestant": name,
            "milliseconds": 1e3 * best[name],
            "megabytes": memory.get(name),
            "from torch": distance if name == OURS else None,
        }
        for name in calls
    ]


def _call(executable, inputs) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(executable(*inputs))


def tables(records: list[dict], rounds: int) -> list[Table]:
    """One table for all cases."""
    rows = []
    for record in records:
        theirs = [r for r in records if r["case"] == record["case"] and r["contestant"] == TORCH]
        ratio = f"{record['milliseconds'] / theirs[0]['milliseconds']:.2f}" if theirs else "–"
        memory, distance = record["megabytes"], record["from torch"]
        rows.append(
            [
                record["case"],
                record["contestant"],
                f"{record['milliseconds']:.3g}",
                ratio,
                "–" if memory is None else f"{memory:.3g}",
                "–" if distance is None else f"{distance:.0e}",
            ]
        )
    return [
        Table(
            "Loss and gradients",
            "Tokens × features × classes, float32, two clusters, tables a quarter and a sixteenth "
            "as wide; labels drawn by Zipf's law or evenly. The mean loss and its gradients in "
            f"features and tables. Minima of at least {rounds} interleaved rounds. Memory "
            "is allocated by the compiler, besides input and output. The distance from torch is "
            "the largest of loss and gradients, relative to the largest entry of each; bounds: a "
            "ratio of 1 for adaptive softmax, and a distance of 1e-5.",
            ["case", "contestant", "ms", f"÷ {TORCH}", "MB", "distance from torch"],
            rows,
        )
    ]


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
    "adaptive",
    "Adaptive softmax, timed",
    run,
    {"cases": Setting(CASES, QUICK), "rounds": Setting(10, 2, "rounds of every race")},
)


if __name__ == "__main__":
    command("adaptive")
