"""The choice between XLA and a kernel, made in one place for every function of rows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

IMPLEMENTATIONS = ("xla", "pallas")


def by_rows(function: _Function) -> _Function:
    """A function of rows of logits that obeys its argument `implementation`."""
    signature = inspect.signature(function)
    name = function.__name__

    @functools.wraps(function)
    def routed(*arguments: Any, implementation: str | None = None, **named: Any) -> Any:
        if chosen_implementation(name, implementation) == "xla":
            return function(*arguments, **named)
        from jsoftmax.kernels.rows import by_kernel

        bound = signature.bind(*arguments, **named)
        return by_kernel(function, name, bound.arguments)

    return routed  # type: ignore


def chosen_implementation(function: str, implementation: Any) -> str:
    """The implementation of that name; XLA where none is named.

    Raises:
        ValueError: for an unknown name.
    """
    if implementation is None:
        return "xla"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"jsoftmax.{function}: `implementation` is {implementation!r}; give it one of "
            f"{', '.join(map(repr, IMPLEMENTATIONS))}, or None."
        )
    return implementation
