"""Race every mapping against jax.nn's, and against peers that sort or bisect."""

from rich.progress import track

from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.contestants import SHAPES, SPREADS, contestants
from benchmarks.measure import against_jax, against_peer, cost
from benchmarks.report import tables
from benchmarks.runner import command
from benchmarks.slow import peers


def run(settings, screen) -> Outcome:
    """Race, compile, race the slow peers."""
    everyone = contestants()
    racing = [each for each in everyone if _chosen(each.name, settings.only)]
    # Quick calls first: torch's threads, once started, would spin beside them.
    cases = [
        (each, quantity, shape, spread)
        for shape in settings.shapes
        for spread in settings.spreads
        for each in racing
        for quantity in each.quantities
    ]
    races = [
        against_jax(*case, rounds=settings.rounds)
        for case in track(cases, "mappings", console=screen)
    ]
    costs = [
        cost(each, quantity, shape)
        for each in racing
        for quantity in each.quantities
        for shape in settings.shapes
    ]
    ours = {each.name: each for each in everyone}
    slow = [
        (peer, ours[peer.ours], quantity, shape, spread)
        for peer in (peers() if settings.peers else ())
        if _chosen(peer.name, settings.only)
        for shape in settings.shapes
        for spread in settings.spreads
        for quantity in ours[peer.ours].quantities
    ]
    slow_races = [
        against_peer(*case, rounds=settings.slow_rounds)
        for case in track(slow, "slow peers", console=screen)
    ]
    results = {
        "rounds": settings.rounds,
        "slow_rounds": settings.slow_rounds,
        "races": races,
        "costs": costs,
        "peers": slow_races,
    }
    return Outcome(tables(results, racing), results)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


def _chosen(name: str, wanted: list[str] | None) -> bool:
    return wanted is None or any(part in name for part in wanted)


BENCHMARK = Benchmark(
    "mappings",
    "Mappings, timed",
    run,
    {
        "only": Setting(None, help="mappings with a word in their name", many=True),
        "rounds": Setting(40, 10, "rounds of every race, at least"),
        "slow_rounds": Setting(3, 1, "rounds for the slow peers"),
        "shapes": Setting(
            SHAPES, ((512, 64), (8, 32_000)), "ROWSxCOLUMNS", parse=_shape, many=True
        ),
        "spreads": Setting(SPREADS, (2.0,), "of the logits", parse=float, many=True),
        "peers": Setting(True, help="race the slow peers too"),
    },
)


if __name__ == "__main__":
    command("mappings")
