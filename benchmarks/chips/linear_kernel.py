"""Compile linear cross-entropy in XLA's form and in Pallas: does a kernel pay?

Value and gradient, for TPU v5e where libtpu is installed, otherwise for H100; the page has both,
each from its last run. Nothing runs.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp

from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.chips import bundles, target
from benchmarks.chips.case import BF16
from benchmarks.chips.cases import _linear
from benchmarks.runner import command
from jsoftmax import linear_cross_entropy
from jsoftmax.kernels.linear import TableProblem
from jsoftmax.kernels.linear import chip as memory_and_cores

TOKENS, WIDTH, CLASSES = (1024, 8192, 65536), 2048, 128256
FLOPS_A_CYCLE = 4 * 128 * 128 * 2  # of a v5e's four matrix units; at 1.5 GHz 197 TFLOP/s
PRODUCT = 2 * WIDTH * CLASSES  # FLOPs of a token in one of the matrix products


HOW = """\
XLA's traffic and cycles are its own estimates, loops counted. A kernel's traffic is counted from
the blocks that each step of its grid moves, its cycles from the bundles of its schedule times the
steps, or from the products of a step at the peak of the matrix units (131,072 FLOPs a cycle, 197
TFLOP/s at 1.5 GHz) where that is more. Waits for main memory are in neither: at 819 GB/s, 546 bytes
a cycle, the traffic of every row takes less than its cycles."""
REASONS = """\
**Decision: on TPUs with one core (v5e, v6e) the kernel is worth having**, as
`implementation="pallas"`; None takes it only where a record says that it was faster. XLA's loops
write each block of scores and read it again, and the kernel keeps it on the chip: it needs no
temporaries. At 8192 tokens its cycles are 0.76 of XLA's, since one kernel forms both gradients, the
float32 gradient in all features (64 MiB) lying in VMEM, and takes four products, as XLA does. At
1024 tokens XLA keeps all scores and takes three products, so that the kernel gains memory (0 in the
place of 526 MB) and hardly any time; beyond 8192 tokens, or on chips with less VMEM or two cores,
two kernels take five products and gain 10 %. The cycles of a kernel assume that its copies and its
matrix units never wait: marin measured 1.23 times XLA's tokens a second on a v4 for another such
kernel and yet went back to XLA, because blocks did not fit the chip (marin#3248), which here is
foreseen. **On H100 XLA stays**: the forward pass in Triton compiles and saves 17 GB of main-memory
traffic if its blocks come from L2, but a backward pass would add up 2048 × 128 float32
numbers a block of classes, 1 MiB where a multiprocessor has 228 KiB, so that they would be added
atomically in main memory, some 270 GB beside the 48 GB that XLA moves (reasoned, not compiled)."""


@dataclasses.dataclass
class Figures:
    """Of one program on one device."""

    tokens: int
    name: str
    seconds: float
    temporaries: float
    traffic: float
    cycles: float | None
    launches: float
    least: float | None  # cycles of its matrix products at the peak
    note: str = ""


def total(implementation: str):
    """Value and gradient of the weighted sum of losses."""

    def weighted(h, w, y, s):
        return jnp.sum(s * linear_cross_entropy(h, w, y, implementation=implementation))

    return jax.value_and_grad(weighted, (0, 1))


def on_tpu(sizes) -> list[Figures]:
    """XLA's form and the kernels, for one v5e."""
    chip, found = target.Target("tpu"), []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"LIBTPU_INIT_ARGS": bundles.flags(folder)}
        for tokens in sizes:
            arrays = [chip.array(*x) for x in _linear(tokens, CLASSES)]
            xla = chip.compile(total("xla"), *arrays)
            products = 3 if tokens <= WIDTH // 2 else 4
            least = products * tokens * PRODUCT / FLOPS_A_CYCLE
            found.append(_of_xla(tokens, xla, least, xla.program.totals.cycles))
            compiled = chip.compile(total("pallas"), *arrays)
            program = [sys.executable, "-m", __spec__.name, "schedule", str(tokens)]
            subprocess.run(program, env=environment, check=True, capture_output=True)
            schedules = bundles.schedules(folder)
            for path in pathlib.Path(folder).iterdir():
                path.unlink()
            found.append(_of_kernel(chip, tokens, compiled, schedules))
    return found


def schedule(tokens: int) -> None:
    """Compile the kernels, so that the compiler writes their schedule."""
    chip = target.Target("tpu")
    chip.compile(total("pallas"), *(chip.array(*x) for x in _linear(tokens, CLASSES)))


def _of_xla(tokens, compiled, least, cycles) -> Figures:
    totals = compiled.program.totals
    return Figures(
        tokens, "XLA", compiled.seconds, compiled.temporaries, totals.traffic, cycles,
        totals.launches, least,
    )  # fmt: skip


