"""The sections of the guided run, in the order in which they are shown."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Options:
    """What a person asks of every section."""

    epochs: int
    seed: int
    output: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Section:
    """A section is a module with a function `run(options, console)`, imported when it is wanted."""

    name: str
    module: str
    summary: str

    def load(self) -> Callable[..., None]:
        """Its `run`; ModuleNotFoundError if a package that it needs is missing."""
        return importlib.import_module(self.module).run


# To add one: write its module beside this one, and a line here.
SECTIONS = (
    Section(
        "digits",
        "jsoftmax.demo._digits",
        "classify handwritten digits with softmax, sparsemax, entmax and a learned gate",
    ),
    Section(
        "calibration",
        "jsoftmax.demo._calibration",
        "make an over-confident classifier honest, and give it sets that hold the answer",
    ),
    Section(
        "acting",
        "jsoftmax.demo._acting",
        "explore bandits at every temperature, and cross a gridworld by soft value iteration",
    ),
    Section(
        "text",
        "jsoftmax.demo._text",
        "guess Python's documentation letter by letter, with dense, sparse and learned attention",
    ),
    Section(
        "words",
        "jsoftmax.demo._words",
        "guess it word by word, by all words, by a tree over them, and by a sample of them",
    ),
)
