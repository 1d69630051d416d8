"""The training loop, with a progress line while it runs and a table at the end."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import resource
import sys
import time
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from examples.language_model import data, tokens
from examples.language_model.checkpoints import Checkpoints, check_same, last_run
from examples.language_model.config import Config
from examples.language_model.generate import generate
from examples.language_model.train import Metrics, Training, make_mesh, schedule


class Row(NamedTuple):
    """A line of the table: means since the previous line."""

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
    metrics: pathlib.Path | None = None,
    folder: pathlib.Path | None = None,
    every: int = 50,
    resume: bool = False,
    console: Console | None = None,
) -> list[Row]:
    """Train, and return the table's rows.

    Args:
        config: the settings.
        mesh: sizes of the axes data and model.
        text: a file with the training text; None for Python's help topics.
        report: steps per row.
        metrics: a file for the rows, appended as lines of JSON.
        folder: the folder for checkpoints, or None.
        every: steps between two checkpoints.
        resume: whether to resume from the last checkpoint.
        console: where to print; by default process 0 prints.
    """
    console = console or Console(quiet=jax.process_index() > 0)
    place = make_mesh(*mesh)
    part, parts = data.share(place)
    documents = tokens.documents(text)
    print_of_text = zlib.crc32("\0".join(documents).encode())
    tokenizer = tokens.Tokenizer.of(documents, config.classes)
    cut = data.windows(documents, tokenizer, config.length)
    batches = iter(data.pipeline(cut, config, part, parts))
    before = last_run(folder) if folder and resume else None
    if before is not None:
        check_same(config, print_of_text, before)
        batches.set_state(before["data"])
    first = 0 if before is None else before["step"]

    training = Training(config, place)
    store = None if folder is None else Checkpoints(folder, every)
    start = time.perf_counter()
    step = training.compile()
    console.print(
        f"{training.parameters:,} parameters, {len(cut):,} windows of {config.length} tokens, "
        f"mesh {mesh[0]} × {mesh[1]} of {place.devices.flat[0].device_kind}, "
        f"compiled in {time.perf_counter() - start:.1f} s",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    state = training.init() if before is None else store.read(training.abstract)
    rows: list[Row] = []
    with progress(console) as line:
        task = line.add_task("", total=config.steps, completed=first, loss=float("nan"), speed=0.0)
        since, pending = time.perf_counter(), []
        for number in range(first + 1, config.steps + 1):
            state, measured = step(state, data.on_mesh(next(batches), place))
            pending.append(measured)
            if number % report == 0 or number == config.steps:
                read = jax.device_get(pending)  # waits, once per row, not once per step
                now = time.perf_counter()
                rows.append(row_of(config, number, read, now - since))
                since, pending = now, []
                line.update(
                    task, completed=number, loss=rows[-1].loss, speed=rows[-1].tokens_per_second
                )
                if metrics is not None and jax.process_index() == 0:
                    with metrics.open("a") as lines:
                        lines.write(json.dumps(rows[-1]._asdict()) + "\n")
            if store is not None:
                about = {
                    "step": number, "config": dataclasses.asdict(config), "text": print_of_text,
                    "data": batches.get_state(), "pieces": tokenizer.pieces,
                }  # fmt: skip
                store.save(number, state, about, last=number == config.steps)
    if store is not None:
        store.close()
    console.print(table(rows))
    return rows


def row_of(config: Config, step: int, read: list[Metrics], seconds: float) -> Row:
    """Summarise the steps since the previous row."""
    return Row(
        step,
        sum(float(metrics.loss) for metrics in read) / len(read),
        float(read[-1].gradient_norm),
        float(schedule(config)(step - 1)),
        sum(int(metrics.tokens) for metrics in read) / seconds,
        megabytes(),
    )


def write(
    config: Config,
    folder: pathlib.Path,
    prompt: str,
    *,
    mesh: tuple[int, int] = (1, 1),
    count: int = 100,
    draws: int = 1,
    temperature: float = 0.8,
    seed: int = 0,
    console: Console | None = None,
) -> list[str]:
    """Continue a prompt with the last checkpoint of a folder; return the continuations."""
    console = console or Console(quiet=jax.process_index() > 0)
    about = last_run(folder)
    tokenizer = tokens.Tokenizer(about["pieces"])
    training = Training(config, make_mesh(*mesh))
    store = Checkpoints(folder)
    model = training.model(store.read(training.abstract))
    store.close()
    ids = jnp.asarray([tokens.END, *tokenizer.encode(prompt)], jnp.int32)
    start = time.perf_counter()
    with jax.set_mesh(training.mesh):
        added = generate(model, jnp.tile(ids, (draws, 1)), count, jax.random.key(seed), temperature)
        texts = [tokenizer.decode(row) for row in jax.device_get(added)]
    seconds = time.perf_counter() - start
    for text in texts:
        console.print(f"[bold]{escape(prompt)}[/bold]{escape(text)}\n", highlight=False)
    console.print(f"{draws * count} tokens in {seconds:.1f} s, compiling included", highlight=False)
    return texts


def progress(console: Console) -> Progress:
    """Return a progress line with step, loss and speed."""
    return Progress(
        TextColumn("step"), MofNCompleteColumn(), BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip


def table(rows: list[Row]) -> Table:
    """Format the rows as a table."""
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
    """Return the peak memory, of a device if it reports one, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
