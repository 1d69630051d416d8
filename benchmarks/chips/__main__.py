"""python -m benchmarks.chips: compile every case, print a table, and fail where a limit is broken.

python -m benchmarks.chips --platform tpu             # make compile-tpu
python -m benchmarks.chips --platform gpu             # make compile-gpu
python -m benchmarks.chips --platform tpu --quick     # what .ci/run compiles
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import sys

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.chips import target

RESULTS = pathlib.Path(__file__).parent.parent / "results"


def main() -> int:
    """Compile, print, write; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chips", description=__doc__)
    parser.add_argument("--platform", choices=list(target.KINDS), default="tpu")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="cases with this in group or name, and their peers",
    )
    parser.add_argument("--quick", action="store_true", help="the cases of .ci/run; writes nothing")
    options = parser.parse_args()
    from benchmarks.chips.cases import cases
    from benchmarks.chips.limits import limits_broken, ratios_to

    known = [case for case in cases() if case.platform in (None, options.platform)]
    wanted = [
        case
        for case in known
        if (case.is_quick or not options.quick) and options.only in f"{case.group}: {case.name}"
    ]
    peers = {(case.group, case.peer) for case in wanted}
    chosen = [case for case in known if case in wanted or (case.group, case.name) in peers]
    console = Console(width=None if sys.stdout.isatty() else 150)
    rows, broken, found = [], [], {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(chosen))
        targets: dict = {}
        for case in chosen:
            progress.update(task, description=f"{case.group[:40]}: {case.name}")
            if case.axes not in targets:
                targets[case.axes] = target.Target(options.platform, case.axes)
            on = targets[case.axes]
            compiled = on.compile(case.function, *(on.array(*x) for x in case.shapes))
            found[case.group, case.name] = compiled
            peer = found.get((case.group, case.peer))
            ratios = ratios_to(compiled, peer)
            broken += limits_broken(case, compiled, peer, ratios)
            rows.append(_row(case, compiled, ratios))
            progress.advance(task)
    _print(console, rows)
    for line in broken:
        console.print(f"broken: {line}", style="red", soft_wrap=True)
    if not options.quick:
        _write(options.platform, rows, broken, is_part=bool(options.only))
    console.print(
        f"{len(rows)} programs for {target.KINDS[options.platform]}, {len(broken)} limits broken"
    )
    return 1 if broken else 0


def _row(case, compiled, ratios) -> dict:
    totals = compiled.program.totals
    return {
        "group": case.group,
        "name": case.name,
        "seconds": compiled.seconds,
        "temporaries": compiled.temporaries,
        "traffic": totals.traffic,
        "cycles": totals.cycles,
        "launches": totals.launches,
        "fusions": compiled.program.fusions,
        "ratios": ratios,
        "limits": case.limits,
        "collectives": [str(c) for c in compiled.program.collectives],
    }


HEAD = (
    "", "compile s", "temporaries MB", "÷ peer", "traffic MB", "÷ peer", "M cycles", "÷ peer",
    "launches", "fusions", "travels",
)  # fmt: skip


def _cells(row) -> tuple[str, ...]:
    def ratio(name):
        return f"{row['ratios'][name]:.2f}" if name in row["ratios"] else ""

    return (
        row["name"], f"{row['seconds']:.1f}", f"{row['temporaries'] / 1e6:.1f}",
        ratio("temporaries"), f"{row['traffic'] / 1e6:.0f}", ratio("traffic"),
        f"{row['cycles'] / 1e6:.2f}", ratio("cycles"), f"{row['launches']:.0f}",
        str(row["fusions"]), "; ".join(row["collectives"]),
    )  # fmt: skip


def _by_group(rows) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return groups


def _print(console, rows) -> None:
    for group, members in _by_group(rows).items():
        table = Table(title=group, title_justify="left")
        for i, name in enumerate(HEAD[:-1]):  # the page also lists collectives
            table.add_column(name, justify="right" if i else "left")
        for row in members:
            table.add_row(*_cells(row)[:-1])
        console.print(table)


def _write(platform, rows, broken, is_part) -> None:
    """The figures of a platform as JSON, and those of all platforms as a page."""
    import jax
    import jaxlib

    try:
        import libtpu

        compiler = f"libtpu {libtpu.__version__}" if platform == "tpu" else "XLA:GPU"
    except ImportError:
        compiler = "XLA:GPU"
    file = RESULTS / f"compiled-{platform}.json"
    if is_part and file.exists():
        before = json.loads(file.read_text())
        new = {(row["group"], row["name"]): row for row in rows}
        old = {(row["group"], row["name"]): row for row in before["rows"]}
        names = [f"{group}: {name}:" for group, name in new]
        kept = [x for x in before["broken"] if not any(x.startswith(name) for name in names)]
        rows, broken = list((old | new).values()), kept + broken
    known = {
        "kind": target.KINDS[platform],
        "date": datetime.date.today().isoformat(),
        "versions": f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, {compiler}",
        "rows": rows,
        "broken": broken,
    }
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    pages = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("compiled-*.json"))]
    (RESULTS / "compiled.md").write_text(_page(pages))


def _page(pages) -> str:
    lines = [
        "# Compiled for TPU v5e and H100", "",
        "Compiled for chips that were not there: nothing ran. Temporaries are those of one device.",
        "Traffic counts bytes that a device moves to and from main memory. A loop counts as often",
        "as it turns, a search of unknown length five times, a choice its cheapest branch. Cycles",
        "are the TPU compiler's own estimates (there are none for GPUs), without those of kernels.",
        "`÷ peer` divides by the first row of a table, or by jax.nn's of the same form.", "",
    ]  # fmt: skip
    for page in pages:
        lines += [f"## {page['kind']}", "", f"{page['date']}, {page['versions']}.", ""]
        if page["broken"]:
            lines += ["Limits that do not hold:", "", *(f"- {x}" for x in page["broken"]), ""]
        for group, members in _by_group(page["rows"]).items():
            lines += [f"### {group}", "", "| " + " | ".join(HEAD) + " |"]
            lines += ["|---|" + "---:|" * (len(HEAD) - 2) + "---|"]
            lines += ["| " + " | ".join(_cells(row)) + " |" for row in members]
            lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
