"""Read the schedules of attention's kernels on a TPU v5e, beside JAX's flash attention.

Compile the kernels of softmax and of 1.5-entmax beside JAX's own Pallas flash attention, tiles of
512 keys by 256 queries in all, and count the bundles of their schedules. Nothing runs but
the search for the threshold, on a CPU, which counts its passes: on the scores of the demo's
transformer, which is trained for it, and on normal ones. It needs the extras tpu and demo.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import subprocess
import sys
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.chips import bundles, target
from benchmarks.chips.case import BF16, WHOLE
from benchmarks.runner import command
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._scores import Dense
from jsoftmax.core._threshold import solve
from jsoftmax.kernels.attention._row import TOGETHER
from jsoftmax.kernels.attention._spec import PEAK

LENGTH, KEYS, QUERIES = 4096, 512, 256
ROUNDING = float(jnp.finfo(BF16).eps) / 128
TILES = LENGTH // KEYS
TURNS = TILES // TOGETHER  # of a pass over peaks; one over all keys has a turn for each tile
_KERNEL = {
    "forward": "jsoftmax_attention.",
    "queries": "attention_queries",
    "keys": "attention_keys",
}
NAMES = "flash", "1.0", "1.5", "1.0 alone", "1.5 alone"  # α; alone, without a gradient
_FLASH = {"forward": "flash_attention", "queries": "flash_mha_bwd_dq", "keys": "flash_mha_bwd_dkv"}


def _compile(name):
    arrays = [target.Target("tpu").array((4, LENGTH, 8, 128), BF16, WHOLE)] * 3

    attend = _flash if name == "flash" else partial(
        jsoftmax.dot_product_attention, alpha=float(name.split()[0]), implementation="pallas"
    )  # fmt: skip

    def loss(*arrays):
        return jnp.sum(attend(*arrays).astype(jnp.float32) ** 2)

    function = attend if name.endswith("alone") else jax.grad(loss, (0, 1, 2))
    target.Target("tpu").compile(function, *arrays)


def _flash(q, k, v):
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    sizes = flash.BlockSizes(
        block_b=1, block_q=QUERIES, block_k_major=KEYS, block_k=KEYS,
        block_q_major_dkv=QUERIES, block_q_dkv=QUERIES, block_k_major_dkv=KEYS, block_k_dkv=KEYS,
        block_q_dq=QUERIES, block_k_major_dq=KEYS, block_k_dq=KEYS,
    )  # fmt: skip
    return flash.flash_attention(q, k, v, sm_scale=128**-0.5, block_sizes=sizes)


def _schedules(name):
    """Loops of the forward kernel and of both backward kernels, by name."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"LIBTPU_INIT_ARGS": bundles.flags(folder)}
        program = [sys.executable, "-m", __spec__.name, "--compile", name]
        subprocess.run(program, env=environment, check=True, capture_output=True)
        names = _FLASH if name == "flash" else _KERNEL
        if name.endswith("alone"):
            names = {"forward": names["forward"]}
        return {kind: bundles.loops(folder, kernel) for kind, kernel in names.items()}


