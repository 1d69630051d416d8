"""Run benchmarks by name: read options, measure, print tables, save results.

    python -m benchmarks                             # list them
    python -m benchmarks run NAME ... [--quick] [--output FOLDER]
    python -m benchmarks run NAME --help             # the options of one
    python -m benchmarks history                     # ratios over commits, into docs/performance.md

A quick or partial run is no evidence and is not saved, unless --output names a folder.
"""

import argparse
import inspect
import json
import pathlib
import subprocess
import sys
import time
from types import SimpleNamespace

from benchmarks.benchmark import PICTURES, REQUIRED, Benchmark, Outcome, Setting
from benchmarks.machine import machine, sentence
from benchmarks.registry import MODULES, description, load
from benchmarks.tables import console


def main(*words: str) -> None:
    """Follow the words of a command line."""
    command, *rest = words or ("list",)
    if command == "list" and not rest:
        width = max(map(len, MODULES))
        print("\n".join(f"{name:{width}}  {description(name)}" for name in MODULES))
    elif command == "run":
        _run(rest)
    elif command == "history":
        from benchmarks.history import main as history

        history(rest)
    else:
        sys.exit(__doc__)


def command(name: str) -> None:
    """Run one benchmark with the options of this command: `python -m benchmarks.NAME`."""
    main("run", name, *sys.argv[1:])


def _run(words: list[str]) -> None:
    names = []
    while words and not words[0].startswith("-"):
        names.append(words.pop(0))
    if unknown := [name for name in names if name not in MODULES]:
        sys.exit(f"benchmarks: no {', '.join(unknown)}. There are {', '.join(MODULES)}.")
    if not names:
        sys.exit(__doc__)
    if len(names) == 1:
        sys.exit(run_one(load(names[0]), words))
    # Each in a process of its own: some turn on float64, and threads of torch go on spinning.
    program = [sys.executable, "-m", "benchmarks", "run"]
    sys.exit(max(subprocess.run([*program, name, *words]).returncode for name in names))


def run_one(benchmark: Benchmark, words: list[str]) -> int:
    """Measure, print and save; the exit status."""
    settings, is_whole = read(benchmark, words)
    screen, facts = console(), machine()
    screen.print(sentence(facts))
    start = time.perf_counter()
    outcome = benchmark.run(settings, screen)
    seconds = time.perf_counter() - start
    for table in outcome.tables:
        screen.print(table.rich())
    for line in (*outcome.notes, *outcome.faults):
        screen.print(line, soft_wrap=True, highlight=False)
    if is_whole or settings.is_asked:
        paths = save(benchmark, outcome, facts, seconds, settings)
        screen.print(f"Saved {', '.join(map(str, paths)) or 'nothing'}.", soft_wrap=True)
    else:
        screen.print("Not saved: a quick or partial run is no evidence (--output saves it anyway).")
    return 1 if outcome.faults else 0


def read(benchmark: Benchmark, words: list[str]) -> tuple[SimpleNamespace, bool]:
    """Settings from the command line, and whether they make a full run."""
    module = inspect.getmodule(benchmark.run)
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks run {benchmark.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: small, few rounds")
    parser.add_argument(
        "--output", type=pathlib.Path, help=f"folder for results (full runs: {benchmark.folder})"
    )
    for name, setting in benchmark.settings.items():
        if setting.help is not None:
            _add(parser, name, setting)
    given = vars(parser.parse_args(words))
    quick, output = given.pop("quick"), given.pop("output")
    values = {}
    for name, setting in benchmark.settings.items():
        value = given.get(name)
        values[name] = setting.at(quick) if value is None else value
        if values[name] is REQUIRED:
            parser.error(f"--{name.replace('_', '-')} is needed: {setting.help}")
    is_whole = not quick and all(
        setting.is_whole(values[name]) for name, setting in benchmark.settings.items()
    )
    folder = output or benchmark.folder
    return SimpleNamespace(
        quick=quick, is_asked=output is not None, folder=folder, **values
    ), is_whole


def _add(parser: argparse.ArgumentParser, name: str, setting: Setting) -> None:
    option = f"--{name.replace('_', '-')}"
    if isinstance(setting.usual, bool):
        parser.add_argument(
            option, action=argparse.BooleanOptionalAction, default=None, help=setting.help
        )
        return
    is_number = isinstance(setting.usual, int | float)
    parser.add_argument(
        option,
        type=setting.parse or (type(setting.usual) if is_number else str),
        nargs="+" if setting.many else None,
        choices=setting.choices,
        help=setting.help + (f" ({setting.usual})" if is_number else ""),
    )


def save(
    benchmark: Benchmark, outcome: Outcome, facts: dict, seconds: float, settings: SimpleNamespace
) -> list[pathlib.Path]:
    """Write page, JSON, further files and pictures; their paths."""
    stem = outcome.stem or benchmark.name
    texts = dict(outcome.files)
    if outcome.tables and f"{stem}.md" not in texts:
        texts[f"{stem}.md"] = page(benchmark, outcome, facts, seconds)
    if outcome.records:
        records = {"machine": facts, "seconds": seconds, **outcome.records}
        texts[f"{stem}.json"] = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    settings.folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        paths.append(settings.folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    for name, figure in outcome.pictures.items():
        paths.append((settings.folder if settings.is_asked else PICTURES) / name)
        figure.savefig(paths[-1], dpi=150)
    return paths


def page(benchmark: Benchmark, outcome: Outcome, facts: dict, seconds: float) -> str:
    """The Markdown page of a run."""
    made = f"Made by `python -m benchmarks run {benchmark.name}` in {seconds:.0f} s."
    opening = f"# {benchmark.title}\n\n{made} {sentence(facts)}\n\n"
    about = f"{outcome.about.strip()}\n\n" if outcome.about else ""
    return opening + about + "\n".join(table.markdown() for table in outcome.tables)
