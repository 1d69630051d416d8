"""Policies on a map: arrows as long as their probability, on cells shaded by value."""

import numpy as np

from drawing.style import CARD, FAINT, GREEN, INK, ORANGE

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # north, east, south, west: (down, right)


def policy(axes, rows, values, probabilities) -> None:
    """A map of S, G (+1), X (−1), # and dots, with one value and four probabilities a cell."""
    shape = len(rows), len(rows[0])
    cells = np.array([list(row) for row in rows])
    shade = np.where(np.isin(cells, list(".S")), np.reshape(values, shape), np.nan)
    axes.imshow(shade, cmap="YlGnBu", alpha=0.5)
    for (i, j), cell in np.ndenumerate(cells):
        if cell == "#":
            axes.fill([j - 0.5, j + 0.5, j + 0.5, j - 0.5], [i - 0.5] * 2 + [i + 0.5] * 2, FAINT)
        elif cell in "GX":
            text, color = {"G": ("+1", GREEN), "X": ("−1", ORANGE)}[cell]
            bold = {"ha": "center", "va": "center", "fontsize": 11, "fontweight": "bold"}
            axes.text(j, i, text, color=color, **bold)
        else:
            p = np.reshape(probabilities, (*shape, 4))[i, j]
            for (down, right), share in zip(MOVES, p, strict=True):
                if share > 0:
                    _arrow(axes, j, i, right, down, float(share))
            axes.text(j - 0.43, i - 0.4, str((p > 0).sum()), va="top", fontsize=7)
            if cell == "S":
                axes.text(j + 0.43, i - 0.4, "start", ha="right", va="top", fontsize=7)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(FAINT)
    axes.set_facecolor(CARD)


def _arrow(axes, x, y, right, down, p) -> None:
    reach = 0.08 + 0.34 * p
    properties = {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
    properties |= {"mutation_scale": 4 + 5 * p, "linewidth": 0.5 + 1.0 * p}
    axes.annotate("", (x + reach * right, y + reach * down), (x, y), arrowprops=properties)
