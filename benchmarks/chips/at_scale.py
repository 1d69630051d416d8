"""python -m benchmarks.chips.at_scale: a step of a million classes, compiled for pods of v5e."""

from __future__ import annotations

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks.chips.target import Target
from jsoftmax import linear_cross_entropy_sum

CLASSES, TOKENS, WIDTH = 123 * 8192, 2**20, 2048
# A pod of 16 × 16 chips; of 4096 chips, one of the 16 pods, with its 1/16 of the tokens.
PODS = {256: ({"data": 16, "model": 16}, TOKENS), 4096: ({"data": 4, "model": 64}, TOKENS // 16)}


def main() -> None:
    """Print the figures of one device, as docs/at_scale.md has them."""
    for chips, (sizes, tokens) in PODS.items():
        pod = Target("tpu", AxisType.Explicit, "v5e:16x16", sizes)
        rows = P("data")
        found = pod.compile(
            jax.value_and_grad(linear_cross_entropy_sum, (0, 1)),
            pod.array((tokens, WIDTH), "bfloat16", rows),
            pod.array((WIDTH, CLASSES), "bfloat16", P(None, "model")),
            pod.array((tokens,), "int32", rows),
            pod.array((tokens,), "float32", rows),
        )
        totals = found.program.totals
        print(f"{chips} chips, compiled in {found.seconds:.1f} s")
        for name in ("arguments", "results", "temporaries"):
            print(f"  {name} {getattr(found, name) / 1e6:.0f} MB")
        print(f"  traffic {totals.traffic / 1e9:.1f} GB, cycles {totals.cycles / 1e6:.1f} million")
        for one in found.program.collectives:
            print(f"  {one}")


if __name__ == "__main__":
    main()