def _of_kernel(chip, tokens, compiled, schedules) -> Figures:
    """Cycles: turns × bundles, or × the time of the matrix units where that is longer."""
    with jax.sharding.use_abstract_mesh(chip.mesh.abstract_mesh):
        problem = TableProblem(tokens, WIDTH, CLASSES, 1, BF16, False, *memory_and_cores())
    kernels = ("sums", "both") if problem.features_fit else ("sums", "features", "table")
    cycles, least, traffic, notes = 0.0, 0.0, 0.0, []
    table, features = WIDTH * CLASSES * 2, tokens * WIDTH * 2
    numbers = 4 * tokens * 6  # of all tokens, read or written
    for kernel in kernels:
        bt, bc = problem.blocks(kernel)
        across, down = tokens // bt, CLASSES // bc
        matrix = problem.products(kernel) * bt * bc * 2 * WIDTH / FLOPS_A_CYCLE
        shares = {
            "sums": (1 / down, 1 / down),
            "features": (1 / down, 1 / down),
            "table": (1 / across, 1 / across),
            "both": (1 / down, 1 / down, 1 / across, 1 / across),
        }[kernel]
        one = schedules[f"linear_{kernel}"]
        cycles += across * down * one.cycles(shares, matrix)
        least += across * down * matrix
        traffic += {
            "sums": features + across * table + numbers,
            "features": 2 * features + across * table + numbers,
            "table": down * (features + numbers) + 2 * table,
            "both": down * (features + numbers) + features + 2 * table,
        }[kernel]
        notes.append(
            f"{kernel}: {bt} × {bc}, {across * down} turns of {one.always} bundles "
            f"(matrix units {matrix:.0f}), {one.spills} spills"
        )
    return Figures(
        tokens, "Pallas", compiled.seconds, compiled.temporaries, traffic, cycles,
        compiled.program.totals.launches, least, "; ".join(notes),
    )  # fmt: skip


def on_gpu(sizes) -> list[Figures]:
    """XLA's form, and the forward pass in Triton, for one H100."""
    from benchmarks.chips import triton_linear

    chip, found = target.Target("gpu"), []
    for tokens in sizes[:2]:
        arrays = [chip.array(*x) for x in _linear(tokens, CLASSES)]
        for name, function in (("XLA", total("xla")), ("XLA, forward", _forward)):
            one = _of_xla(tokens, chip.compile(function, *arrays), None, None)
            found.append(dataclasses.replace(one, name=name))
        shares = triton_linear.shares(tokens)
        kernel = chip.compile(
            lambda h, w, y, s, n=shares: triton_linear.forward(h, w, y, n), *arrays
        )
        one = _of_xla(tokens, kernel, None, None)
        blocks = tokens // triton_linear.TOKENS * CLASSES // triton_linear.CLASSES
        from_cache = blocks * 2 * WIDTH * (triton_linear.TOKENS + triton_linear.CLASSES)
        note = f"{from_cache / 1e9:.0f} GB of blocks from L2"
        found.append(dataclasses.replace(one, name="Triton, forward", note=note))
    return found


def _forward(h, w, y, s):
    return linear_cross_entropy(h, w, y, implementation="xla")


HEAD = (
    "tokens", "form", "compile s", "temporaries MB", "traffic GB", "M cycles",
    "M cycles of matrix units", "launches", "",
)  # fmt: skip


def _cells(x: Figures) -> tuple[str, ...]:
    def millions(n):
        return "" if n is None else f"{n / 1e6:.1f}"

    return (
        f"{x.tokens}", x.name, f"{x.seconds:.1f}", f"{x.temporaries / 1e6:.1f}",
        f"{x.traffic / 1e9:.1f}", millions(x.cycles), millions(x.least),
        f"{x.launches:.0f}", x.note,
    )  # fmt: skip


def _page(known: dict) -> str:
    lines = [
        "# A kernel of linear cross-entropy, or XLA", "",
        f"Width {WIDTH}, {CLASSES:,} classes, bfloat16, value and gradient in both arguments.",
        "Compiled, not run: nothing here is a time.", "", HOW, "", REASONS, "",
    ]  # fmt: skip
    for platform, part in known.items():
        lines += [f"## {target.KINDS[platform]}", "", f"{part['date']}, jax {part['jax']}.", ""]
        lines += ["| " + " | ".join(HEAD) + " |", "|---:|---|" + "---:|" * 6 + "---|"]
        lines += ["| " + " | ".join(_cells(Figures(**row))) + " |" for row in part["rows"]]
        lines += [""]
    return "\n".join(lines)


def run(settings, screen) -> Outcome:
    """Compile for the chip of the installed compiler."""
    platform = "tpu" if importlib.util.find_spec("libtpu") else "gpu"
    rows = on_tpu(settings.tokens) if platform == "tpu" else on_gpu(settings.tokens)
    file = settings.folder / "linear_kernel.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[platform] = {
        "date": datetime.date.today().isoformat(),
        "jax": jax.__version__,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    text = _page(known)
    figures = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
    return Outcome(files={file.name: figures, "linear_kernel.md": text}, notes=[text])


BENCHMARK = Benchmark(
    "linear_kernel",
    "A kernel of linear cross-entropy, or XLA",
    run,
    {"tokens": Setting(TOKENS, TOKENS[:1])},
)


if __name__ == "__main__":
    if sys.argv[1:2] == ["schedule"]:
        schedule(int(sys.argv[2]))
    else:
        command("linear_kernel")
