"""Pictures of the section on acting: regret against temperature, and policies on a grid."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jsoftmax.demo._bandit import HEATS, Exploration
from jsoftmax.demo._gridworld import MOVES, Solution, World
from jsoftmax.demo._pictures import COLOURS, TRUE

WALL, ARROW = "#4d4d4d", "#1a1a1a"


def save_acting(
    output: pathlib.Path,
    explorations: dict[str, Exploration],
    world: World,
    solutions: dict[str, Solution],
) -> list[pathlib.Path]:
    """Save the pictures of the section and return their paths."""
    pages = {
        "acting-bandit.png": regret(explorations),
        "acting-gridworld.png": policies(world, solutions),
    }
    paths = [output / name for name in pages]
    for path, page in zip(paths, pages.values(), strict=True):
        page.savefig(path, dpi=150)
    return paths


def regret(explorations: dict[str, Exploration]) -> Figure:
    """Draw the final regret against the heat, and the regret over time at the best heat."""
    page = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = page.subplots(1, 2)
    for (name, seen), colour in zip(explorations.items(), COLOURS, strict=True):
        tried = slice(None) if name != "ε-greedy" else HEATS <= 1  # ε is at most 1
        heats, mean, error = HEATS[tried], seen.mean[tried], seen.error[tried]
        left.fill_between(heats, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
        left.plot(heats, mean, color=colour, linewidth=2, label=name)
        left.plot(HEATS[seen.best], seen.mean[seen.best], "o", color=colour)
        course = seen.course[seen.best]
        right.plot(np.arange(1, len(course) + 1), course, color=colour, linewidth=2)
    left.set(title="Regret at the end (band: ± standard error)", xlabel="temperature T, or ε")
    left.set(xscale="log", ylim=(0, None))
    left.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_locator(NullLocator())
    right.set(title="Regret on the way, at the best heat", xlabel="pulls", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    page.legend(loc="outside lower center", ncols=len(explorations), frameon=False)
    return page


def policies(world: World, solutions: dict[str, Solution]) -> Figure:
    """Draw the policies: arrows as long as their probability, and the number of moves."""
    page = Figure(figsize=(11, 8.6), layout="constrained")
    panels, allowed = page.subplots(2, 2).flat, world.allowed.sum(-1)
    for axes, (name, solution) in zip(panels, solutions.items(), strict=False):
        draw_policy(axes, world, solution)
        support, possible = (x[world.open].mean() for x in (solution.support, allowed))
        axes.set_title(f"{name}: {support:.2f} of {possible:.2f} moves have p > 0", loc="left")
    page.suptitle("Shade: value of the state. Arrows: the policy. Numbers: moves with p > 0")
    return page


def draw_policy(axes: Axes, world: World, solution: Solution) -> None:
    """Draw the map, shaded by value from dark to light, and the policy in every cell."""
    shade = np.where(world.open, solution.values, np.nan).reshape(world.shape)
    axes.imshow(shade, cmap="YlGnBu_r", alpha=0.55)
    for state, cell in enumerate(world.cells):
        i, j = divmod(state, world.shape[1])
        if cell == "#":
            axes.fill([j - 0.5, j + 0.5, j + 0.5, j - 0.5], [i - 0.5] * 2 + [i + 0.5] * 2, WALL)
        elif cell in "GX":
            text, colour = {"G": ("+1", TRUE), "X": ("−1", COLOURS[1])}[cell]
            bold = {"fontsize": 13, "fontweight": "bold", "color": colour}
            axes.text(j, i, text, ha="center", va="center", **bold)
        else:
            for (down, right), p in zip(MOVES, solution.policy[state], strict=True):
                if p > 0:
                    _arrow(axes, j, i, right, down, float(p))
            number = str(solution.support[state])
            axes.text(j - 0.44, i - 0.42, number, ha="left", va="top", fontsize="x-small")
            if cell == "S":
                axes.text(j + 0.44, i - 0.42, "start", ha="right", va="top", fontsize="x-small")
    axes.set(xticks=[], yticks=[])


def _arrow(axes: Axes, x: float, y: float, right: int, down: int, p: float) -> None:
    reach = 0.08 + 0.34 * p
    axes.annotate(
        "", (x + reach * right, y + reach * down), (x, y),
        arrowprops={
            "arrowstyle": "-|>", "color": ARROW, "shrinkA": 0, "shrinkB": 0,
            "mutation_scale": 5 + 6 * p, "linewidth": 0.6 + 1.2 * p,
        },
    )  # fmt: skip
