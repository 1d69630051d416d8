"""Print a plain-text table row by row, as the results arrive."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTHS = {"operation": 38, "shape": 20, "dtype": 9, "distance": 18}
_OTHER = 10


class Table:
    """A table that prints its head at once; too wide a cell shifts the rest of its row."""

    def __init__(self, head: Sequence[str]):
        self._widths = [_WIDTHS.get(name, max(_OTHER, len(name))) for name in head]
        self.print(head)

    def print(self, cells: Sequence[str]) -> None:
        """Print one row, which may have fewer cells than the head."""
        padded = [f"{cell:{n}}" for cell, n in zip(cells, self._widths, strict=False)]
        print("  ".join(padded).rstrip(), flush=True)
