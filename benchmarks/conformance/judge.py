"""Ask a library one question and compare its answer with the right one."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Callable
from typing import Protocol

import ml_dtypes
import numpy as np


class Missing(Exception):
    """The library has no such function, or is not installed."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One of right, wrong, NaN, error and –, with the returned value."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        detail = self.detail if self.detail.startswith("(") else f"({self.detail})"
        return f"{self.kind} {detail}" if self.detail else self.kind


RIGHT, WRONG, NAN, ERROR, MISSING = "right", "wrong", "NaN", "error", "–"


class Right(Protocol):
    """A right answer: text for the table, and a judgement of any other answer."""

    def __str__(self) -> str: ...

    def judge(self, answer: object) -> Verdict: ...


def ask(question: Callable[[], object], right: Right) -> Verdict:
    """Call, catch, judge."""
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(io.StringIO()),  # jax_debug_nans talks
        ):
            warnings.simplefilter("ignore")
            answer = question()
    except Missing:
        return Verdict(MISSING)
    except Exception as error:
        return right.judge(error)
    return right.judge(answer)


@dataclasses.dataclass(frozen=True, eq=False)
class Near:
    """These numbers, each within `absolute` + `relative`·|number|.

    `exact_zeros`: where the right answer is 0, only 0 will do.
    """

    value: object
    relative: float = 1e-5
    absolute: float = 1e-5
    exact_zeros: bool = False

    def __str__(self) -> str:
        return numbers(np.asarray(self.value, np.float64))

    def judge(self, answer: object) -> Verdict:
        """NaN where none belongs goes by its name; other shapes and numbers are wrong."""
        if isinstance(answer, Exception):
            return error(answer)
        right, got = np.asarray(self.value, np.float64), np.asarray(answer, np.float64)
        if got.shape != right.shape:
            return Verdict(WRONG, f"shape {got.shape}")
        if np.any(np.isnan(got) & ~np.isnan(right)):
            return Verdict(NAN, "" if np.isnan(got).all() else numbers(got))
        near = np.isclose(got, right, self.relative, self.absolute, equal_nan=True)
        if self.exact_zeros:
            near &= (right != 0) | (got == 0)
        return Verdict(RIGHT) if near.all() else Verdict(WRONG, _difference(got, right))


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A wide row of probabilities: entries within `tolerance` of the largest, and of sum 1."""

    value: object
    tolerance: float

    def __str__(self) -> str:
        return f"within {self.tolerance:g} of the largest p, sum within {self.tolerance:g}"

    def judge(self, answer: object) -> Verdict:
        """Both figures, when one of them is too large."""
        if isinstance(answer, Exception):
            return error(answer)
        right, got = np.asarray(self.value, np.float64), np.asarray(answer, np.float64)
        if np.isnan(got).any():
            return Verdict(NAN)
        off, excess = np.abs(got - right).max() / right.max(), got.sum() - 1
        good = max(off, abs(excess)) <= self.tolerance
        return Verdict(RIGHT if good else WRONG, f"{off:.1e} off, sum − 1 = {excess:+.1e}")


@dataclasses.dataclass(frozen=True, eq=False)
class Ulps:
    """The exact numbers rounded to `dtype`, give or take one unit in the last place."""

    value: object
    dtype: str

    def __str__(self) -> str:
        return f"within 1 ulp of {self.dtype}"

    def judge(self, answer: object) -> Verdict:
        """The largest distance in ulp; below the smallest normal number, flushing is allowed."""
        if isinstance(answer, Exception):
            return error(answer)
        format = ml_dtypes.finfo(self.dtype)
        right, got = np.asarray(self.value, np.float64), np.asarray(answer, np.float64)
        if np.isnan(got).any():
            return Verdict(NAN)
        normal = float(format.smallest_normal)
        ulp = 2.0 ** (np.floor(np.log2(np.maximum(right, normal))) - format.nmant)
        slack = np.where(right < normal, normal, ulp)
        off = (np.abs(got - right) / slack).max()
        return Verdict(RIGHT if off <= 1 else WRONG, f"{off:.2g} ulp")


@dataclasses.dataclass(frozen=True)
class Same:
    """Exactly this text: a dtype or a shape."""

    text: str

    def __str__(self) -> str:
        return self.text

    def judge(self, answer: object) -> Verdict:
        """Equal or wrong."""
        if isinstance(answer, Exception):
            return error(answer)
        return Verdict(RIGHT) if answer == self.text else Verdict(WRONG, str(answer))


@dataclasses.dataclass(frozen=True)
class Refused:
    """An error of any type; or NaN as well, where the value is known only while running."""

    or_nan: bool = False

    def __str__(self) -> str:
        return "an error or NaN" if self.or_nan else "an error"

    def judge(self, answer: object) -> Verdict:
        """Any exception is a refusal, whatever its type."""
        if isinstance(answer, Exception):
            return Verdict(RIGHT, type(answer).__name__)
        got = np.asarray(answer, np.float64)
        if self.or_nan and got.size and np.isnan(got).all():
            return Verdict(RIGHT, "NaN")
        if got.size and np.isnan(got).all():
            return Verdict(NAN)
        return Verdict(WRONG, numbers(got))


@dataclasses.dataclass(frozen=True)
class Finite:
    """Any finite numbers."""

    def __str__(self) -> str:
        return "finite"

    def judge(self, answer: object) -> Verdict:
        """NaN and infinities are not finite."""
        if isinstance(answer, Exception):
            return error(answer)
        got = np.asarray(answer, np.float64)
        if np.isnan(got).any():
            return Verdict(NAN, "" if np.isnan(got).all() else numbers(got))
        return Verdict(RIGHT) if np.isfinite(got).all() else Verdict(WRONG, numbers(got))


def error(exception: Exception) -> Verdict:
    """The error's type and the start of its message."""
    first = str(exception).strip().split("\n")[0].replace("`", "")
    text = f"{type(exception).__name__}: {first}"
    return Verdict(ERROR, text if len(text) <= 60 else text[:57] + "...")


def numbers(values: np.ndarray) -> str:
    """A few numbers, as a person would write them; a single row without its batch."""
    with np.errstate(all="ignore"):
        values = values.astype(np.float32).squeeze() + 0  # + 0 makes −0 a 0
    if values.size > 9:
        return f"{values.size} numbers"
    return "zeros" if values.size > 1 and not values.any() else _nested(values)


def _nested(values: np.ndarray) -> str:
    if values.ndim == 0:
        return f"{values:.4g}"
    return "(" + ", ".join(map(_nested, values)) + ")"


def _difference(got: np.ndarray, right: np.ndarray) -> str:
    if got.size <= 9:
        return numbers(got)
    return f"up to {np.nanmax(np.abs(got - right)):.2g} off"
