"""Steps by hierarchical softmax, against the full softmax."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax as js
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

WIDTH, BATCH, RATE = 128, 1024, 0.1
SIZES, QUICK = (10_000, 1_000_000), (1_000, 20_000)
FULL_ROUNDS, ROUNDS = 1, 20
OPTIMIZERS = {
    "SGD": js.vocabulary.row_sgd(RATE),
    "row-wise Adagrad": js.vocabulary.row_adagrad(RATE),
}
FULL = "full softmax, SGD"


def contestants(classes: int, full: bool) -> tuple[dict, dict]:
    """Steps by name, each with a table of its own; and facts about the tree."""
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, classes + 1)
    start = time.perf_counter()
    tree = js.huffman_tree(p)
    built = time.perf_counter() - start
    h = jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32)
    batches = [jnp.asarray(rng.choice(classes, BATCH, p=p / p.sum()), jnp.int32) for _ in range(8)]

    def table(rows):
        return jnp.asarray(rng.normal(0, WIDTH**-0.5, (rows, WIDTH)), jnp.float32)

    calls = {}
    for name, optimizer in OPTIMIZERS.items():
        moved = table(tree.table_rows)
        held = [moved, optimizer.init(moved)]
        calls[f"hierarchical, {name}"] = functools.partial(
            _turn, functools.partial(_sparse_step, optimizer), held, tree, h, iter_of(batches)
        )
    if full:
        calls[FULL] = functools.partial(_turn, _full_step, [table(classes)], h, iter_of(batches))
    mean = tree.expected_length(p)
    return calls, {"classes": classes, "depth": tree.depth, "mean": mean, "built": built}


def iter_of(batches):
    """Batches, one after another, without end."""
    while True:
        yield from batches


def _turn(step, held, *arguments):
    *arguments, batches = arguments
    *held[:], loss, d_h = step(*held, *arguments, next(batches))
    jax.block_until_ready((held, loss, d_h))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _sparse_step(optimizer, table, state, tree, h, y):
    ids = tree.rows(y)

    def loss(rows, h):
        return -js.hierarchical_log_prob_of_rows(h, rows, tree, y).mean()

    value, (d_rows, d_h) = jax.value_and_grad(loss, (0, 1))(table[ids], h)
    return *optimizer.update(table, state, ids, d_rows), value, d_h


@functools.partial(jax.jit, donate_argnums=0)
def _full_step(table, h, y):
    """By the streamed loss, since the scores of all tokens would be 4 GB."""

    def loss(table, h):
        scale = 1 / BATCH
        return js.linear_cross_entropy_sum(h, table, y, scale, class_axis=0)

    value, (d_table, d_h) = jax.value_and_grad(loss, (0, 1))(table, h)
    return table - RATE * d_table, value, d_h


def tables(records: list[dict], trees: list[dict], sizes: tuple[int, int]) -> list[Table]:
    """Bounds, steps, trees."""
    found = {(r["classes"], r["step"]): r["milliseconds"] for r in records}
    few, many = sizes
    bounds = []
    for name in OPTIMIZERS:
        step = f"hierarchical, {name}"
        growth = found[many, step] / found[few, step]
        faster = found[many, FULL] / found[many, step]
        bounds += [
            [f"{step}: K = {many:,} ÷ K = {few:,}", f"{growth:.2f}", "≤ 2", _met(growth <= 2)],
            [f"{FULL} ÷ {step}, K = {many:,}", f"{faster:.0f}", "≥ 50", _met(faster >= 50)],
        ]
    return [
        Table("Bounds", "Ratios of times.", ["ratio", "measured", "bound", "met"], bounds),
        Table(
            "Training steps",
            f"Loss, gradients and update of the table; {WIDTH} features, {BATCH} tokens, float32, "
            f"classes drawn by Zipf's law, Huffman's tree. Minima of at least {ROUNDS} interleaved "
            f"rounds, {FULL_ROUNDS} after a first of the full softmax, which is streamed.",
            ["K", "step", "ms"],
            [[f"{r['classes']:,}", r["step"], f"{r['milliseconds']:.3g}"] for r in records],
        ),
        Table(
            "Trees",
            "Depth, mean number of choices, seconds to build.",
            ["K", "depth", "mean", "s"],
            [
                [f"{t['classes']:,}", str(t["depth"]), f"{t['mean']:.1f}", f"{t['built']:.2f}"]
                for t in trees
            ],
        ),
    ]


def _met(kept: bool) -> str:
    return "yes" if kept else "no"


def run(settings, screen) -> Outcome:
    """Time the full softmax, then race the steps by trees."""
    sizes = settings.sizes
    records, trees, steps = [], [], {}
    for classes in sizes:
        calls, about = contestants(classes, full=classes == sizes[-1])
        trees.append(about)
        full = {name: calls.pop(name) for name in (FULL,) if name in calls}
        steps |= {(classes, name): call for name, call in calls.items()}
        for name, call in full.items():
            seconds = race({name: call}, rounds=FULL_ROUNDS, seconds=0)[name]
            records.append({"classes": classes, "step": name, "milliseconds": 1e3 * seconds})
        del full
    # The steps of all sizes in one race, so that a slow spell falls on all.
    best = race({str(key): call for key, call in steps.items()}, rounds=settings.rounds)
    records += [
        {"classes": key[0], "step": key[1], "milliseconds": 1e3 * best[str(key)]} for key in steps
    ]
    kept = {"rounds": settings.rounds, "trees": trees, "records": records}
    return Outcome(tables(records, trees, sizes), kept)


BENCHMARK = Benchmark(
    "trees",
    "Trees, timed",
    run,
    {
        "sizes": Setting(SIZES, QUICK),
        "rounds": Setting(ROUNDS, 3, "rounds of every race"),
    },
)


if __name__ == "__main__":
    command("trees")
