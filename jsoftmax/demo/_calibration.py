"""Calibrate over-confident classifiers of noisy digits, and predict conformal sets."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.table import Table

import jsoftmax as js
from jsoftmax.demo import _pictures as pictures
from jsoftmax.demo._digits import CLASSES, HIDDEN, PIXELS, read
from jsoftmax.demo._measures import BINS, Measures
from jsoftmax.demo._sections import Options

# So few training examples, seen so often, that all of them are memorised.
LEARNED, SCALED, LEARNING_RATE, STEPS_PER_EPOCH = 250, 400, 1e-2, 10
NOISE = 0.25
COVERAGE = 0.95
FAMILY = {"softmax": 1.0, "entmax-1.5": 1.5}


class Examples(NamedTuple):
    """Images of shape [n, 64], later their logits of shape [n, 10], and labels."""

    x: jax.Array
    labels: jax.Array


class Outcome(NamedTuple):
    """The quality of the probabilities, and for each score the coverage and mean size of its sets.

    `classwise` is the error of all classes; `diagram` is the data of a reliability diagram.
    """

    measures: Measures
    classwise: float
    diagram: js.calibration.Reliability
    sets: dict[str, tuple[float, float]]


def run(options: Options, console: Console) -> None:
    """Train, calibrate, print the table, save the picture."""
    learned, scaled, ranked, judged = split(options.seed)
    console.print(
        f"Noisy digits: {len(learned.labels)} for training, {len(scaled.labels)} for the scales, "
        f"{len(ranked.labels)} for the thresholds of sets, {len(judged.labels)} for testing.\n"
    )
    outcomes = {}
    for name, alpha in FAMILY.items():
        weights = train(learned, alpha, options)
        logits = [Examples(forward(weights, e.x), e.labels) for e in (scaled, ranked, judged)]
        for way, scale in scalings(logits[0], alpha).items():
            ranked_now, judged_now = (Examples(scale(e.x), e.labels) for e in logits[1:])
            outcomes[name, way] = outcome(ranked_now, judged_now, alpha)
    console.print(table(outcomes))
    console.print(notes(len(ranked.labels), len(judged.labels)), highlight=False)
    path = pictures.save_calibration(
        options.output, {key: (o.diagram, o.measures.calibration) for key, o in outcomes.items()}
    )
    console.print(f"\nSaved {path}", soft_wrap=True)


def split(seed: int) -> tuple[Examples, ...]:
    """Return four sets of digits, with noise on every pixel."""
    data = read(seed)
    images = np.concatenate([data.train_images, data.images])
    labels = np.concatenate([data.train_labels, data.labels])
    noise = np.random.default_rng(seed).normal(scale=NOISE, size=images.shape)
    places = [LEARNED, LEARNED + SCALED, len(data.train_labels)]
    parts = np.split((images + noise).astype(np.float32), places), np.split(labels, places)
    return tuple(Examples(jnp.asarray(x), jnp.asarray(y)) for x, y in zip(*parts, strict=True))


def forward(weights: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    """Return the logits of a network with one hidden layer."""
    return jax.nn.relu(images @ weights["hidden"] + weights["bias"]) @ weights["readout"]


def train(examples: Examples, alpha: float, options: Options) -> dict[str, jax.Array]:
    """Train by Adam on all examples at once, with the loss of the mapping."""
    first, second = jax.random.split(jax.random.key(options.seed))
    init = jax.nn.initializers.he_normal()
    weights = {
        "hidden": init(first, (PIXELS, HIDDEN)),
        "bias": jnp.zeros(HIDDEN),
        "readout": init(second, (HIDDEN, CLASSES)),
    }
    optimizer = optax.adam(LEARNING_RATE)

    def loss(weights):
        return js.entmax_loss(forward(weights, examples.x), examples.labels, alpha=alpha).mean()

    def step(state, _):
        weights, memory = state
        move, memory = optimizer.update(jax.grad(loss)(weights), memory)
        return (optax.apply_updates(weights, move), memory), None

    start = (weights, optimizer.init(weights))
    steps = options.epochs * STEPS_PER_EPOCH
    return jax.jit(lambda start: jax.lax.scan(step, start, length=steps)[0][0])(start)


def scalings(examples: Examples, alpha: float) -> dict:
    """Return scalings of logits, fitted to held-out examples."""
    t = js.temperature_scaling(examples.x, examples.labels, alpha=alpha)
    vector = js.vector_scaling(examples.x, examples.labels, alpha=alpha)
    return {
        "as trained": lambda z: z,
        f"T = {t:.2f}": lambda z: z / t,
        "by class": vector.apply,
    }


def outcome(ranked: Examples, judged: Examples, alpha: float) -> Outcome:
    """Compute thresholds from `ranked`, everything else from `judged`."""
    p, sets, classwise, diagram = jax.device_get(_measured(ranked, judged, alpha))
    labels = np.asarray(judged.labels)
    covered = {name: np.take_along_axis(found, labels[:, None], -1) for name, found in sets.items()}
    return Outcome(
        Measures.of(p, labels),
        float(classwise),
        diagram,
        {name: (float(covered[name].mean()), float(sets[name].sum(-1).mean())) for name in sets},
    )


@partial(jax.jit, static_argnums=2)
def _measured(ranked, judged, alpha):
    scores = {
        "1 − p": lambda z: js.calibration.lac_scores(js.entmax(z, alpha)),
        "adaptive": lambda z: js.calibration.aps_scores(js.entmax(z, alpha)),
        "support": js.calibration.entmax_scores,
    }
    sets = {}
    for name, score in scores.items():
        threshold = js.conformal_threshold(score(ranked.x), ranked.labels, COVERAGE)
        sets[name] = js.conformal_sets(score(judged.x), threshold)
    p = js.entmax(judged.x, alpha)
    examples = p, judged.labels, BINS
    return p, sets, js.classwise_calibration_error(*examples), js.reliability_diagram(*examples)


def table(outcomes: dict[tuple[str, str], Outcome]) -> Table:
    """Tabulate a row for each classifier and each scaling of its logits."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    result.add_column("logits", no_wrap=True)
    for heading in ("\nright", "\nerror", "class\nerror", "Brier\nscore"):
        result.add_column(heading, justify="right", no_wrap=True)
    for score in next(iter(outcomes.values())).sets:
        result.add_column(f"% sets by\n{score}", justify="right", no_wrap=True)
    last = None
    for (name, way), o in outcomes.items():
        if name != last:
            result.add_row(name, style="bold")
        last = name
        m = o.measures
        result.add_row(
            f"  {way}",
            f"{m.accuracy:.1%}",
            f"{m.calibration:.3f}",
            f"{o.classwise:.3f}",
            f"{m.brier:.3f}",
            *(f"{100 * coverage:.1f} {size:4.1f}" for coverage, size in o.sets.values()),
        )
    return result


def notes(ranked: int, judged: int) -> str:
    """Return the legend of the table."""
    k = int(np.ceil(COVERAGE * (ranked + 1)))
    spread = (k * (ranked + 1 - k) / (ranked + 1) ** 2 / (ranked + 2)) ** 0.5
    spread = (spread**2 + COVERAGE * (1 - COVERAGE) / judged) ** 0.5
    return (
        "Error: calibration error, for the predicted class and for every class. Sets: the share "
        f"that holds the true class, and the mean number of classes. {COVERAGE:.0%} is guaranteed, "
        f"more with equal scores; the standard deviation of one run is {spread:.1%}. Where entmax "
        "gives the true class the probability 0 too often, sets from p must hold every class; the "
        "support, that of entmax-1.5 at its own temperature, need not."
    )
