"""One look for all pictures: a pale card, so that they read the same in light and dark themes."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects

CARD = "#fcfbf8"
INK = "#22252b"
FAINT = "#8a8f98"
HAIR = "#d9d7d0"
# Okabe and Ito's colour-blind-safe hues, darkened until small text in them can be read on the card.
BLUE, ORANGE, GREEN, PURPLE = "#0064a4", "#b84a00", "#00785a", "#9c3f7a"
OUTLINE = [patheffects.withStroke(linewidth=1.8, foreground=INK)]  # behind white text

SETTINGS = {
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "savefig.pad_inches": 0.18,
    "axes.facecolor": CARD,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": HAIR,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}


def use() -> None:
    """Draw every figure from here on in this style."""
    matplotlib.rcParams.update(SETTINGS)


def card(title: str, rows: int = 1, columns: int = 1, size=(9.0, 3.6), **options):
    """A figure with a title that states its point, and its axes."""
    figure, axes = plt.subplots(rows, columns, figsize=size, **options)
    figure.get_layout_engine().set(h_pad=0.07)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure, axes


def ordered(n: int):
    """n colours for values that have an order, dark to mid-tone."""
    return [matplotlib.colormaps["plasma"](x) for x in np.linspace(0.0, 0.72, n)]


def label(axes, x, y, text: str, color=INK, shift=(4, 0), **options) -> None:
    """Text beside a point, in the colour of its curve."""
    options = {"va": "center", "fontsize": 9, **options}
    axes.annotate(text, (x, y), shift, textcoords="offset points", color=color, **options)


def inline(axes, x, y, text: str, color=INK, **options) -> None:
    """Text on its own curve, which it interrupts."""
    options = {"fontsize": 8.5, "ha": "center", "va": "center", **options}
    around = {"facecolor": CARD, "edgecolor": "none", "pad": 1.0}
    axes.text(x, y, text, color=color, bbox=around, **options)
