"""Turn the records of a run into tables: ratios, bounds kept or missed, costs, slow peers."""

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.compiled import QUANTITIES
from benchmarks.contestants import Contestant
from benchmarks.tables import Table

COMPILE_BOUND = 2.0  # seconds
TEMPORARIES_BOUND = 2.0  # bytes per byte of the logits


def tables(results: dict, contestants: Sequence[Contestant]) -> list[Table]:
    """Every table of the run, the summary first."""
    made = [summary(results, contestants)]
    for quantity in QUANTITIES:
        records = [record for record in results["races"] if record["quantity"] == quantity]
        if records:
            made.append(ratios(quantity, records, results))
    made.append(costs(results))
    for quantity in QUANTITIES:
        records = [record for record in results["peers"] if record["quantity"] == quantity]
        if records:
            made.append(slow_peers(quantity, records, results))
    return made


def summary(results: dict, contestants: Sequence[Contestant]) -> Table:
    """Each mapping's geometric mean and worst case beside the bound it should keep."""
    rows = []
    for contestant in contestants:
        mine = [each for each in results["races"] if each["mapping"] == contestant.name]
        by_quantity = (
            [record for record in mine if record["quantity"] == quantity] for quantity in QUANTITIES
        )
        worst = max(mine, key=lambda record: record["ratio"])
        rows.append(
            [
                contestant.name,
                *(f"{_mean(records):.2f}" if records else "–" for records in by_quantity),
                f"{_mean(mine):.2f}",
                *_against(_mean(mine), contestant.mean_bound),
                f"{worst['ratio']:.2f}",
                *_against(worst["ratio"], contestant.worst_bound),
                f"{_shape(worst['shape'])}, {worst['spread']:g}, {worst['quantity']}",
            ]
        )
    return Table(
        "Bounds",
        "Time divided by the time of jax.nn's counterpart (softmax, where it has none): geometric "
        "means over all shapes and spreads, and the worst single case. The noise row races "
        "jax.nn.softmax against itself.",
        ["mapping", *QUANTITIES, "both", "bound", "met", "worst", "bound", "met", "where"],
        rows,
    )


def ratios(quantity: str, records: Sequence[dict], results: dict) -> Table:
    """One row a mapping, one column a shape, one number a spread."""
    shapes = _distinct(tuple(record["shape"]) for record in records)
    spreads = _distinct(record["spread"] for record in records)
    rows = [
        [
            name,
            *(
                " / ".join(
                    f"{record['ratio']:.2f}"
                    for record in records
                    if (record["mapping"], tuple(record["shape"])) == (name, shape)
                )
                for shape in shapes
            ),
        ]
        for name in _distinct(record["mapping"] for record in records)
    ]
    reference = [
        "jax.nn.softmax, ms",
        *(
            " / ".join(
                f"{record['reference_milliseconds']:.2f}"
                for record in records
                if record["mapping"] == records[0]["mapping"] and tuple(record["shape"]) == shape
            )
            for shape in shapes
        ),
    ]
    return Table(
        f"Ratios: {quantity}",
        f"Time divided by the time of jax.nn's counterpart, at logits of standard deviation "
        f"{_slashed(spreads)}. Minima of at least {results['rounds']} interleaved rounds."
        + (
            " The gradient is that of Σ w·mapping in the logits, w fixed and random."
            if quantity != QUANTITIES[0]
            else ""
        ),
        ["mapping", *map(_shape, shapes)],
        [reference, *rows],
    )


def costs(results: dict) -> Table:
    """Compilation and temporaries: the worst over the shapes."""

    def worst(name: str, quantity: str, figure: str) -> float | None:
        found = [
            record[figure]
            for record in results["costs"]
            if (record["mapping"], record["quantity"]) == (name, quantity)
            and record[figure] is not None
        ]
        return max(found, default=None)

    rows = []
    for name in _distinct(record["mapping"] for record in results["costs"]):
        row = [name]
        for figure, bound in (
            ("compile_seconds", COMPILE_BOUND),
            ("temporaries", TEMPORARIES_BOUND),
        ):
            values = [worst(name, quantity, figure) for quantity in QUANTITIES]
            row += ["–" if value is None else f"{value:.2f}" for value in values]
            known = [value for value in values if value is not None]
            row += _against(max(known), bound) if known else ["–", "–"]
        rows.append(row)
    return Table(
        "Compilation and memory",
        "The worst over the shapes: seconds to trace, lower and compile; bytes of temporaries per "
        "byte of the logits, as the compiler states them. The first row is jax.nn.softmax itself.",
        [
            "mapping",
            *(f"compile s, {quantity}" for quantity in QUANTITIES),
            "bound",
            "met",
            *(f"temporaries, {quantity}" for quantity in QUANTITIES),
            "bound",
            "met",
        ],
        rows,
    )


def slow_peers(quantity: str, records: Sequence[dict], results: dict) -> Table:
    """Milliseconds of the sorting peers, and how many times ours is faster."""
    shapes = _distinct(tuple(record["shape"]) for record in records)
    rows = []
    for name in _distinct(record["peer"] for record in records):
        mine = [record for record in records if record["peer"] == name]
        cells = [
            " / ".join(
                f"{_milliseconds(record['peer_milliseconds'])} ({_faster(record):.0f}×)"
                for record in mine
                if tuple(record["shape"]) == shape
            )
            for shape in shapes
        ]
        mean = statistics.geometric_mean(map(_faster, mine))
        slower = statistics.geometric_mean(
            record["peer_milliseconds"] / record["softmax_milliseconds"] for record in mine
        )
        rows.append([name, mine[0]["mapping"], *cells, f"{slower:.0f}×", f"{mean:.0f}×"])
    return Table(
        f"Slow peers: {quantity}",
        f"Milliseconds, and in brackets how many times faster jsoftmax is, at standard deviations "
        f"{_slashed(_distinct(record['spread'] for record in records))}. "
        f"Minima of {results['slow_rounds']} interleaved rounds only: these take "
        f"hundreds of milliseconds. The last columns are geometric means.",
        [
            "peer",
            "same as",
            *map(_shape, shapes),
            "peer ÷ jax.nn.softmax",
            "peer ÷ jsoftmax",
        ],
        rows,
    )


def _faster(record: dict) -> float:
    return record["peer_milliseconds"] / record["ours_milliseconds"]


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _against(value: float, bound: float | None) -> list[str]:
    if bound is None:
        return ["–", "–"]
    # As printed: 2.00 keeps a bound of 2.
    return [f"{bound:g}", "yes" if round(value, 2) <= bound else "no"]


def _mean(records: Sequence[dict]) -> float:
    return statistics.geometric_mean(record["ratio"] for record in records)


def _distinct(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def _slashed(values: Iterable[float]) -> str:
    return " / ".join(f"{value:g}" for value in values)


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
