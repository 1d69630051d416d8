"""The picture of the section on text: attention weights of three kinds of attention."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

LAYER, SHOWN = 0, 2
UNSEEN = 0.9  # a grey for later characters
# Okabe and Ito's blue, from pale to dark; pale is a weight just above 0, and 0 is white.
SHADES = LinearSegmentedColormap.from_list("weights", ["#cfe3f1", "#0072B2", "#00263b"])


def save_text(output: pathlib.Path, sentence: str, runs: dict[str, Any]) -> pathlib.Path:
    """Save the picture of the section and return its path."""
    path = output / "text-attention.png"
    maps(sentence, runs).savefig(path, dpi=150)
    return path


def maps(sentence: str, runs: dict[str, Any]) -> Figure:
    """Draw the weights of the same heads, a row for each, side by side for every attention.

    The heads are those that the last attention made sparsest and densest.
    """
    last = list(runs.values())[-1]
    order = np.argsort(last.density[LAYER])
    heads = [order[0], order[-1]]
    page = Figure(figsize=(14.5, 10.4), layout="constrained")
    grid = page.subplots(len(heads), len(runs), sharex=True, sharey=True, squeeze=False)
    images = []
    for row, head in zip(grid, heads, strict=True):
        for axes, (name, run) in zip(row, runs.items(), strict=True):
            p = run.weights[LAYER, head]
            images.append(_map(axes, sentence, p))
            used = (p > 0).sum() / np.tri(len(p)).sum()
            title = f"{name}, head {head + 1}: α = {run.alpha[LAYER, head]:.2f}, {used:.0%} used"
            axes.set_title(title, loc="left", fontsize="medium")
    bar = page.colorbar(images[-1], ax=grid, shrink=0.5, pad=0.01, ticks=[0.01, 0.1, 0.25, 0.5, 1])
    bar.set_label("weight (white: exactly 0; grey: later, not seen)")
    page.suptitle(
        f"Layer {LAYER + 1}: each character, a row, looks back at those before it and at itself"
    )
    return page


def _map(axes: Axes, sentence: str, p: np.ndarray):
    seen = np.tri(len(p), dtype=bool)
    axes.imshow(np.where(seen, 1, UNSEEN), cmap="gray", vmin=0, vmax=1)
    shown = np.ma.masked_where(p == 0, p)
    image = axes.imshow(shown, cmap=SHADES, norm=PowerNorm(0.5, 0, 1))
    places, letters = range(len(sentence)), sentence.replace(" ", "␣")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(places, letters, family="monospace", fontsize=8)
    axes.tick_params(length=0, pad=2, labelbottom=True, labelleft=True)
    return image
