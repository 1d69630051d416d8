"""The loop: batches in, a progress line while it runs, a table at the end."""

from __future__ import annotations

import pathlib
import resource
import sys
import time
from typing import NamedTuple

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from examples.language_model import data, tokens
from examples.language_model.config import Config
from examples.language_model.train import Training, make_mesh, schedule


class Row(NamedTuple):
    """A line of the table: means since the line before."""

    step: int
    loss: float
    gradient_norm: float
    rate: float
    tokens_per_second: float
    megabytes: float


def run(
    config: Config,
    *,
    mesh: tuple[int, int] = (1, 1),
    text: pathlib.Path | None = None,
    report: int = 10,
    console: Console | None = None,
) -> list[Row]:
    """Train; returns the table's rows."""
    console = console or Console(quiet=jax.process_index() > 0)
    place = make_mesh(*mesh)
    part, parts = data.share(place)
    documents = tokens.documents(text)
    tokenizer = tokens.Tokenizer.of(documents, config.classes)
    cut = data.windows(documents, tokenizer, config.length)
    batches = iter(data.pipeline(cut, config, part, parts))
    training = Training(config, place)
    start = time.perf_counter()
    state = training.init()
    step = training.compile()
    console.print(
        f"{sum(x.size for x in jax.tree.leaves(training.abstract)):,} numbers of state, "
        f"{len(cut):,} windows of {config.length}, mesh {mesh[0]} × {mesh[1]} of "
        f"{place.devices.flat[0].device_kind}, compiled in {time.perf_counter() - start:.1f} s",
        highlight=False,
    )
    rows: list[Row] = []
    with progress(console) as line:
        task = line.add_task("", total=config.steps, loss=float("nan"), speed=0.0)
        since, pending = time.perf_counter(), []
        for number in range(config.steps):
            state, metrics = step(state, data.on_mesh(next(batches), place))
            pending.append(metrics)
            if (number + 1) % report == 0 or number + 1 == config.steps:
                read = jax.device_get(pending)  # waits, once a line and not once a step
                now = time.perf_counter()
                row = Row(
                    number + 1,
                    sum(float(m.loss) for m in read) / len(read),
                    float(read[-1].gradient_norm),
                    float(schedule(config)(number)),
                    sum(int(m.tokens) for m in read) / (now - since),
                    megabytes(),
                )
                rows.append(row)
                since, pending = now, []
                line.update(
                    task, completed=number + 1, loss=row.loss, speed=row.tokens_per_second
                )
    console.print(table(rows))
    return rows


def progress(console: Console) -> Progress:
    """One line: where training is, its loss, its speed."""
    return Progress(
        TextColumn("step"), MofNCompleteColumn(), BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip


def table(rows: list[Row]) -> Table:
    """The rows for people."""
    made = Table("step", "loss", "gradient norm", "rate", "tokens/s", "memory MB")
    for column in made.columns:
        column.justify = "right"
    for row in rows:
        made.add_row(
            str(row.step), f"{row.loss:.4f}", f"{row.gradient_norm:.3f}", f"{row.rate:.2e}",
            f"{row.tokens_per_second:,.0f}", f"{row.megabytes:,.0f}",
        )  # fmt: skip
    return made


def megabytes() -> float:
    """The most memory that was in use: a device's where it counts, else this process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
