"""Limits on the memory, traffic and cycles of a compiled program, and on its communication."""

from __future__ import annotations

from benchmarks.chips.case import Case
from benchmarks.chips.target import Compiled

LEAST = {"temporaries": 2**20}  # bytes of the peer, below which a quotient tells nothing
NUMBERS_A_ROW = 256  # that may travel besides those of the dense way


def ratios_to(compiled: Compiled, peer: Compiled | None) -> dict[str, float]:
    """Figures divided by those of the peer."""
    if peer is None:
        return {}
    pairs = ((name, x, peer.figures[name]) for name, x in compiled.figures.items())
    return {name: x / y for name, x, y in pairs if y > LEAST.get(name, 0)}


def limits_broken(
    case: Case, compiled: Compiled, peer: Compiled | None, ratios: dict[str, float]
) -> list[str]:
    """A line for each limit that does not hold."""
    name = f"{case.group}: {case.name}"
    found = []
    if compiled.program.has_float64:
        found.append(f"{name}: float64")
    for figure, limit in case.limits.items():
        if ratios.get(figure, 0) > limit:
            found.append(f"{name}: {figure} {ratios[figure]:.2f} of its peer's, limit {limit:.2f}")
    if case.rows is not None:
        theirs = [] if peer is None else peer.program.collectives
        for kind in (None, "all-gather"):
            ours, allowed = (
                sum(c.numbers for c in collectives if kind in (None, c.opcode))
                for collectives in (compiled.program.collectives, theirs)
            )
            allowed += NUMBERS_A_ROW * case.rows
            if ours > allowed:
                what = "numbers travel" if kind is None else "numbers are gathered"
                found.append(f"{name}: {ours:.3g} {what}, allowed {allowed:.3g}")
    return found
