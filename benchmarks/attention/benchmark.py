"""Race attention against jax.nn, tokamax and torch, in time and memory."""

import dataclasses
import functools
from types import SimpleNamespace

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
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.tables import Table

SPREADS = (0.1, 4.0, 16.0)  # beside 1, that of all other tables


@dataclasses.dataclass(frozen=True)
class Cases:
    """Everything that is measured."""

    main: Case
    short: Case
    spreads: list[Case]
    caches: list[Case]
    long: Case
    torch: Case


def plan(settings: SimpleNamespace) -> Cases:
    """The cases, at the sizes that were asked for."""
    at = f"T = {settings.length:,}"
    main = square(at, settings.length, everything=True)
    return Cases(
        main,
        square(f"T = {settings.short:,}", settings.short),
        [spreading(main, f"deviation {spread:g}", spread) for spread in (1.0, *SPREADS)],
        [
            *(decoding(f"{cache:,} keys", cache, batch=8) for cache in settings.caches),
            decoding(
                f"{settings.shared:,} keys that 8 heads share",
                settings.shared,
                8,
                heads=8,
                key_heads=1,
            ),
        ],
        long(f"T = {settings.long:,}, one head", settings.long),
        dataclasses.replace(main, name=f"{at}, against torch"),
    )


def steps(cases: Cases, settings: SimpleNamespace) -> list:
    """The races in order; torch last, for its threads, once started, would spin beside the rest."""
    racing = functools.partial(raced, rounds=settings.rounds, seconds=settings.seconds)
    quick = (cases.main, cases.short, *cases.spreads, *cases.caches)
    found = [functools.partial(racing, case) for case in quick]
    found.append(functools.partial(once, cases.long))
    if settings.peers:
        found.append(functools.partial(against_torch, cases.torch, settings.torch_rounds))
    return found


def tables(cases: Cases, found: Found, settings: SimpleNamespace) -> list[Table]:
    """Bounds first."""
    heads = f"{cases.main.heads} heads of {cases.main.width}, batch 1"
    minima = f"minima of at least {settings.rounds} interleaved rounds"
    lacking = "" if TOKAMAX in found.contestants(cases.main.name) else " tokamax was not installed."
    made = [
        bounds(found, *(case.name for case in (cases.main, cases.short, cases.long, cases.torch)))
    ]
    for case in (cases.main, cases.short):
        made.append(
            contest(
                case.name,
                f"float32, {heads}, scores of standard deviation 1; {minima}. Temporaries "
                "are allocated by the compiler, besides inputs and outputs. The gradient is that "
                "of Σ w·attention in queries, keys and values, w fixed and random." + lacking,
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
    if settings.peers:
        made.append(
            contest(
                "Against torch",
                f"{heads}, T = {cases.main.keys:,}; minima of {settings.torch_rounds} interleaved "
                "rounds. Attention by the entmax package is two products around its mapping, "
                "which sorts all scores or, with k, tries the k largest first.",
                found,
                [cases.torch],
                (TIME, "ratio"),
                SOFTMAX,
            )
        )
    return made


def run(settings, screen) -> Outcome:
    """Race everything."""
    cases = plan(settings)
    records = []
    for step in track(steps(cases, settings), "attention", console=screen):
        records += step()
    kept = {"rounds": settings.rounds, "records": records}
    return Outcome(tables(cases, Found(records), settings), kept)


BENCHMARK = Benchmark(
    "attention",
    "Attention, timed",
    run,
    {
        "length": Setting(4096, 512, "queries and keys of the main race"),
        "short": Setting(512, 128, "of the short race"),
        "long": Setting(65_536, 2048, "of the long run with one head"),
        "caches": Setting(
            [4096, 32_768], [256, 1024], "keys to decode against", parse=int, many=True
        ),
        "shared": Setting(1024, 128, "keys of one head to decode against"),
        "rounds": Setting(10, 2, "rounds of every race, at least"),
        "seconds": Setting(5.0, 0.3, "of every race, at least"),
        "torch_rounds": Setting(2, 1, "rounds against torch"),
        "peers": Setting(True, help="race torch too"),
    },
)
