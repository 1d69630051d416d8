"""Maps of attention: dark is much, pale is little, white is exactly 0, grey is not seen."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from drawing.style import BLUE, FAINT

SHADES = LinearSegmentedColormap.from_list("attention", ["#cfe0ee", BLUE, "#001b2e"])
UNSEEN = 0.88


def weights(axes, p, letters: str = "", seen=None):
    """Queries down, keys to the right, each with its letter; the image, for a colour bar."""
    p = np.asarray(p, float)
    seen = np.ones(p.shape, bool) if seen is None else np.asarray(seen)
    axes.imshow(np.where(seen, 1.0, UNSEEN), cmap="gray", vmin=0, vmax=1)
    shown = np.ma.masked_where(p == 0, p)
    image = axes.imshow(shown, cmap=SHADES, norm=PowerNorm(0.5, 0, 1))
    for axis, size in ((axes.xaxis, p.shape[1]), (axes.yaxis, p.shape[0])):
        named = letters if len(letters) == size else ""
        text = {"family": "monospace", "fontsize": 8}
        axis.set_ticks(range(len(named)), list(named.replace(" ", "␣")), **text)
    axes.tick_params(length=0, pad=2)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(FAINT)
    return image


def bar(figure, image, axes) -> None:
    """The scale of the shades, beside the maps."""
    scale = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01, ticks=[0.01, 0.1, 0.5, 1])
    scale.ax.set_yticklabels(["0.01", "0.1", "0.5", "1"])
    scale.outline.set_visible(False)
