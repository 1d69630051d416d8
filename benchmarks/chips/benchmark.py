"""Compile hot functions for TPU v5e or H100 without one; fail where a limit is broken.

python -m benchmarks.chips --platform tpu             # make compile-tpu
python -m benchmarks.chips --platform gpu             # make compile-gpu
python -m benchmarks.chips --platform tpu --quick     # the cases of .ci/run
"""

from __future__ import annotations

import datetime
import json

from rich.progress import track

from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.chips import target
from benchmarks.tables import Table


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


def _files(platform, rows, broken, folder, is_part) -> dict[str, str]:
    """The figures of a platform as JSON, and those of all platforms as a page."""
    import jax
    import jaxlib

    try:
        import libtpu

        compiler = f"libtpu {libtpu.__version__}" if platform == "tpu" else "XLA:GPU"
    except ImportError:
        compiler = "XLA:GPU"
    name = f"compiled-{platform}.json"
    texts = {path.name: path.read_text() for path in sorted(folder.glob("compiled-*.json"))}
    if is_part and name in texts:
        before = json.loads(texts[name])
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
    texts[name] = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
    page = _page([json.loads(texts[name]) for name in sorted(texts)])
    return {name: texts[name], "compiled.md": page}


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


def run(settings, screen) -> Outcome:
    """Compile every case."""
    from benchmarks.chips.cases import cases
    from benchmarks.chips.limits import limits_broken, ratios_to

    platform = settings.platform
    known = [case for case in cases() if case.platform in (None, platform)]
    wanted = [
        case
        for case in known
        if (case.is_quick or not settings.quick) and settings.only in f"{case.group}: {case.name}"
    ]
    peers = {(case.group, case.peer) for case in wanted}
    chosen = [case for case in known if case in wanted or (case.group, case.name) in peers]
    rows, broken, found, targets = [], [], {}, {}
    for case in track(chosen, "programs", console=screen, disable=not screen.is_terminal):
        if case.axes not in targets:
            targets[case.axes] = target.Target(platform, case.axes)
        on = targets[case.axes]
        compiled = on.compile(case.function, *(on.array(*x) for x in case.shapes))
        found[case.group, case.name] = compiled
        peer = found.get((case.group, case.peer))
        ratios = ratios_to(compiled, peer)
        broken += limits_broken(case, compiled, peer, ratios)
        rows.append(_row(case, compiled, ratios))
    # The page also lists collectives, which are too long for a terminal.
    tables = [
        Table(group, "", HEAD[:-1], [_cells(row)[:-1] for row in members])
        for group, members in _by_group(rows).items()
    ]
    count = f"{len(rows)} programs for {target.KINDS[platform]}, {len(broken)} limits broken"
    return Outcome(
        tables,
        stem="compiled",
        files=_files(platform, rows, broken, settings.folder, is_part=bool(settings.only)),
        faults=[f"broken: {line}" for line in broken],
        notes=[count],
    )


BENCHMARK = Benchmark(
    "chips",
    "Compiled for TPU v5e and H100",
    run,
    {
        "platform": Setting("tpu", help="tpu or gpu", choices=tuple(target.KINDS), selects=False),
        # A part replaces its rows in the results of the whole, so it is saved.
        "only": Setting(
            "", help="cases with this in group or name, and their peers", selects=False
        ),
    },
)
