"""Time callables against each other: they take turns in one process, and the best turn counts."""

import time
from collections.abc import Callable, Mapping


def race(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int = 40, seconds: float = 0.3
) -> dict[str, float]:
    """The fastest turn of every contestant, in seconds.

    Turns alternate call by call, and the order reverses every round, so that a slow spell of the
    machine, and caches that the one before has filled, fall on everybody alike. The minimum is
    the estimate with the least noise in it: other work can only add time.

    Args:
        contestants: callables by name; each must return only when its work is done.
        rounds: turns of each contestant, at least.
        seconds: go on beyond `rounds` until this much time has passed; quick calls need more turns.
    """
    for call in contestants.values():  # the first call allocates and loads
        call()
    best = dict.fromkeys(contestants, float("inf"))
    order = list(contestants)
    end = time.perf_counter() + seconds
    turn = 0
    while turn < rounds or time.perf_counter() < end:
        for name in order:
            start = time.perf_counter()
            contestants[name]()
            best[name] = min(best[name], time.perf_counter() - start)
        order.reverse()
        turn += 1
    return best
