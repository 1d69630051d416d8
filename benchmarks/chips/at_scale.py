"""Compile a step of a million classes for pods of TPU v5e, as docs/at_scale.md has it."""

from __future__ import annotations

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.chips.target import Target
from benchmarks.runner import command
from benchmarks.tables import Table
from jsoftmax import linear_cross_entropy_sum

CLASSES, TOKENS, WIDTH = 123 * 8192, 2**20, 2048
# A pod of 16 × 16 chips; of 4096 chips, one of the 16 pods, with its 1/16 of the tokens.
PODS = {256: ({"data": 16, "model": 16}, TOKENS), 4096: ({"data": 4, "model": 64}, TOKENS // 16)}


def run(settings, screen) -> Outcome:
    """Figures of one device of each pod."""
    records, rows = [], []
    for chips in settings.pods:
        sizes, tokens = PODS[chips]
        pod = Target("tpu", AxisType.Explicit, "v5e:16x16", sizes)
        split = P("data")
        found = pod.compile(
            jax.value_and_grad(linear_cross_entropy_sum, (0, 1)),
            pod.array((tokens, WIDTH), "bfloat16", split),
            pod.array((WIDTH, CLASSES), "bfloat16", P(None, "model")),
            pod.array((tokens,), "int32", split),
            pod.array((tokens,), "float32", split),
        )
        totals = found.program.totals
        record = {
            "compile s": found.seconds,
            **{
                f"{name} MB": getattr(found, name) / 1e6
                for name in ("arguments", "results", "temporaries")
            },
            "traffic GB": totals.traffic / 1e9,
            "M cycles": totals.cycles / 1e6,
        }
        travels = [str(one) for one in found.program.collectives]
        records.append({"chips": chips, **record, "travels": travels})
        rows.append([str(chips), *(f"{x:.1f}" for x in record.values()), "; ".join(travels)])
    table = Table("One device", "", ["chips", *record, "travels"], rows)
    return Outcome([table], {"records": records})


BENCHMARK = Benchmark(
    "at_scale",
    "A step of a million classes, compiled for pods",
    run,
    {"pods": Setting(tuple(PODS), tuple(PODS)[:1])},
)


if __name__ == "__main__":
    command("at_scale")
