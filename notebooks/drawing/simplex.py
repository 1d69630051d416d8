"""Three classes on paper: scores in the plane, probabilities in a triangle, on one scale."""

import numpy as np

from drawing.style import BLUE, CARD, FAINT, GREEN, ORANGE

# Corners about the origin with sides of √2, the true length between (1, 0, 0) and (0, 1, 0): with
# these the plane Σ z = 0 and the simplex keep their lengths and angles.
CORNERS = np.array([[-1.0, -1 / np.sqrt(3)], [1.0, -1 / np.sqrt(3)], [0.0, 2 / np.sqrt(3)]])
CORNERS = CORNERS / np.sqrt(2)
HUES = (BLUE, ORANGE, GREEN)


def flat(values) -> np.ndarray:
    """[..., 3] → [..., 2]: scores, or probabilities, without their sum."""
    return np.asarray(values, float) @ CORNERS


def scores(points) -> np.ndarray:
    """[..., 2] → [..., 3]: the scores with sum 0 at points of the plane."""
    return np.asarray(points, float) @ CORNERS.T


def interior(n: int, margin: float = 0.0) -> np.ndarray:
    """A triangular lattice of distributions with n steps a side, `margin` away from the edges."""
    lattice = [(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]
    return (1 - 3 * margin) * np.array(lattice) / n + margin


def triangle(axes, names=("p₁", "p₂", "p₃"), outline=None, filled: bool = True) -> None:
    """The simplex, or the region with the given outline, and the names of the corners."""
    corners = CORNERS if outline is None else np.asarray(outline)
    face = "#f1efe8" if filled else "none"
    axes.fill(*corners.T, facecolor=face, edgecolor=FAINT, linewidth=1.0, zorder=0)
    for corner, name, hue in zip(CORNERS, names, HUES, strict=True):
        axes.text(*(corner * 1.19), name, color=hue, ha="center", va="center", fontsize=9)
    bare(axes)
    axes.set_xlim(-0.95, 0.95)
    axes.set_ylim(-0.62, 1.0)


def bare(axes) -> None:
    """No ticks and frame: the plane has no preferred coordinates."""
    axes.set_aspect("equal")
    axes.set_axis_off()


def blend(p) -> np.ndarray:
    """Distributions [..., 3] → colours [..., 3]: a mixture of the three hues of the corners."""
    rgb = np.array([[int(hue[i : i + 2], 16) / 255 for i in (1, 3, 5)] for hue in HUES])
    pale = np.array([int(CARD[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    mixed = np.clip(np.asarray(p, float), 0, 1) @ rgb
    # Paler where the distribution is undecided, so that lightness alone tells it too.
    decided = (np.asarray(p, float).max(-1, keepdims=True) - 1 / 3) * 1.5
    return np.clip(pale + (0.15 + 0.75 * decided) * (mixed - pale), 0, 1)
