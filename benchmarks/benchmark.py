"""Describe a benchmark as data: its settings, the function that measures, and its results."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from benchmarks.tables import Table

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"
SAME = object()  # in quick runs as in others
REQUIRED = object()  # to be given on the command line


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value that a benchmark depends on, in full and in quick runs.

    With `help` it is an option of the command line. A number larger than usual still makes a full
    run; any other deviation makes a partial one.
    """

    usual: Any
    quick: Any = SAME
    help: str | None = None
    parse: Callable[[str], Any] | None = None  # a word of the command line; default: type of usual
    many: bool = False  # the option takes several words
    choices: Sequence[str] | None = None
    selects: bool = True  # other values than the usual one make a partial run

    def at(self, quick: bool) -> Any:
        """The value where none is given."""
        return self.quick if quick and self.quick is not SAME else self.usual

    def is_whole(self, value: Any) -> bool:
        """Whether a run with this value is as good as the usual one."""
        if self.usual is REQUIRED or not self.selects:
            return True
        if isinstance(self.usual, int | float) and not isinstance(self.usual, bool):
            return value >= self.usual
        return value == self.usual


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Tables to print and records to keep.

    Attributes:
        tables: printed, and saved as NAME.md.
        records: saved as NAME.json, beside the facts about the machine.
        about: paragraphs between the machine and the tables.
        stem: name of the files, if it is not the benchmark's.
        files: further texts, or all of them where there are no tables; by file name.
        pictures: matplotlib figures by file name, saved in docs/pictures.
        faults: broken limits; the exit status is 1 where there are any.
        notes: lines that are printed at the end.
    """

    tables: Sequence[Table] = ()
    records: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    about: str = ""
    stem: str | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    faults: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A name, a title for the page, settings, and a function of settings and console.

    The settings that the function gets have one attribute for each of `settings`, and `quick` and
    `folder`, where results will be saved.
    """

    name: str
    title: str
    run: Callable[[SimpleNamespace, Any], Outcome]
    settings: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    folder: pathlib.Path | None = RESULTS  # None: saved only where --output names one
