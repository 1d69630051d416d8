"""The sections of the guided run, in the order of `--help` and of a whole run."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of every section."""

    epochs: int
    seed: int
    output: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Section:
    """A section: a module with a function `run(options, console)`, imported on demand."""

    name: str
    module: str
    summary: str

    def load(self) -> Callable[..., None]:
        """Return its `run`; ModuleNotFoundError if a package that it needs is missing."""
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
        "calibrate an over-confident classifier, and predict conformal sets",
    ),
    Section(
        "acting",
        "jsoftmax.demo._acting",
        "explore bandits at every temperature, and cross a gridworld by soft value iteration",
    ),
    Section(
        "text",
        "jsoftmax.demo._text",
        "predict Python's documentation by character, with dense, sparse and learned attention",
    ),
    Section(
        "words",
        "jsoftmax.demo._words",
        "predict it by word, with a full softmax, a Huffman tree, and sampled words",
    ),
)
