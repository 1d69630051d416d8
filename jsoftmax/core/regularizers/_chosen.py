"""Resolve the regularizer of a function call, given as an object or by its order α."""

from __future__ import annotations

from typing import Any

from jsoftmax.core import _checks as checks
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers._tsallis import Tsallis


def of_order(function: str, alpha: Any, beside_axis: bool = True) -> Tsallis:
    """Return Tsallis' regularizer for the argument `alpha` of `function`.

    With `beside_axis` the error suggests that an axis was passed as α.

    Raises:
        ValueError: for an α known while tracing that is not positive.
    """
    number = checks.static_number(alpha)
    if number is None:
        known = checks.known_values(alpha)
        if known is not None and not (known > 0).all():
            raise ValueError(f"jsoftmax.{function}: every `alpha` must be positive, got {alpha}.")
        return Tsallis(checks.as_array(function, "alpha", alpha) if known is None else known)
    if not number > 0:
        hint = ""
        if beside_axis and number < 0 and number == int(number):
            hint = f" Did you mean axis={int(number)}?"
        raise ValueError(f"jsoftmax.{function}: `alpha` must be positive, got {alpha!r}.{hint}")
    return Tsallis(number)


def chosen(
    function: str,
    alpha: Any,
    regularizer: Regularizer | None,
    order: float = 1.5,
    beside_axis: bool = True,
) -> Regularizer:
    """Return the regularizer of a call of `function`, given as an object or by its order α.

    Raises:
        ValueError: if both are given, or for an α known while tracing that is not positive.
    """
    if regularizer is None:
        return of_order(function, order if alpha is None else alpha, beside_axis)
    if alpha is not None:
        raise ValueError(
            f"jsoftmax.{function}: both `alpha` and `regularizer` are given; leave `alpha` out, or "
            "give regularizer=jsoftmax.Tsallis(alpha)."
        )
    return regularizer
