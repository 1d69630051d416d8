"""A table on a terminal or in a file, row by row as they are found, in plain text."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTHS = {"operation": 38, "shape": 20, "dtype": 9, "distance": 18}
_OTHER = 10


class Table:
    """Prints its head at once; a cell that is too wide moves the rest of its row."""

    def __init__(self, head: Sequence[str]):
        self._widths = [_WIDTHS.get(name, max(_OTHER, len(name))) for name in head]
        self.print(head)

    def print(self, cells: Sequence[str]) -> None:
        """One row, which may have fewer cells than the head."""
        padded = [f"{cell:{n}}" for cell, n in zip(cells, self._widths, strict=False)]
        print("  ".join(padded).rstrip(), flush=True)
