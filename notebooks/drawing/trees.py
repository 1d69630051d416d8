"""Trees of classes: the root at the left, lines as wide as the share of tokens that take them."""

import numpy as np

from drawing.style import FAINT, HAIR, INK, ORANGE


def draw(axes, tree, names, counts, marked: int) -> None:
    """A `ClassTree` with a name at each leaf, and the way to one of them in another colour."""
    children = np.asarray(tree.children)
    shares = np.asarray(counts) / np.sum(counts)
    on_way = {branch.node for branch in tree.path(marked)} | {-1 - marked}
    row = 0

    def below(node, depth):
        """Draw the branches below a node; returns its height and its share of the tokens."""
        nonlocal row
        if node < 0:
            text = {"color": ORANGE, "fontweight": "bold"} if node in on_way else {"color": INK}
            axes.text(depth + 0.12, row, names[-1 - node], va="center", fontsize=8, **text)
            row += 1
            return row - 1, shares[-1 - node]
        places = [(*below(child, depth + 1), child) for child in children[node] if child != 0]
        middle = (places[0][0] + places[-1][0]) / 2
        for height, share, child in sorted(places, key=lambda place: place[2] in on_way):
            color = ORANGE if child in on_way else FAINT
            bend = ([depth, depth, depth + 1], [middle, height, height])
            width = 0.8 + 7 * share
            axes.plot(*bend, color=color, linewidth=width, solid_capstyle="butt")
        axes.plot(depth, middle, "o", color=INK, markersize=2.5, zorder=3)
        return middle, sum(share for _, share, _ in places)

    below(0, 0)
    axes.set(xticks=range(tree.depth + 1), yticks=[], xlim=(-0.2, tree.depth + 1.7))
    axes.set_ylim(row - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x", color=HAIR)
    axes.spines["left"].set_visible(False)
    axes.set_axisbelow(True)
