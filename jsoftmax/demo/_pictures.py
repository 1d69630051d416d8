"""Pictures of the guided run."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jsoftmax.demo._measures import Measures

# Okabe and Ito's colours, distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
TRUE, OTHER = "#009E73", "#8c8c8c"


def save_digits(
    output: pathlib.Path, runs: dict[str, Any], images: np.ndarray, labels: np.ndarray
) -> list[pathlib.Path]:
    """Save the pictures of the section on digits and return their paths."""
    pages = {
        "digits-training.png": training_curves(runs, labels),
        "digits-probabilities.png": probabilities(runs, images, labels),
    }
    paths = [output / name for name in pages]
    for path, page in zip(paths, pages.values(), strict=True):
        page.savefig(path, dpi=150)
    return paths


def save_calibration(output: pathlib.Path, diagrams: dict[tuple[str, str], Any]) -> pathlib.Path:
    """Save the picture of the section on calibration and return its path."""
    path = output / "calibration-reliability.png"
    reliability(diagrams).savefig(path, dpi=150)
    return path


def training_curves(runs: dict[str, Any], labels: np.ndarray) -> Figure:
    """Draw the loss, the quality, the sparsity and the gate after each epoch."""
    page = Figure(figsize=(11, 8), layout="constrained")
    (loss, quality), (sparsity, gate) = page.subplots(2, 2, sharex=True)
    for (name, run), colour in zip(runs.items(), COLOURS, strict=True):
        epochs = np.arange(1, len(run.answers) + 1)
        measures = [Measures.of(answers.p, labels) for answers in run.answers]
        alphas = [answers.gate_alpha for answers in run.answers]
        gated = alphas[0] is not None
        style: dict[str, Any] = {
            "color": colour,
            "linewidth": 2,
            # Dashes, because softmax has 10 classes with and without a gate.
            "linestyle": "--" if gated else "-",
            # A line through one point is invisible.
            "marker": "o" if len(epochs) == 1 else None,
        }
        loss.plot(epochs, run.losses, label=name, **style)
        quality.plot(epochs, [m.brier for m in measures], **style)
        sparsity.plot(epochs, [m.support for m in measures], **style)
        if gated:
            gate.plot(epochs, alphas, **style)
    loss.set(title="Training loss (each classifier its own)", yscale="log")
    quality.set(title="Brier score on the test digits (one yardstick for all)", yscale="log")
    sparsity.set(title="Classes with p > 0, mean over the test digits", ylim=(0, None))
    gate.set(title="α of the gate, learned from 1.5")
    for axes in (loss, quality):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in (loss, quality, sparsity, gate):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (sparsity, gate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    page.legend(loc="outside lower center", ncols=len(runs), frameon=False)
    return page


def probabilities(runs: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> Figure:
    """Draw a clear digit and the least clear ones, with the probabilities of each classifier."""
    beliefs = {name: run.answers[-1].p for name, run in runs.items()}
    doubt = np.mean([1 - p.max(-1) for p in beliefs.values()], axis=0)
    order = np.argsort(doubt, kind="stable")
    chosen = [order[0], *order[:-6:-1]]
    page = Figure(figsize=(13, 2 * len(chosen)), layout="constrained")
    grid = page.subplots(
        len(chosen), 1 + len(beliefs), width_ratios=[1, *[1.6] * len(beliefs)], squeeze=False
    )
    for row, digit in zip(grid, chosen, strict=True):
        row[0].imshow(images[digit].reshape(8, 8), cmap="gray_r")
        row[0].set(xticks=[], yticks=[], ylabel=f"a {labels[digit]}")
        for axes, p in zip(row[1:], beliefs.values(), strict=True):
            _bars(axes, p[digit], int(labels[digit]))
    for axes, name in zip(grid[0, 1:], beliefs, strict=True):
        axes.set_title(name)
    page.suptitle("A clear digit, and the five on which the classifiers doubt most")
    page.supxlabel("probability of each class; green: the true one")
    return page


def _bars(axes: Axes, p: np.ndarray, label: int) -> None:
    colours = [TRUE if k == label else OTHER for k in range(len(p))]
    axes.bar(np.arange(len(p)), p, color=colours)
    axes.set(xticks=np.arange(len(p)), yticks=[0, 0.5, 1], ylim=(0, 1.3))
    axes.spines[["top", "right"]].set_visible(False)
    support = int((p > 0).sum())
    axes.text(
        0.98, 0.98, f"{support} {'class' if support == 1 else 'classes'} with p > 0",
        transform=axes.transAxes, ha="right", va="top", fontsize="small",
    )  # fmt: skip


def reliability(diagrams: dict[tuple[str, str], Any]) -> Figure:
    """Draw accuracy against confidence: a row per classifier, a column per scaling."""
    names = list(dict.fromkeys(name for name, _ in diagrams))
    page = Figure(figsize=(10.5, 3.6 * len(names)), layout="constrained")
    grid = page.subplots(len(names), len(diagrams) // len(names), squeeze=False, sharey=True)
    for axes, ((name, way), (diagram, error)) in zip(grid.flat, diagrams.items(), strict=True):
        bins = len(diagram.weight)
        shown = diagram.weight > 0
        edges = np.arange(bins)[shown] / bins
        share = diagram.weight[shown] / diagram.weight.sum()
        options: dict[str, Any] = {"width": 1 / bins, "align": "edge"}
        axes.bar(edges, share, color=OTHER, alpha=0.35, **options)
        axes.plot([0, 1], [0, 1], color=OTHER, linewidth=1)
        confidence, accuracy = diagram.confidence[shown], diagram.accuracy[shown]
        axes.vlines(confidence, confidence, accuracy, color=COLOURS[1], linewidth=2)
        axes.plot(confidence, accuracy, "o", color=COLOURS[0], markersize=5)
        axes.set(title=f"{name}, {way}: error {error:.3f}", xlim=(0, 1), ylim=(0, 1.02))
        axes.title.set_fontsize("medium")
        axes.spines[["top", "right"]].set_visible(False)
    page.suptitle("How often it is right (dots) against how sure it is; grey: share of the digits")
    page.supxlabel("confidence: the largest probability")
    return page
