"""`python -m benchmarks`: race every mapping against its peers, print the tables, save them."""

import argparse
import json
import pathlib

from rich.progress import track

from benchmarks.machine import machine, sentence
from benchmarks.mappings import SHAPES, SPREADS, contestants
from benchmarks.measure import against_jax, against_peer, cost
from benchmarks.report import tables
from benchmarks.slow import peers
from benchmarks.tables import Table, console

RESULTS = pathlib.Path(__file__).parent / "results"
ROUNDS = 40  # of every race, at least
QUICK = {"shapes": ((512, 64), (8, 32_000)), "spreads": (2.0,), "rounds": 10, "slow_rounds": 1}


def main() -> None:
    """Read the options, run, print, save."""
    options = _options()
    screen = console()
    results, report = _run(options, screen)
    for table in report:
        screen.print(table.rich())
    if options.output is None:
        screen.print("Not saved: a quick or partial run is no evidence (--output saves it anyway).")
        return
    options.output.mkdir(parents=True, exist_ok=True)
    page = (
        f"# Mappings, timed\n\nMade by `python -m benchmarks`. {sentence(results['machine'])}\n\n"
    )
    page += "\n".join(table.markdown() for table in report)
    (options.output / "mappings.md").write_text(page)
    (options.output / "mappings.json").write_text(json.dumps(results, indent=1) + "\n")
    screen.print(f"Saved {options.output / 'mappings.md'} and mappings.json beside it.")


def _run(options: argparse.Namespace, screen) -> tuple[dict, list[Table]]:
    everyone = contestants()
    racing = [each for each in everyone if _chosen(each.name, options.only)]
    facts = machine()
    screen.print(sentence(facts))
    # Quick calls first: torch's threads, once started, would spin beside them.
    cases = [
        (each, quantity, shape, spread)
        for shape in options.shapes
        for spread in options.spreads
        for each in racing
        for quantity in each.quantities
    ]
    races = [
        against_jax(*case, rounds=options.rounds)
        for case in track(cases, "mappings", console=screen)
    ]
    costs = [
        cost(each, quantity, shape)
        for each in racing
        for quantity in each.quantities
        for shape in options.shapes
    ]
    ours = {each.name: each for each in everyone}
    slow = [
        (peer, ours[peer.ours], quantity, shape, spread)
        for peer in (peers() if options.peers else ())
        if _chosen(peer.name, options.only)
        for shape in options.shapes
        for spread in options.spreads
        for quantity in ours[peer.ours].quantities
    ]
    slow_races = [
        against_peer(*case, rounds=options.slow_rounds)
        for case in track(slow, "slow peers", console=screen)
    ]
    results = {
        "machine": facts,
        "rounds": options.rounds,
        "slow_rounds": options.slow_rounds,
        "races": races,
        "costs": costs,
        "peers": slow_races,
    }
    return results, tables(results, racing)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: small, few rounds")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="those whose name has a NAME in it",
    )
    parser.add_argument("--rounds", type=int, help="rounds of every race, at least (40)")
    parser.add_argument("--slow-rounds", type=int, help="rounds for the slow peers (3)")
    parser.add_argument("--shapes", nargs="+", type=_shape, metavar="ROWSxCOLUMNS")
    parser.add_argument("--spreads", nargs="+", type=float, help="of the logits")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="jax.nn only")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder for mappings.md and mappings.json (full runs: benchmarks/results)",
    )
    options = parser.parse_args()
    few = options.rounds is not None and options.rounds < ROUNDS
    partial = any(
        (options.quick, options.only, options.shapes, options.spreads, not options.peers, few)
    )
    usual = QUICK if options.quick else {}
    options.shapes = options.shapes or usual.get("shapes", SHAPES)
    options.spreads = options.spreads or usual.get("spreads", SPREADS)
    options.rounds = options.rounds or usual.get("rounds", ROUNDS)
    options.slow_rounds = options.slow_rounds or usual.get("slow_rounds", 3)
    if options.output is None and not partial:
        options.output = RESULTS
    return options


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


def _chosen(name: str, wanted: list[str] | None) -> bool:
    return wanted is None or any(part in name for part in wanted)


if __name__ == "__main__":
    main()
