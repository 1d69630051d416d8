"""Handwritten digits: one small classifier with four mappings from scores to probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jsoftmax.demo import _pictures as pictures
from jsoftmax.demo._measures import Measures
from jsoftmax.demo._sections import Options
from jsoftmax.nnx import Entmax, EntmaxReadout

PIXELS, HIDDEN, GROUPS, CLASSES = 64, 64, 8, 10
BATCH, LEARNING_RATE = 64, 3e-3

# name → α of the readout and its loss, and whether a gate with its own α is learned.
CLASSIFIERS = {
    "softmax": (1.0, False),
    "sparsemax": (2.0, False),
    "entmax-1.5": (1.5, False),
    "softmax, gated": (1.0, True),
}


def run(options: Options, console: Console) -> None:
    """Train every classifier, print the table, save the pictures."""
    data = read(options.seed)
    console.print(
        f"Handwritten digits of 8 × 8 pixels: {len(data.train_labels)} for training, "
        f"{len(data.labels)} for testing.\n"
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TextColumn("epochs"), TimeElapsedColumn(), console=console) as progress:
        tasks = {
            name: progress.add_task(f"{name:14}", total=options.epochs) for name in CLASSIFIERS
        }
        runs = {
            name: train(
                data, alpha, gated, options, lambda task=tasks[name]: progress.advance(task)
            )
            for name, (alpha, gated) in CLASSIFIERS.items()
        }
    console.print(table(runs, data.labels))
    console.print(notes(runs, data.labels), highlight=False)
    saved = pictures.save_digits(options.output, runs, data.images, data.labels)
    console.print("\nSaved " + " and ".join(str(path) for path in saved), soft_wrap=True)


class Data(NamedTuple):
    """Images of shape [n, 64] with values from 0 to 1, and labels from 0 to 9."""

    train_images: np.ndarray
    images: np.ndarray
    train_labels: np.ndarray
    labels: np.ndarray


def read(seed: int) -> Data:
    """Read the digits that ship with scikit-learn, with 30 % held out for testing."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    parts = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=seed)
    return Data(*map(np.asarray, parts))


class Gate(nnx.Module):
    """A gate from pixels to factors of groups of hidden units: 1 on average, many exactly 0."""

    def __init__(self, rngs: nnx.Rngs):
        self.scores = nnx.Linear(PIXELS, GROUPS, rngs=rngs)
        self.entmax = Entmax(alpha=1.5)

    def __call__(self, images: Float[Array, "n pixels"]) -> Float[Array, "n groups"]:
        return GROUPS * self.entmax(self.scores(images))


class Classifier(nnx.Module):
    """A classifier of pixels: hidden units, optionally gated in groups, a readout and its loss.

    A classifier with a gate has a softmax readout and cross-entropy. That loss depends on the
    gate's α only through the gated units, so α may be learned.
    """

    def __init__(self, alpha: float, gated: bool, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(PIXELS, HIDDEN, rngs=rngs)
        self.gate = Gate(rngs) if gated else None
        self.readout = EntmaxReadout(HIDDEN, CLASSES, alpha=alpha, rngs=rngs)

    def features(self, images: Float[Array, "n pixels"]) -> Float[Array, "n hidden"]:
        """Return the hidden units, multiplied by the gate."""
        hidden = nnx.relu(self.hidden(images))
        if self.gate is None:
            return hidden
        return hidden * jnp.repeat(self.gate(images), HIDDEN // GROUPS, axis=-1)

    def loss(self, images: Float[Array, "n pixels"], labels: Int[Array, " n"]) -> Float[Array, ""]:
        """Return the mean loss of a batch."""
        return self.readout.loss(self.features(images), labels).mean()

    def answers(self, images: Float[Array, "n pixels"]) -> Answers:
        """Return the probabilities of images, with the gate and its α."""
        p = self.readout(self.features(images))
        if self.gate is None:
            return Answers(p)
        return Answers(p, self.gate(images), self.gate.entmax.alpha)


class Answers(NamedTuple):
    """Probabilities of the classes, and the gate and its α if there is one."""

    p: Any
    opened: Any = None
    gate_alpha: Any = None


class Run(NamedTuple):
    """The results of training: loss and answers after each epoch, and seconds per step."""

    losses: list[float]
    answers: list[Answers]
    seconds: float


def train(
    data: Data, alpha: float, gated: bool, options: Options, on_epoch: Callable[[], None]
) -> Run:
    """Train a new classifier by Adam; an epoch is one compiled loop over shuffled batches."""
    model = Classifier(alpha, gated, nnx.Rngs(options.seed))
    optimizer = nnx.Optimizer(model, optax.adam(LEARNING_RATE), wrt=nnx.Param)
    graph, state = nnx.split((model, optimizer))
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    steps = len(labels) // BATCH

    def step(state, batch):
        model, optimizer = nnx.merge(graph, state)
        loss, gradient = nnx.value_and_grad(Classifier.loss)(model, images[batch], labels[batch])
        optimizer.update(model, gradient)
        return nnx.state((model, optimizer)), loss

    @jax.jit
    def epoch(state, key):
        order = jax.random.permutation(key, len(labels))[: steps * BATCH]
        return jax.lax.scan(step, state, order.reshape(steps, BATCH))

    @jax.jit
    def answer(state):
        return nnx.merge(graph, state)[0].answers(jnp.asarray(data.images))

    keys = jax.random.split(jax.random.key(options.seed), options.epochs)
    run_epoch = epoch.lower(state, keys[0]).compile()  # so that the times exclude compilation
    losses, answers, seconds = [], [], []
    for key in keys:
        start = time.perf_counter()
        state, of_steps = jax.block_until_ready(run_epoch(state, key))
        seconds.append((time.perf_counter() - start) / steps)
        losses.append(float(of_steps.mean()))
        answers.append(jax.device_get(answer(state)))
        on_epoch()
    return Run(losses, answers, float(np.median(seconds)))


def table(runs: dict[str, Run], labels: np.ndarray) -> Table:
    """Tabulate a row per classifier, measured on the test images."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    result.add_column("trained as", no_wrap=True)
    for heading in (
        "accuracy",
        "Brier\nscore",
        "NLL",
        "infinite\nNLL",
        "calibr.\nerror",
        "mean\nsupport",
        "ms per\nstep",
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, run in runs.items():
        m = Measures.of(run.answers[-1].p, labels)
        result.add_row(
            name,
            f"{m.accuracy:.1%}",
            f"{m.brier:.4f}",
            f"{m.surprise:.4f}",
            str(m.infinite),
            f"{m.calibration:.4f}",
            f"{m.support:.2f}",
            f"{1000 * run.seconds:.2f}",
        )
    return result


def notes(runs: dict[str, Run], labels: np.ndarray) -> str:
    """Return the legend of the table."""
    lines = [
        f"One digit is {1 / len(labels):.2%} of accuracy. NLL is the mean of −log p(true class) "
        "where that is finite; infinite ones, with p = 0, are counted. Support is the number of "
        f"classes with p > 0, of {CLASSES}."
    ]
    for name, run in runs.items():
        answers = run.answers[-1]
        if answers.opened is not None:
            groups = (answers.opened > 0).sum(-1).mean()
            lines.append(
                f"{name}: the gate's α, 1.5 at first, is now {answers.gate_alpha:.2f}; it opens "
                f"{groups:.1f} of {GROUPS} groups of hidden units for a digit."
            )
    return "\n".join(lines)
