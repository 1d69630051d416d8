"""Command line of `python -m jsoftmax.kernels`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import jax

from jsoftmax.kernels import _record
from jsoftmax.kernels.trial import _absent_chips, _compiled, _operations
from jsoftmax.kernels.trial._table import Table
from jsoftmax.kernels.trial._trials import Trial, trials

MISUSE, WRONG = 2, 1  # exit codes: invalid arguments, and a wrong kernel


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen operations, print a table, write the record; return the exit code."""
    asked = _parser().parse_args(arguments)
    if asked.compile_for:
        return _compile_for(asked)
    device = jax.devices()[0]
    if device.platform == "cpu" and not asked.interpret:
        return _complain(
            "this machine has no accelerator, so there is nothing to choose. --interpret checks "
            "the kernels' numbers on the CPU at small shapes; --compile-for "
            f"{'|'.join(_absent_chips.TARGETS)} compiles them for hardware that is not here"
        )
    path = None if asked.interpret else asked.output or _record.record_path()
    try:
        if path is not None:
            _record.write((), path)
    except OSError as error:
        return _complain(f"cannot write to {path}: {error.strerror}. Name another --output")
    print(f"{device.device_kind}, jax {jax.__version__}")
    table = Table(_HEAD[: 5 if asked.interpret else None])
    found = []
    for operation in _wanted(asked):
        new = []
        for shape in operation.small if asked.interpret else operation.shapes:
            for dtype in operation.dtypes:
                for trial in trials(operation, shape, dtype, device, timed=not asked.interpret):
                    table.print(_cells(trial))
                    new.append(trial)
        if path is not None:
            entries = [x.entry for x in new if x.entry is not None]
            _record.write(entries, path, [x.key for x in new if x.entry is None])
        found += new
    return _closed(found, path)


def _compile_for(asked) -> int:
    if remedy := _absent_chips.missing(asked.compile_for):
        return _complain(f"cannot compile for {asked.compile_for}: {remedy}")
    sharding = _absent_chips.sharding_on(asked.compile_for)
    print(f"compiled for {asked.compile_for}, which is not here: nothing ran")
    table = Table(_compiled.HEAD)
    failed = False
    for row in _compiled.compiled(_wanted(asked), sharding):
        table.print(row)
        failed |= not row[4] and row[3] != _compiled.REFUSED
    return WRONG if failed else 0


def _wanted(asked) -> list[_operations.Operation]:
    return [x for x in _operations.operations() if asked.operation in (None, x.name)]


def _closed(found: list[Trial], path: pathlib.Path | None) -> int:
    """Print a summary; return the exit code, WRONG if a kernel was wrong or failed."""
    entries = [x.entry for x in found if x.entry is not None]
    right = sum(x.is_right for x in entries)
    print(f"\n{right} of {len(found)} trials right, {sum(x.is_refused for x in found)} refused.")
    if path is not None:
        print(f"{sum(x.is_chosen for x in entries)} also faster than XLA: chosen by {path}")
    return 0 if all(x.is_refused or (x.entry and x.entry.is_right) for x in found) else WRONG


_HEAD = ("operation", "shape", "dtype", "distance", "", "pallas ms", "xla ms", "peers ms")


def _cells(trial: Trial) -> tuple[str, ...]:
    start = (f"{trial.operation}, {trial.case}", "×".join(map(str, trial.shape)), trial.dtype)
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


class _Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(f"{message}. Options: {self.prog} --help"))


def _complain(message: str) -> int:
    print(f"jsoftmax: {message}", file=sys.stderr)
    return MISUSE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m jsoftmax.kernels",
        description="Try every kernel on this machine: its values and gradients against XLA's, "
        "its time beside XLA's and others'. It writes the record that "
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
        choices=list(_absent_chips.TARGETS),
        help="only compile, for hardware that is not here; no record",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        help=f"the record (default: ${_record.VARIABLE}, or ~/.cache/jsoftmax/kernels.json)",
    )
    return parser
