"""A question is data: its name, the right answer, and one call for each library that can answer."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from benchmarks.conformance.functions import Functions
from benchmarks.conformance.judge import Right
from benchmarks.conformance.libraries import NAMES

Call = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Question:
    """One row of the table; a library with several algorithms has a call for each."""

    name: str
    right: Right
    calls: Mapping[str, Mapping[str, Call]]


@dataclasses.dataclass(frozen=True)
class Section:
    """Questions about one edge, put to these libraries.

    `convention`: the answer is a promise of this library's, and another could be defended.
    """

    title: str
    questions: Iterable[Question]
    convention: bool = False
    libraries: tuple[str, ...] = NAMES


def ask_for(
    what: str, name: str, functions: Functions, right: Right, *arguments: np.ndarray
) -> Question:
    """Ask every library's function for a quantity: the name of a method of `Jax` and `Torch`."""

    def call(function) -> Call:
        return lambda: getattr(function, what)(*arguments)

    return Question(
        name,
        right,
        {
            library: (
                {way: call(each) for way, each in function.items()}
                if isinstance(function, Mapping)
                else {"": call(function)}
            )
            for library, function in functions.items()
        },
    )


value = functools.partial(ask_for, "value")
gradient = functools.partial(ask_for, "gradient")
hessian = functools.partial(ask_for, "hessian")


def f32(*rows) -> np.ndarray:
    """A float32 array of these rows."""
    return np.asarray(rows, np.float32)
