"""Choose between XLA and a kernel, in one place for every function of rows."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax

_Function = TypeVar("_Function", bound=Callable[..., Any])

IMPLEMENTATIONS = ("xla", "pallas")


def by_rows(function: _Function) -> _Function:
    """Return a function of rows of logits that dispatches on its argument `implementation`."""
    signature = inspect.signature(function)
    name = function.__name__

    @functools.wraps(function)
    def routed(*arguments: Any, implementation: str | None = None, **named: Any) -> Any:
        check(name, implementation)
        if implementation == "xla":
            return function(*arguments, **named)
        if implementation is None and not has_record():
            return function(*arguments, **named)
        given = signature.bind(*arguments, **named).arguments
        if implementation is None:
            return _by_record(function, name, given)
        from jsoftmax.kernels.rows import by_kernel

        return by_kernel(function, name, given)

    return cast(_Function, routed)


def has_record() -> bool:
    """Return whether any kernel is recorded on this machine."""
    from jsoftmax.kernels import has_record

    return has_record()


def _by_record(function, name, given):
    """Compute by a kernel on the platforms where it was right and faster, by XLA elsewhere."""
    platforms = recorded(name, given)
    if not platforms:
        return function(**given)
    arrays = {key: x for key, x in given.items() if isinstance(x, jax.Array)}
    known = tuple((key, x) for key, x in given.items() if key not in arrays)
    return _chosen(function, name, platforms, known, arrays)


# Compiled once for each shape, also when called outside `jit`.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _chosen(function, name, platforms, known, arrays):
    from jsoftmax.kernels import by_record
    from jsoftmax.kernels.rows import by_kernel

    def kernel(arrays):
        return by_kernel(function, name, {**dict(known), **arrays})

    return by_record(platforms, kernel, lambda arrays: function(**dict(known), **arrays), arrays)


def check(function: str, implementation: Any) -> None:
    """Reject an unknown name of an implementation.

    Raises:
        ValueError: if the name is unknown.
    """
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"jsoftmax.{function}: `implementation` is {implementation!r}; give it one of "
            f"{', '.join(map(repr, IMPLEMENTATIONS))}, or None."
        )


# The operation of the record and α of a function; None where it is an argument.
_RECORDED: dict[str, tuple[str, float | None]] = {
    "softmax": ("mapping", 1.0),
    "sparsemax": ("mapping", 2.0),
    "entmax": ("mapping", None),
    "cross_entropy": ("loss", 1.0),
    "sparsemax_loss": ("loss", 2.0),
    "entmax_loss": ("loss", None),
}


def recorded(function: str, given: Mapping[str, Any]) -> frozenset[str]:
    """Return the platforms where a kernel was right and faster for these arguments."""
    from jsoftmax.kernels import case_of, chosen

    if function not in _RECORDED:
        return frozenset()
    others = dict(given)
    logits = others.pop("logits")
    labels = [others.pop(name) for name in ("labels", "targets") if name in others]
    operation, alpha = _RECORDED[function]
    alpha = others.pop("alpha", 1.5) if alpha is None else alpha
    is_plain = not others and isinstance(logits, jax.Array) and logits.ndim > 0
    is_plain = is_plain and all(isinstance(x, jax.Array) and x.ndim < logits.ndim for x in labels)
    if not is_plain or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        return frozenset()
    *rows, classes = logits.shape
    operations = operation, f"{operation} gradient"
    shape = math.prod(rows), classes
    return chosen(*operations, shape=shape, dtype=logits.dtype, case=case_of(float(alpha)))
