"""`python -m benchmarks.attention`: race attention, print the tables, save them."""

import argparse
import dataclasses
import functools
import json
import pathlib

from rich.progress import track

from benchmarks.attention.contestants import (
    SOFTMAX,
    TOKAMAX,
    Case,
    decoding,
    long,
    spreading,
    square,
)
from benchmarks.attention.measure import against_torch, once, raced
from benchmarks.attention.report import MEMORY, TIME, Found, bounds, contest
from benchmarks.machine import machine, sentence
from benchmarks.tables import Table, console

RESULTS = pathlib.Path(__file__).parents[1] / "results"
SPREADS = (0.1, 4.0, 16.0)  # beside 1, that of all other tables
USUAL = {
    "length": 4096,
    "short": 512,
    "long": 65_536,
    "caches": [4096, 32_768],
    "shared": 1024,
    "rounds": 10,
    "seconds": 5.0,
    "torch_rounds": 2,
}
QUICK = {
    "length": 512,
    "short": 128,
    "long": 2048,
    "caches": [256, 1024],
    "shared": 128,
    "rounds": 2,
    "seconds": 0.3,
    "torch_rounds": 1,
}


@dataclasses.dataclass(frozen=True)
class Cases:
    """Everything that is measured."""

    main: Case
    short: Case
    spreads: list[Case]
    caches: list[Case]
    long: Case
    torch: Case


def main() -> None:
    """Read the options, run, print, save."""
    options = _options()
    screen = console()
    facts = machine()
    screen.print(sentence(facts))
    cases = plan(options)
    records = []
    for step in track(steps(cases, options), "attention", console=screen):
        records += step()
    report = tables(cases, Found(records), options)
    for table in report:
        screen.print(table.rich())
    if options.output is None:
        screen.print("Not saved: a quick or partial run is no evidence (--output saves it anyway).")
        return
    options.output.mkdir(parents=True, exist_ok=True)
    page = f"# Attention, timed\n\nMade by `python -m benchmarks.attention`. {sentence(facts)}\n\n"
    page += "\n".join(table.markdown() for table in report)
    (options.output / "attention.md").write_text(page)
    results = {"machine": facts, "rounds": options.rounds, "records": records}
    (options.output / "attention.json").write_text(json.dumps(results, indent=1) + "\n")
    screen.print(f"Saved {options.output / 'attention.md'} and attention.json beside it.")


def plan(options: argparse.Namespace) -> Cases:
    """The cases, at the sizes that were asked for."""
    at = f"T = {options.length:,}"
    main = square(at, options.length, everything=True)
    return Cases(
        main,
        square(f"T = {options.short:,}", options.short),
        [spreading(main, f"deviation {spread:g}", spread) for spread in (1.0, *SPREADS)],
        [
            *(decoding(f"{cache:,} keys", cache, batch=8) for cache in options.caches),
            decoding(
                f"{options.shared:,} keys that 8 heads share",
                options.shared,
                8,
                heads=8,
                key_heads=1,
            ),
        ],
        long(f"T = {options.long:,}, one head", options.long),
        dataclasses.replace(main, name=f"{at}, against torch"),
    )


def steps(cases: Cases, options: argparse.Namespace) -> list:
    """The races in order; torch last, for its threads, once started, would spin beside the rest."""
    racing = functools.partial(raced, rounds=options.rounds, seconds=options.seconds)
    quick = (cases.main, cases.short, *cases.spreads, *cases.caches)
    found = [functools.partial(racing, case) for case in quick]
    found.append(functools.partial(once, cases.long))
    if options.peers:
        found.append(functools.partial(against_torch, cases.torch, options.torch_rounds))
    return found


def tables(cases: Cases, found: Found, options: argparse.Namespace) -> list[Table]:
    """Bounds first."""
    heads = f"{cases.main.heads} heads of {cases.main.width}, batch 1"
    minima = f"minima of at least {options.rounds} interleaved rounds"
    lacking = "" if TOKAMAX in found.contestants(cases.main.name) else " tokamax was not installed."
    made = [
        bounds(found, *(case.name for case in (cases.main, cases.short, cases.long, cases.torch)))
    ]
    for case in (cases.main, cases.short):
        made.append(
            contest(
                case.name,
                f"float32, {heads}, scores of standard deviation 1; {minima}. Temporaries are what "
                "the compiler allocates besides inputs and outputs. The gradient is that of "
                "Σ w·attention in queries, keys and values, w fixed and random." + lacking,
                found,
                [case],
            )
        )
    made.append(
        contest(
            "The spread of the scores",
            f"{cases.main.name}: how the time of a search for the threshold depends on the data. "
            f"÷ is to {SOFTMAX} of the same scores.",
            found,
            cases.spreads,
            (TIME, "ratio"),
            SOFTMAX,
        )
    )
    made.append(
        contest(
            "Decoding",
            f"One query of each of {cases.caches[0].batch} batch entries against a cache of keys "
            f"that is filled by half to the end, by `key_value_seq_lengths`; {minima}.",
            found,
            cases.caches,
        )
    )
    made.append(
        contest(
            cases.long.name,
            "Forward and backward, one call. jax.nn is compiled for its memory, and not run.",
            found,
            [cases.long],
            (TIME, MEMORY),
        )
    )
    if options.peers:
        made.append(
            contest(
                "Against torch",
                f"{heads}, T = {cases.main.keys:,}; minima of {options.torch_rounds} interleaved "
                "rounds. Attention by the entmax package is two products around its mapping, "
                "which sorts all scores or, with k, tries the k largest first.",
                found,
                [cases.torch],
                (TIME, "ratio"),
                SOFTMAX,
            )
        )
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: short, few rounds")
    parser.add_argument("--length", type=int, help="queries and keys of the main race (4096)")
    parser.add_argument("--short", type=int, help="of the short race (512)")
    parser.add_argument("--long", type=int, help="of the long run with one head (65536)")
    parser.add_argument("--caches", nargs="+", type=int, help="keys to decode against")
    parser.add_argument("--shared", type=int, help="keys of one head to decode against (1024)")
    parser.add_argument("--rounds", type=int, help="rounds of every race, at least (10)")
    parser.add_argument("--seconds", type=float, help="of every race, at least (5)")
    parser.add_argument("--torch-rounds", type=int, help="rounds against torch (2)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="without torch")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder for attention.md and attention.json (full runs: benchmarks/results)",
    )
    options = parser.parse_args()
    for name, usual in (QUICK if options.quick else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, usual)
    whole = options.peers and all(getattr(options, name) == USUAL[name] for name in USUAL)
    if options.output is None and whole:
        options.output = RESULTS
    return options


if __name__ == "__main__":
    main()
