"""Draw the ratios of committed results over commits, into docs/performance.md.

    python -m benchmarks history            # rewrite the table and the picture
    python -m benchmarks history --print    # print the table only

Figures are read by `git show` from every committed version of results/*.json. One machine differs
from another and versions of peers move, so a line compares ratios to a peer, never times.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.benchmark import PICTURES, RESULTS, ROOT
from benchmarks.tables import Table

PAGE = ROOT / "docs" / "performance.md"
PICTURE = PICTURES / "history.svg"
BEGIN, END = "<!-- history: begin -->\n", "<!-- history: end -->"
Ratios = dict[str, float]


def mappings(results: dict) -> Ratios:
    """Geometric means over shapes, spreads and both quantities."""
    by_name: dict[str, list[float]] = {}
    for race in results["races"]:
        by_name.setdefault(race["mapping"], []).append(race["ratio"])
    names = {name: f"{name} ÷ jax.nn.softmax" for name in ("softmax", "sparsemax", "entmax 1.5")}
    return {
        label: statistics.geometric_mean(by_name[name])
        for name, label in names.items()
        if name in by_name
    }


def attention(results: dict) -> Ratios:
    """The main race, value and gradient."""
    times = {
        each["contestant"]: each["milliseconds"]
        for each in results["records"]
        if each["case"] == "T = 4,096" and each["quantity"] == "value and gradient"
    }
    return {
        f"attention, {name} ÷ jax.nn": times[name] / times["jax.nn"]
        for name in ("softmax", "entmax 1.5")
    }


def short_attention(results: dict) -> Ratios:
    """The mean over the shapes."""
    ratios = [
        each["seconds"]["jsoftmax"] / each["seconds"]["jax.nn.dot_product_attention"]
        for each in results["records"]
    ]
    return {"short attention ÷ jax.nn": statistics.geometric_mean(ratios)}


def linear(results: dict) -> Ratios:
    """The large case."""
    times = {
        each["contestant"]: each["milliseconds"] for each in results["records"] if each["large"]
    }
    ours = "jsoftmax.linear_cross_entropy"
    return {"linear_cross_entropy ÷ optax on h @ W": times[ours] / times["optax on h @ W"]}


def adaptive(results: dict) -> Ratios:
    """The first case."""
    case = results["records"][0]["case"]
    times = {r["contestant"]: r["milliseconds"] for r in results["records"] if r["case"] == case}
    ours, peer = "jsoftmax.adaptive_cross_entropy", "torch AdaptiveLogSoftmaxWithLoss"
    return {"adaptive_cross_entropy ÷ torch": times[ours] / times[peer]}


def sampled(results: dict) -> Ratios:
    """A training step."""
    times = {each["step"]: each["milliseconds"] for each in results["times"]}
    few = "sampled_softmax_loss, few rows"
    return {"sampled step ÷ full softmax": times[few] / times["optax on h @ Wᵀ"]}


def truncation(results: dict) -> Ratios:
    """The mean over shapes and spreads."""
    ratios = [r["ratio"] for r in results["records"] if r["name"] == "top_p_mask, 0.9"]
    return {"top_p_mask ÷ jax.nn.softmax": statistics.geometric_mean(ratios)}


def language_model(results: dict) -> Ratios:
    """The first case."""
    return {"language model, step ÷ jax.nn and optax": results["records"]["2048 classes"]["ratio"]}


def regression(results: dict) -> Ratios:
    """Fits to the digits."""
    times = next(each["milliseconds"] for each in results["data"] if each["data"] == "digits")
    peer = min(times["peer, lbfgs"], times["peer, lbfgs, one thread"])
    return {"SoftmaxRegression ÷ scikit-learn": times["ours, lbfgs"] / peer}


def word_vectors(results: dict) -> Ratios:
    """Processor time of the quickest rate."""
    best: dict[str, float] = {}
    for each in results["records"]:
        name, seconds = each["learner"], min(each["cpu_seconds"])
        best[name] = min(best.get(name, float("inf")), seconds)
    return {"word vectors ÷ gensim, CPU seconds": best["jsoftmax"] / best["gensim"]}


RATIOS: dict[str, Callable[[dict], Ratios]] = {
    each.__name__: each
    for each in (
        mappings, attention, short_attention, linear, adaptive, sampled, truncation,
        language_model, regression, word_vectors,
    )
}  # fmt: skip


def versions(file: pathlib.Path) -> Iterator[tuple[str, dict]]:
    """Commit and contents of every committed version, oldest first; those on disk last."""
    name = file.relative_to(ROOT).as_posix()
    for line in _git("log", "--reverse", "--format=%h", "--", name).split():
        try:
            yield line, json.loads(_git("show", f"{line}:{name}"))
        except subprocess.CalledProcessError:  # removed in this commit
            continue


class Point(NamedTuple):
    """A ratio in one committed version of the results."""

    value: float
    commit: str
    machine: dict

    @property
    def date(self) -> str:
        """The day of the measurement."""
        return self.machine["date"]


Found = dict[tuple[str, str], list[Point]]  # by benchmark and label, oldest first


def collected() -> Found:
    """Every ratio of every committed version."""
    found: Found = {}
    for name, ratios in RATIOS.items():
        for commit, results in versions(RESULTS / f"{name}.json"):
            try:
                values = ratios(results)
            except (KeyError, StopIteration):  # an older format without these figures
                continue
            for label, value in values.items():
                line = found.setdefault((name, label), [])
                if not line or line[-1].value != value:  # else only other words were changed
                    line.append(Point(value, commit, results["machine"]))
    return found


def table(found: Found) -> str:
    """Last, first and least value of each ratio, in Markdown."""
    rows = []
    for (name, label), points in found.items():
        first, last = points[0], points[-1]
        rows.append([
            f"[{label}](../benchmarks/results/{name}.md)", f"{last.value:.3g}", last.date,
            f"{last.machine['processor']}, {last.machine['cores']} cores",
            f"{first.value:.3g} ({first.date})", f"{min(point.value for point in points):.3g}",
            str(len(points)), last.commit,
        ])  # fmt: skip
    head = ["time ÷ peer's", "now", "date", "machine", "first", "least", "versions", "commit"]
    return Table("Ratios", "", head, rows).markdown()


def picture(found: Found):
    """One small panel for each ratio that has several versions."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "jsoftmax"  # the same figures give the same file
    lines = {label: points for (_, label), points in found.items() if len(points) > 1}
    columns = 3
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(9, 1.9 * rows), layout="constrained")
    for i, (label, points) in enumerate(lines.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        values = [point.value for point in points]
        axes.plot(range(len(points)), values, "o-", color="#0072B2", markersize=4)
        axes.axhline(1, color="#6e6e6e", linewidth=0.8, linestyle=":")
        axes.set_xticks(range(len(points)), [point.date[5:] for point in points], fontsize=7)
        axes.set_ylim(0, 1.15 * max(1, *values))
        axes.tick_params(axis="y", labelsize=7)
        axes.set_title(label, fontsize=8)
    return figure


def main(words: list[str]) -> None:
    """Rewrite the generated part of the page, or print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks history", description=__doc__)
    parser.add_argument("--print", action="store_true", help="print the table, write nothing")
    options = parser.parse_args(words)
    try:
        found = collected()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"benchmarks history: needs git and a checkout with its history: {error}")
    text = table(found)
    if options.print:
        print(text)
        return
    figure = picture(found)
    figure.savefig(PICTURE, metadata={"Date": None})
    link = f"![Ratios over versions of the results]({PICTURE.relative_to(PAGE.parent).as_posix()})"
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        sys.exit(f"benchmarks history: {PAGE} lacks {BEGIN.strip()} or {END}.")
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{link}\n\n{END}{tail}", encoding="utf-8")
    print(f"Wrote {PAGE} and {PICTURE}.")


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