def cycles(found, name: str, passes: tuple[float, float]) -> dict[str, float]:
    """Bundles of each kernel for a tile, all that a block of queries does divided by its tiles."""
    if name == "flash":  # a step of its grid is a tile
        return {kind: float(loops[0].bundles) for kind, loops in found.items()}
    grid, *inner = (loop.bundles for loop in found["forward"])
    if name.startswith("1.0"):
        form, top, mix = inner
        once = grid - form - top - mix
        forward = once + TURNS * top + TILES * (form + mix)
    else:
        form, top, cut, short, short_pass, search, long_pass, mix = inner
        once = grid - form - top - cut - short - search - mix  # nothing is cut
        of_peaks, of_rows = passes
        forward = once + TURNS * top + TILES * (form + mix)
        forward += of_peaks * (short - short_pass + TURNS * short_pass)
        forward += of_rows * (search - long_pass + TILES * long_pass)
    backward = {}
    for kind, tiles in (("queries", TILES), ("keys", LENGTH // QUERIES)):
        if kind not in found:
            continue
        grid, *inner = (loop.bundles for loop in found[kind])
        tile = max(inner)
        backward[kind] = (grid - tile + tiles * tile) / tiles
    return {"forward": forward / TILES} | backward


def passes_over(scores: np.ndarray) -> tuple[float, float]:
    """Mean passes over the peaks, and over all keys, of blocks (blocks, queries, keys) at α = 1.5.

    A block goes on until its last query is done.
    """
    classes, counted = ClassAxis((-1,), None), {"short": 0, "long": 0}

    class Counted(Dense):
        joins_sums, rounding = True, ROUNDING

        def sum(self, fn):
            kind = "long" if self.values.shape[-1] == scores.shape[-1] else "short"

            def count():
                counted[kind] += 1

            jax.debug.callback(count)
            return super().sum(fn)

        def peaks(self):
            if self.values.shape[-1] < scores.shape[-1] or scores.shape[-1] % 128:
                return None
            z = self.values
            groups = z.reshape(*z.shape[:-1], -1, PEAK, 8)
            return Counted(jnp.max(groups, axis=-2).reshape(*z.shape[:-1], -1), classes)

    @jax.jit
    def solved(z):
        regularizer = jsoftmax.Tsallis(1.5)
        return regularizer.on_curve(jnp.any, lambda curve: solve(curve, Counted(z, classes))[0])

    for block in scores:
        solved(jnp.asarray(block)).block_until_ready()
    jax.effects_barrier()
    return counted["short"] / len(scores), counted["long"] / len(scores)


def passes_of_the_demo() -> tuple[float, float]:
    """On the causal scores of the demo's transformer with α = 1.5, after its training."""
    from jsoftmax.demo import _text
    from jsoftmax.demo._sections import Options

    corpus = _text.read(0)
    model, _ = _text.fitted(corpus, 1.5, Options(8, 0, pathlib.Path()), lambda: None)
    text = jnp.asarray(_text.windows(corpus.held_out)[:16, :-1])
    x, blocks = model.table(text), []
    for layer in model.layers:
        q, k, _ = layer.attention._heads(layer.before_attention(x))
        z = jnp.einsum("nthw,nshw->nhts", q, k) / q.shape[-1] ** 0.5
        z = jnp.where(jnp.tri(z.shape[-1], dtype=bool), z, -jnp.inf)
        blocks.append(z.reshape(-1, *z.shape[-2:]))
        x = layer(x)
    return passes_over(np.concatenate(blocks))


def passes_of_normal_scores() -> tuple[float, float]:
    """On N(0, 2²), 4096 keys, 256 queries."""
    rng = np.random.default_rng(0)
    return passes_over(2 * rng.normal(size=(8, QUERIES, LENGTH)).astype(np.float32))


def _page(found, passes):
    rows, ratios = [], []
    for name, title in (("flash", "Pallas flash"), ("1.0", "α = 1"), ("1.5", "α = 1.5")):
        tiles = cycles(found[name], name, next(iter(passes.values())))
        spills = {
            kind: max(x.spills for x in loops[1:] or loops) for kind, loops in found[name].items()
        }
        rows.append([
            title, *(f"{tiles[kind]:.0f}" for kind in _KERNEL), f"{_backward(tiles):.0f}",
            " / ".join(str(spills[kind]) for kind in _KERNEL),
        ])  # fmt: skip
    for kind, counts in passes.items():
        flash, one, more, one_alone, more_alone = (
            cycles(found[name], name, counts) for name in NAMES
        )
        forward = [
            [f"α = 1.5 forward ÷ α = 1, {kind} scores", more["forward"] / one["forward"], 2.5],
            ["the same, without a gradient", more_alone["forward"] / one_alone["forward"], 2.5],
        ]
        if not ratios:
            ratios += [
                ["α = 1 forward ÷ Pallas flash", one["forward"] / flash["forward"], 1.1],
                ["α = 1 backward ÷ Pallas flash", _backward(one) / _backward(flash), 1.1],
                ["α = 1.5 backward ÷ α = 1", _backward(more) / _backward(one), 1.5],
            ]
        ratios += forward
    counted = [
        [f"{kind} scores", f"{short:.2f}", f"{long:.2f}"] for kind, (short, long) in passes.items()
    ]
    head = ["", "forward", "d queries", "d keys, d values", "backward", "spills in loops"]
    return f"""# Kernels of attention, as the compiler of TPU v5e schedules them

Compiled, not run: {datetime.date.today()}, jax {jax.__version__}. Batch 4, T = 4096, 8 heads of
128, bfloat16. Bundles for a tile of 512 keys by 256 queries, one a cycle; work that a block of
queries does once is divided among its 8 tiles, and no tile is skipped. Waits are not counted.
Spills are stores and loads of registers in the inner loop that has most (forward / d queries / d
keys and values). The forward kernels are those of a gradient, which also keep residuals for the
backward pass, with the passes of trained scores.

{_table(head, rows)}

{_table(["quotient", "measured", "limit"], [[a, f"{b:.2f}", f"{c}"] for a, b, c in ratios])}

Passes of the search for τ at α = 1.5, run on a CPU: over the largest of every 16 scores, and over
all of them, with the precision that bfloat16 asks for. A block of queries goes on until its last
query is done. Trained scores are those of the demo's transformer, 128 keys by 128 queries, causal;
normal ones are N(0, 2²), 4096 keys by 256 queries.

{_table(["", "passes over peaks", "passes over all keys"], counted)}
"""


def _backward(tiles):
    return tiles["queries"] + tiles["keys"]


def _table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


SCORES = {"trained": passes_of_the_demo, "normal": passes_of_normal_scores}


def run(settings, screen) -> Outcome:
    """Compile, and count passes."""
    found = {name: _schedules(name) for name in NAMES}
    text = _page(found, {kind: SCORES[kind]() for kind in settings.scores})
    return Outcome(files={"attention_kernels.md": text}, notes=[text])


BENCHMARK = Benchmark(
    "attention_kernels",
    "Kernels of attention, as the compiler of TPU v5e schedules them",
    run,
    {"scores": Setting(tuple(SCORES), ("normal",))},
)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compile"]:
        _compile(sys.argv[2])
    else:
        command("attention_kernels")
