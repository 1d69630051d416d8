"""One table, two clothes: rich for the terminal, Markdown for the file."""

import dataclasses
from collections.abc import Sequence

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a line that says how to read it, headers and rows of text."""

    title: str
    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> rich.table.Table:
        """The table for a terminal."""
        table = rich.table.Table(
            title=Text(f"\n{self.title}", style="bold"),
            caption=Text(self.caption) if self.caption else None,
            caption_justify="left",
            box=rich.box.SIMPLE_HEAD,
            title_justify="left",
        )
        for header in self.headers:
            table.add_column(Text(header))
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self, level: int = 2) -> str:
        """The table for a file, under a heading of the given level."""
        lines = [f"{'#' * level} {self.title}", ""]
        if self.caption:
            lines += [self.caption, ""]
        lines.append(_line(self.headers))
        lines.append(_line(["---"] * len(self.headers)))
        lines += [_line(row) for row in self.rows]
        return "\n".join(lines) + "\n"


def console() -> Console:
    """A console wide enough for these tables when the output is not a terminal."""
    wide = Console()
    return wide if wide.is_terminal else Console(width=200)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
