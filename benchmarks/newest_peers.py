"""Compare mappings with SoftJAX's and attention with the newest tokamax's: values and time.

Both need a newer Python and JAX than the other benchmarks, so they live in an environment of their
own: make newest-peers. SoftJAX projects onto the simplex by sorting (modes c0, c1, c2) under the
regularizer (1/α) Σ p^α, which is entmax at temperature α − 1.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import softjax
import tokamax
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.compiled import FORWARD, QUANTITIES
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

MODES = {"smooth": 1.0, "c2": 4 / 3, "c1": 1.5, "c0": 2.0}  # and the α of each
OURS, PEER, AGAIN = "jsoftmax", "peer", "peer again"


def of_softjax(mode: str) -> Callable[[jax.Array], jax.Array]:
    """Its soft arg max along the last axis, scores as they come."""
    return functools.partial(
        softjax.argmax, axis=-1, mode=mode, softness=1.0, standardize=False, method="softsort"
    )


def of_jsoftmax(mode: str) -> Callable[[jax.Array], jax.Array]:
    """The same by entmax."""
    alpha = MODES[mode]
    temperature = 1.0 if alpha == 1 else alpha - 1
    return lambda z: jsoftmax.entmax(z, alpha, temperature=temperature)


def compare(ours: Callable, peer: Callable, inputs: tuple, quantity: str, settings) -> dict:
    """Largest difference of values and gradients, and the best times of interleaved turns."""
    shape = jax.eval_shape(ours, *inputs).shape
    weights = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)

    def of(function):
        if quantity == FORWARD:
            return jax.jit(function)

        # The weights are an argument, since XLA would fold a constant.
        def total(weights, *arrays):
            return jnp.sum(weights * function(*arrays))

        gradient = jax.value_and_grad(total, tuple(range(1, len(inputs) + 1)))
        return functools.partial(jax.jit(gradient), weights)

    calls = {OURS: of(ours), PEER: of(peer), AGAIN: of(peer)}
    found = {name: call(*inputs) for name, call in calls.items()}
    pairs = zip(*(jax.tree.leaves(found[name]) for name in (OURS, PEER)), strict=True)
    best = race(
        {name: functools.partial(_done, call, inputs) for name, call in calls.items()},
        rounds=settings.rounds,
        seconds=settings.seconds,
    )
    return {
        "quantity": quantity,
        "difference": max(float(jnp.abs(x - y).max()) for x, y in pairs),
        **{f"{name}_milliseconds": 1e3 * seconds for name, seconds in best.items()},
    }


def _done(call, inputs):
    return jax.block_until_ready(call(*inputs))


def table(title: str, caption: str, records: list[dict]) -> Table:
    """Differences and times, with the noise beside them."""
    rows = [
        [
            record["case"], record["quantity"], f"{record['difference']:.1e}",
            f"{record[f'{OURS}_milliseconds']:.3g}", f"{record[f'{PEER}_milliseconds']:.3g}",
            f"{record[f'{OURS}_milliseconds'] / record[f'{PEER}_milliseconds']:.2f}",
            f"{record[f'{AGAIN}_milliseconds'] / record[f'{PEER}_milliseconds']:.2f}",
        ]
        for record in records
    ]  # fmt: skip
    head = ["case", "quantity", "difference", "ours, ms", "peer, ms", "ours ÷ peer", "noise"]
    return Table(title, caption, head, rows)


def run(settings, screen) -> Outcome:
    """Race mappings, then attention."""
    mappings, attention = [], []
    cases = [(s, mode, q) for s in settings.shapes for mode in MODES for q in QUANTITIES]
    for shape, mode, quantity in track(cases, "mappings", console=screen):
        z = jnp.asarray(np.random.default_rng(0).normal(0, 2, shape), jnp.float32)
        found = compare(of_jsoftmax(mode), of_softjax(mode), (z,), quantity, settings)
        name = f"{list(shape)}, {mode}, α = {MODES[mode]:.3g}"
        mappings.append({"case": name, **found})
    cases = [(n, way, q) for n in settings.lengths for way in settings.ways for q in QUANTITIES]
    for length, way, quantity in track(cases, "attention", console=screen):
        rng = np.random.default_rng(0)
        inputs = tuple(
            jnp.asarray(rng.standard_normal((1, length, 4, 64)), jnp.float32) for _ in range(3)
        )
        peer = functools.partial(tokamax.dot_product_attention, implementation=way)
        found = compare(jsoftmax.dot_product_attention, peer, inputs, quantity, settings)
        attention.append({"case": f"T = {length}, {way}", **found})
    minima = f"Minima of at least {settings.rounds} interleaved rounds; noise: the peer ÷ itself."
    report = [
        table(
            "SoftJAX",
            "softjax.argmax beside entmax on normal logits of standard deviation 2, float32. The "
            f"difference is absolute, of values or of values and gradients. {minima}",
            mappings,
        ),
        table(
            "tokamax",
            f"Softmax attention, float32, 4 heads of 64, batch 1, beside tokamax on CPU. {minima}",
            attention,
        ),
    ]
    kept = {"rounds": settings.rounds, "mappings": mappings, "attention": attention}
    return Outcome(report, kept)


BENCHMARK = Benchmark(
    "newest_peers",
    "The newest SoftJAX and tokamax",
    run,
    {
        "shapes": Setting(((4096, 64), (4096, 512), (128, 32_000)), ((64, 64),)),
        "lengths": Setting((512, 2048), (64,)),
        "ways": Setting(("xla", "xla_chunked")),
        "rounds": Setting(10, 2, "rounds of every race, at least"),
        "seconds": Setting(1.0, 0.1, "of every race, at least"),
    },
)


if __name__ == "__main__":
    command("newest_peers")
