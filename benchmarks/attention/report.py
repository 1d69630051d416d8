"""Turn the records of a run into tables: bounds kept or missed first, then everything measured."""

from collections.abc import Iterator, Sequence

from benchmarks.attention.contestants import (
    BOUNDED,
    ENTMAX,
    JAX,
    NOISE,
    SOFTMAX,
    SPARSEMAX,
    TOKAMAX,
    TORCH,
    Case,
    with_mask,
)
from benchmarks.compiled import GRADIENT, QUANTITIES
from benchmarks.tables import Table

TIME, MEMORY, RATIO = "milliseconds", "megabytes", "ratio"
# Ours ÷ theirs, at the bounded length: forward, then value and gradient.
AGAINST_JAX, MEMORY_AGAINST_JAX, AGAINST_TOKAMAX = (0.5, 0.6), 1 / 20, 1.0
SHORT_AGAINST_JAX = 1.0
AGAINST_SOFTMAX, MEMORY_AGAINST_SOFTMAX = 3.0, 10.0  # the same order of memory
AGAINST_TORCH = 1 / 10
CAUSAL = 0.65
LONG_MEGABYTES = 1000.0


class Found:
    """The records by case, contestant and quantity."""

    def __init__(self, records: Sequence[dict]):
        self._records = {(r["case"], r["contestant"], r["quantity"]): r for r in records}

    def figure(self, case: str, contestant: str, quantity: str, figure: str) -> float | None:
        """A number, or None where it was not measured."""
        return self._records.get((case, contestant, quantity), {}).get(figure)

    def ratio(self, case: str, ours: str, theirs: str, quantity: str, figure: str) -> float | None:
        """The quotient of two contestants' figures."""
        a, b = (self.figure(case, name, quantity, figure) for name in (ours, theirs))
        return None if a is None or not b else a / b

    def contestants(self, case: str) -> list[str]:
        """Who took part, in the order of the race."""
        return list(dict.fromkeys(name for place, name, _ in self._records if place == case))


def bounds(found: Found, main: str, short: str, long: str, torch: str) -> Table:
    """The bounds, and whether they are kept."""
    return Table(
        "Bounds",
        "Quotients of times or of temporaries; a bound is kept where the quotient, as printed, is "
        "not above it. The noise rows race jax.nn against itself.",
        [
            "contestant",
            "case",
            *(f"{q}, {word}" for q in QUANTITIES for word in ("÷", "bound", "met")),
        ],
        [
            [what, case, *(cell for pair in pairs for cell in _against(*pair))]
            for what, case, pairs in _bounds(found, main, short, long, torch)
        ],
    )


def _bounds(found: Found, main, short, long, torch) -> Iterator[tuple[str, str, list]]:
    def row(what, case, ours, theirs, limits, figure=TIME):
        ratios = (found.ratio(case, ours, theirs, quantity, figure) for quantity in QUANTITIES)
        return what, case, list(zip(ratios, limits, strict=True))

    yield row("jax.nn ÷ itself (noise)", main, NOISE, JAX, (None, None))
    yield row("softmax ÷ jax.nn", main, SOFTMAX, JAX, AGAINST_JAX)
    limits = (MEMORY_AGAINST_JAX,) * 2
    yield row("softmax ÷ jax.nn, temporaries", main, SOFTMAX, JAX, limits, MEMORY)
    yield row(f"softmax ÷ {TOKAMAX}", main, SOFTMAX, TOKAMAX, (AGAINST_TOKAMAX,) * 2)
    yield row("jax.nn ÷ itself (noise)", short, NOISE, JAX, (None, None))
    yield row("softmax ÷ jax.nn", short, SOFTMAX, JAX, (SHORT_AGAINST_JAX,) * 2)
    for name in (ENTMAX, SPARSEMAX):
        yield row(f"{name} ÷ softmax", main, name, SOFTMAX, (AGAINST_SOFTMAX,) * 2)
        limits = (MEMORY_AGAINST_SOFTMAX,) * 2
        yield row(f"{name} ÷ softmax, temporaries", main, name, SOFTMAX, limits, MEMORY)
    for name in (ENTMAX, SPARSEMAX):
        for theirs in TORCH[name]:
            yield row(f"{name} ÷ {theirs}", torch, name, theirs, (AGAINST_TORCH,) * 2)
    for name in BOUNDED:
        yield row(f"{name}, causal ÷ not", main, with_mask(name), name, (CAUSAL,) * 2)
    for name in BOUNDED:
        megabytes = found.figure(long, name, GRADIENT, MEMORY)
        pairs = [(None, None), (megabytes, LONG_MEGABYTES)]
        yield f"{name}, temporaries in MB", long, pairs


def contest(
    title: str,
    caption: str,
    found: Found,
    cases: Sequence[Case],
    figures: Sequence[str] = (TIME, RATIO, MEMORY),
    reference: str = JAX,
) -> Table:
    """One row a case and contestant; for each quantity time, quotient and temporaries."""
    columns = [(quantity, figure) for quantity in cases[0].quantities for figure in figures]
    units = {TIME: "ms", RATIO: f"÷ {reference}", MEMORY: "MB"}

    def header(quantity: str, figure: str) -> str:
        several = len(cases[0].quantities) > 1
        return f"{quantity}, {units[figure]}" if several else units[figure]

    def cell(case: str, name: str, quantity: str, figure: str) -> str:
        if figure == RATIO:
            return _shown(found.ratio(case, name, reference, quantity, TIME))
        return _shown(found.figure(case, name, quantity, figure))

    return Table(
        title,
        caption,
        ["case", "attention", *(header(*column) for column in columns)],
        [
            [case.name, name, *(cell(case.name, name, *column) for column in columns)]
            for case in cases
            for name in found.contestants(case.name)
        ],
    )


def _against(value: float | None, limit: float | None) -> list[str]:
    if value is None or limit is None:
        return [_shown(value), "–", "–"]
    # As printed: 3.00 keeps a bound of 3.
    return [_shown(value), f"{limit:g}", "yes" if float(_shown(value)) <= limit else "no"]


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
