"""The command line of `python -m jsoftmax`: options, help and error messages."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from jsoftmax.demo._sections import SECTIONS, Options

MISUSE = 2  # the exit code of shells and argparse for an invalid command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the requested sections and return the exit code."""
    asked = _parser().parse_args(arguments)
    wanted = [s for s in SECTIONS if not asked.section or s.name in asked.section]
    try:
        runs = [section.load() for section in wanted]
        from rich.console import Console
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("jsoftmax"):
            raise
        return _complain(f'{error.name} is not installed. Run: pip install "jsoftmax[demo]"')
    try:
        asked.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _complain(f"cannot write to {asked.output}: {error.strerror}. Name another --output")
    for run in runs:
        run(Options(asked.epochs, asked.seed, asked.output), Console())
    return 0


def _complain(message: str) -> int:
    print(f"jsoftmax: {message}", file=sys.stderr)
    return MISUSE


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(f"{message}. Options: {self.prog} --help"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m jsoftmax",
        description="A guided run of jsoftmax, without network: it trains and acts, prints tables "
        "and saves pictures. It takes about two minutes.",
        epilog="sections:\n" + "\n".join(f"  {s.name:13}{s.summary}" for s in SECTIONS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--section",
        action="append",
        choices=[section.name for section in SECTIONS],
        help="run this section only; may be repeated (default: every section)",
    )
    parser.add_argument(
        "--epochs",
        type=_positive,
        default=40,
        metavar="N",
        help="an epoch is a pass over the digits, 25 pulls of a bandit, 8 steps on text, or an "
        "eighth of all words (default: 40)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="seed of all random numbers (default: 0)",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("jsoftmax-demo"),
        metavar="DIR",
        help="folder for the pictures (default: ./jsoftmax-demo)",
    )
    return parser


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"give at least 1, not {number}")
    return number


def _seed(text: str) -> int:
    number = _whole(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"give a number from 0 to 2³² − 1, not {number}")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"give an integer, not {text!r}") from None
