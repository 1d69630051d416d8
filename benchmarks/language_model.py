"""A training step of examples/, against jax.nn and optax.

The peer is the same model with `jax.nn.dot_product_attention` and
`optax.softmax_cross_entropy_with_integer_labels` (`--peer` of the example). Both train on the same
batches, step by step in turns on one device; their losses are compared as well.
"""

import dataclasses
import statistics
import time

import jax

from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.runner import command
from benchmarks.tables import Table
from examples.language_model import data, tokens
from examples.language_model.config import Config
from examples.language_model.train import Training, make_mesh

BOUND = 1.0
CASES = {
    "2048 classes": Config(),
    "2048 classes, float32": Config(dtype="float32"),
    "2048 classes, no z-loss": Config(z_loss=0.0),
    "16384 classes": Config(classes=16384, layers=2),
    "length 512": Config(length=512, batch=4, layers=2),
}
STEPS = 30


class Contestant:
    """A model that trains: every turn is a step."""

    def __init__(self, config: Config, cut: list):
        self.training = Training(config, make_mesh(1, 1, devices=jax.devices()[:1]))
        start = time.perf_counter()
        self.step = self.training.compile()
        self.compiling = time.perf_counter() - start
        self.state = self.training.init()
        self.batches = iter(data.pipeline(cut, config, 0, 1))
        self.losses, self.seconds = [], []

    def turn(self) -> None:
        """One step, timed from a batch that is there to a loss that is there."""
        batch = data.on_mesh(next(self.batches), self.training.mesh)
        jax.block_until_ready((self.state, batch))
        start = time.perf_counter()
        self.state, metrics = self.step(self.state, batch)
        jax.block_until_ready((self.state, metrics))
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(float(metrics.loss))

    @property
    def megabytes(self) -> float:
        """Temporaries of a step, as the compiler states them."""
        return self.step.memory_analysis().temp_size_in_bytes / 2**20


def race(config: Config, steps: int) -> dict:
    """Train both in turns; the order reverses every step. The first step of each is not counted."""
    documents = tokens.documents()
    tokenizer = tokens.Tokenizer.of(documents, config.classes)
    cut = data.windows(documents, tokenizer, config.length)
    config = dataclasses.replace(config, steps=steps, warmup=min(5, steps - 1))
    pair = [Contestant(config, cut), Contestant(dataclasses.replace(config, peer=True), cut)]
    for number in range(steps):
        for contestant in pair if number % 2 else reversed(pair):
            contestant.turn()
    ours, peer = pair
    return {
        "milliseconds": 1e3 * min(ours.seconds[1:]),
        "peer_milliseconds": 1e3 * min(peer.seconds[1:]),
        "ratio": min(ours.seconds[1:]) / min(peer.seconds[1:]),
        "median_ratio": statistics.median(ours.seconds[1:]) / statistics.median(peer.seconds[1:]),
        "megabytes": ours.megabytes,
        "peer_megabytes": peer.megabytes,
        "compile_seconds": ours.compiling,
        "peer_compile_seconds": peer.compiling,
        "loss": ours.losses[-1],
        "peer_loss": peer.losses[-1],
        "largest_difference": max(
            abs(a / b - 1) for a, b in zip(ours.losses, peer.losses, strict=True)
        ),
    }


def table(records: dict[str, dict], steps: int) -> Table:
    """A row a case."""
    return Table(
        "A training step of a language model",
        f"Ours and the peer's: the fastest of {steps - 1} steps in turns; the ratio of medians. "
        "Temporaries as the compiler states them. The last column is the largest relative "
        "difference of their losses in any step.",
        ["", "ms", "peer ms", "ratio", "bound", "met", "of medians", "MB", "peer MB", "compile s",
         "peer compile s", "loss", "peer loss", "apart"],
        [
            [
                name, f"{it['milliseconds']:.0f}", f"{it['peer_milliseconds']:.0f}",
                f"{it['ratio']:.2f}", f"{BOUND:g}",
                "yes" if round(it["ratio"], 2) <= BOUND else "no", f"{it['median_ratio']:.2f}",
                f"{it['megabytes']:.0f}", f"{it['peer_megabytes']:.0f}",
                f"{it['compile_seconds']:.1f}", f"{it['peer_compile_seconds']:.1f}",
                f"{it['loss']:.4f}", f"{it['peer_loss']:.4f}", f"{it['largest_difference']:.0e}",
            ]
            for name, it in records.items()
        ],
    )  # fmt: skip


def run(settings, screen) -> Outcome:
    """Train both models in every case."""
    records = {}
    for name in settings.only:
        records[name] = race(CASES[name], settings.steps)
        screen.print(f"{name}: ratio {records[name]['ratio']:.2f}", highlight=False)
    kept = {"steps": settings.steps, "records": records}
    return Outcome([table(records, settings.steps)], kept)


BENCHMARK = Benchmark(
    "language_model",
    "A language model",
    run,
    {
        "only": Setting(
            list(CASES), list(CASES)[:1], "not all cases", many=True, choices=tuple(CASES)
        ),
        "steps": Setting(STEPS, 2, "of each model"),
    },
)


if __name__ == "__main__":
    command("language_model")
