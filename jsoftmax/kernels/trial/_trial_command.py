"""What `python -m jsoftmax.kernels` understands."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

import jax

from jsoftmax.kernels import _record
from jsoftmax.kernels.trial import _compiled, _operations, _targets
from jsoftmax.kernels.trial._trials import Trial, trials

MISUSE, WRONG = 2, 1  # exit codes: not understood, and a kernel that is wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the operations asked for, print a table, write the record; return the exit code."""
    asked = _parser().parse_args(arguments)
    if asked.compile_for:
        return _compile_for(asked)
    device = jax.devices()[0]
    if device.platform == "cpu" and not asked.interpret:
        return _complain(
            "this machine has no accelerator, so there is nothing to choose. --interpret checks "
            "the kernels' numbers on the CPU at small shapes; --compile-for "
            f"{'|'.join(_targets.TARGETS)} compiles them for hardware that is not here"
        )
    path = asked.output or _record.where()
    found = []
    print(f"{device.device_kind}, jax {jax.__version__}")
    for operation in _wanted(asked):
        for shape in operation.small if asked.interpret else operation.shapes:
            for dtype in operation.dtypes:
                found += trials(operation, shape, dtype, device, timed=not asked.interpret)
    _print(_HEAD[: 5 if asked.interpret else None], map(_cells, found))
    if not asked.interpret:
        _write(found, path)
    wrong = [x for x in found if x.entry is not None and not x.entry.is_right]
    return WRONG if wrong else 0


def _compile_for(asked) -> int:
    if remedy := _targets.missing(asked.compile_for):
        return _complain(f"cannot compile for {asked.compile_for}: {remedy}")
    sharding = _targets.sharding_on(asked.compile_for)
    print(f"compiled for {asked.compile_for}, which is not here: nothing ran")
    _print(_compiled.HEAD, _compiled.compiled(_wanted(asked), sharding))
    return 0


def _wanted(asked) -> list[_operations.Operation]:
    return [x for x in _operations.operations() if asked.operation in (None, x.name)]


def _write(found: list[Trial], path: pathlib.Path | None) -> None:
    entries = [x.entry for x in found if x.entry is not None]
    chosen = sum(x.is_chosen for x in entries)
    print(f"\n{chosen} of {len(entries)} kernels were right and faster than XLA.")
    if path is None:
        print(f"Records are off ({_record.VARIABLE}={_record.OFF}): nothing is written.")
    elif entries:
        _record.write(entries, path)
        print(f"jsoftmax chooses them by {path}")


_HEAD = ("operation", "shape", "dtype", "distance", "", "pallas ms", "xla ms", "peers ms")


def _cells(trial: Trial) -> tuple[str, ...]:
    start = (
        f"{trial.operation}, {trial.case}", "×".join(map(str, trial.shape)), trial.dtype
    )  # fmt: skip
    entry = trial.entry
    if entry is None:
        return (*start, "", trial.problem)
    verdict = "chosen" if entry.is_chosen else "right" if entry.is_right else "wrong"
    times = {name: f"{1e3 * x:.3f}" for name, x in entry.seconds.items()}
    peers = "  ".join(f"{name} {x}" for name, x in times.items() if name not in ("pallas", "xla"))
    distance = f"{entry.error:.1e} of {entry.allowed:.1e}"
    if not entry.seconds["xla"]:
        return (*start, distance, "right" if entry.is_right else "wrong")
    return (*start, distance, verdict, times["pallas"], times["xla"], peers)


def _print(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = [tuple(head), *(tuple(row) for row in rows)]
    # What follows the last column of the head, as a reason why there is no time, may be long.
    widths = [max(len(row[i]) for row in table if i < len(row)) for i in range(len(head) - 1)]
    for row in table:
        cells = [f"{x:{n}}" for x, n in zip(row, widths, strict=False)]
        print("  ".join([*cells, *row[len(widths) :]]).rstrip())


class _Parser(argparse.ArgumentParser):
    """Answers a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(f"{message}. Options: {self.prog} --help"))


def _complain(message: str) -> int:
    print(f"jsoftmax: {message}", file=sys.stderr)
    return MISUSE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m jsoftmax.kernels",
        description="Try every kernel on this machine: its values and gradients against XLA's, "
        "its time beside XLA's and others'. The record that it writes is what "
        "implementation=None chooses by.",
    )
    names = sorted({x.name for x in _operations.operations()})
    parser.add_argument("--operation", choices=names, help="try this one only")
    parser.add_argument(
        "--interpret",
        action="store_true",
        help="small shapes, in interpret mode where there is no accelerator; no times, no record",
    )
    parser.add_argument(
        "--compile-for",
        choices=list(_targets.TARGETS),
        help="only compile, for hardware that is not here; no record",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        help=f"the record (default: ${_record.VARIABLE}, or "
        f"{os.path.join('~', '.cache', 'jsoftmax', 'kernels.json')})",
    )
    return parser
