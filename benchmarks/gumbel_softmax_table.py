"""The Gumbel-softmax paper's first table, by us.

Every estimator trains the same networks: structured output prediction and a variational
autoencoder, with Bernoulli and with categorical layers, on binarised images. MNIST is not
downloaded; without `--mnist FILE` the images are the digits that ship inside scikit-learn.
"""

import dataclasses
import functools
import operator
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.binarised_images import Images, digits, mnist
from benchmarks.runner import command
from benchmarks.stochastic_networks import Autoencoder, StructuredOutput, Units
from benchmarks.tables import Table

SEEDS, STEPS, BATCH, PARTS = 5, 800, 50, 10
RATES = (3e-3, 1e-2)
HOT, COLD = 1.0, 0.5  # between these T falls geometrically, where it is annealed
FORWARD = 0.5  # the temperature at which decoupled straight-through draws
CHOOSING, JUDGING = 5, 50  # samples an image


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An estimator, as (key, logits, f, T) → f of a sample, and its column in the paper's table.

    Its networks are judged by exact samples of softmax(z/forward).
    """

    name: str
    value: Callable[..., jax.Array]
    anneals: bool = False
    published: str | None = None
    forward: float = 1.0


def contestants() -> list[Contestant]:
    """All of them; those that return one sample differ in nothing but their function."""
    js = jsoftmax

    def of_sample(name, estimator, anneals, published=None, forward=1.0, **options):
        def value(key, z, f, t):
            return f(estimator(key, z, t, **options))

        return Contestant(name, value, anneals, published, forward)

    def of_controls(samples):
        def value(key, z, f, t):
            return jax.vmap(f)(js.reinmax_cv(key, z, t, samples=samples)).mean(0)

        return Contestant(f"ReinMax, S = {samples}, each other's control", value)

    def of_values(samples, published=None):
        def value(key, z, f, t):
            return js.reinforce_leave_one_out(key, z, f, samples)

        name = f"REINFORCE, leave one out, S = {samples}"
        return Contestant(name, value, published=published)

    st = js.straight_through_categorical
    return [
        of_values(2, "SF"),
        of_values(4),
        of_sample("straight-through", st, False, "ST"),
        of_sample("straight-through, annealed", st, True, "Annealed ST"),
        of_sample(
            f"decoupled straight-through, drawn at {FORWARD}", js.decoupled_straight_through,
            False, forward=FORWARD, forward_temperature=FORWARD,
        ),
        of_sample("ReinMax", js.reinmax, False),
        of_controls(2),
        of_sample("ReinMax-Rao, S = 5", js.reinmax_rao, True, samples=5),
        of_sample("Gumbel-softmax, relaxed", js.gumbel_softmax, True, "Gumbel-S."),
        of_sample("Gumbel-1.5-entmax, relaxed", js.gumbel_entmax, True),
        of_sample("straight-through Gumbel", js.straight_through_gumbel, True, "ST Gumbel-S."),
        of_sample("Gumbel-Rao, S = 5", js.gumbel_rao, True, samples=5),
    ]  # fmt: skip


# E. Jang, S. Gu and B. Poole, "Categorical Reparameterization with Gumbel-Softmax", 2017, table 1.
PUBLISHED = {
    "SF": (72.0, 73.1, 112.2, 110.6),
    "DARN": (59.7, 67.9, 110.9, 128.8),
    "MuProp": (58.9, 63.0, 109.7, 107.0),
    "ST": (58.9, 61.8, 116.0, 110.9),
    "Annealed ST": (58.7, 61.1, 111.5, 107.8),
    "Gumbel-S.": (58.5, 59.0, 105.0, 101.5),
    "ST Gumbel-S.": (59.3, 59.7, 111.5, 107.8),
}
CELLS = {
    "structured output, Bernoulli": (StructuredOutput, True),
    "structured output, categorical": (StructuredOutput, False),
    "autoencoder, Bernoulli": (Autoencoder, True),
    "autoencoder, categorical": (Autoencoder, False),
}


def measure(
    contestant: Contestant,
    cell: str,
    images: Images,
    rows: int,
    steps: int,
    seeds: int = SEEDS,
) -> dict:
    """Train at every rate from every seed, in one scan; the rate is chosen as the step is."""
    kind, bernoulli = CELLS[cell]
    units = Units(rows, 2) if bernoulli else Units(rows // 10, 10)
    task = kind(units, images.learned.shape[1])
    start = time.perf_counter()
    trained = functools.partial(train, contestant, task, images, steps)
    of_seeds = jax.vmap(trained, in_axes=(0, None))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    chosen, models, at = jax.jit(jax.vmap(of_seeds, in_axes=(None, 0)))(keys, jnp.array(RATES))
    by_rate = np.nan_to_num(np.asarray(chosen).mean(1), nan=np.inf)
    best = int(np.argmin(by_rate))
    models = jax.tree.map(operator.itemgetter(best), models)
    nats = jax.jit(jax.vmap(functools.partial(judge, contestant, task, images)))(keys, models)
    return {
        "estimator": contestant.name,
        "published": contestant.published,
        "cell": cell,
        "rate": RATES[best],
        "nats": np.asarray(nats, np.float64).tolist(),
        "step": at[best].tolist(),
        "chosen_by": by_rate.tolist(),
        "seconds": time.perf_counter() - start,
    }


def train(contestant, task, images, steps, key, rate):
    """The least loss on the part to choose by, the model that has it, and its step."""
    learned, chosen_by = jnp.asarray(images.learned), jnp.asarray(images.chosen_by)
    start, sampling, choosing = jax.random.split(key, 3)
    extra = {"temperature": contestant.forward} if isinstance(task, Autoencoder) else {}
    adam = optax.scale_by_adam()

    def loss(model, key, batch, t):
        def node(key, z, f):
            return contestant.value(key, z, f, t)

        return task.losses(model, key, batch, node, **extra).mean()

    def step(state, i):
        model, memory = state
        which, noise = jax.random.split(jax.random.fold_in(sampling, i))
        batch = learned[jax.random.randint(which, (BATCH,), 0, len(learned))]
        t = HOT * (COLD / HOT) ** (i / steps) if contestant.anneals else HOT
        g = jax.grad(loss)(model, noise, batch, t)
        change, memory = adam.update(g, memory)
        return (jax.tree.map(lambda w, c: w - rate * c, model, change), memory), None

    def part(carry, number):
        state, best = carry
        numbers = number * (steps // PARTS) + jnp.arange(steps // PARTS)
        state, _ = jax.lax.scan(step, state, numbers)
        keys = jax.random.split(choosing, CHOOSING)
        value = task.judged(state[0], keys, chosen_by, contestant.forward).mean()
        new = (value, state[0], numbers[-1] + 1)
        return (state, jax.tree.map(lambda a, b: jnp.where(value < best[0], a, b), new, best)), None

    model = task.start(start)
    carry = (model, adam.init(model)), (jnp.inf, model, 0)
    return jax.lax.scan(part, carry, jnp.arange(PARTS))[0][1]


def judge(contestant, task, images, key, model):
    """The loss on the part that neither steps nor rates were chosen by."""
    keys = jax.random.split(jax.random.fold_in(key, JUDGING), JUDGING)
    return task.judged(model, keys, jnp.asarray(images.judged), contestant.forward).mean()


def table(records: list[dict], images: Images, rows: int, steps: int) -> Table:
    """One row an estimator, ours beside the published figures of MNIST where there is a column."""
    made = []
    for name in dict.fromkeys(record["estimator"] for record in records):
        mine = {r["cell"]: r for r in records if r["estimator"] == name}
        column = next(iter(mine.values()))["published"]
        row = [name, column or "–"]
        for i, cell in enumerate(CELLS):
            row.append(_mean(mine[cell]["nats"]) if cell in mine else "–")
            row.append(f"{PUBLISHED[column][i]:.1f}" if column else "–")
        made.append(row)
    for column in ("DARN", "MuProp"):
        pairs = [["–", f"{x:.1f}"] for x in PUBLISHED[column]]
        made.append(["–", column, *(text for pair in pairs for text in pair)])
    seeds, pixels = len(records[0]["nats"]), images.learned.shape[1]
    return Table(
        "Nats, lower is better",
        f"{images.name}: {pixels} pixels, {len(images.learned):,} images to learn from, "
        f"{len(images.chosen_by):,} to choose step and rate by, {len(images.judged):,} judged. "
        f"Structured output: −log p of the lower half given the upper one, through two stochastic "
        f"layers ({JUDGING} samples). Autoencoder: the negative evidence lower bound, one "
        f"stochastic layer, its prior learned. Layers of {rows} Bernoulli variables, or "
        f"{rows // 10} variables of 10 classes; all else is linear. Adam, {steps} steps of {BATCH} "
        f"images, the better of the rates {RATES}. T is 1, and where annealed falls from {HOT:g} "
        f"to {COLD:g}: all with Gumbel noise, ReinMax-Rao, and where named. Mean ± standard "
        f"deviation over {seeds} seeds, judged with exact samples, relaxed ones too. Published: "
        f"Jang, Gu and Poole, 2017, table 1, on binarised MNIST with 200 Bernoulli variables or 20 "
        f"of 10 classes; on other images only its order compares. Its SF has no leave-one-out "
        f"baseline. We have neither DARN nor MuProp.",
        ["estimator", "published as", *(text for cell in CELLS for text in (cell, "published"))],
        made,
    )


def _mean(nats: list[float]) -> str:
    deviation = np.std(nats, ddof=1) if len(nats) > 1 else 0.0
    return f"{np.mean(nats):.2f} ± {deviation:.2f}"


def run(settings, screen) -> Outcome:
    """Train every estimator in every cell."""
    images = mnist(settings.mnist) if settings.mnist else digits()
    rows = 200 if settings.mnist else 50
    cases = [(contestant, cell) for cell in settings.cells for contestant in contestants()]
    records = [
        measure(contestant, cell, images, rows, settings.steps)
        for contestant, cell in track(cases, "estimators", console=screen)
    ]
    return Outcome(
        [table(records, images, rows, settings.steps)],
        {"steps": settings.steps, "records": records},
        stem="gumbel_softmax_mnist" if settings.mnist else None,
    )


BENCHMARK = Benchmark(
    "gumbel_softmax_table",
    "The Gumbel-softmax paper's first table",
    run,
    {
        "mnist": Setting(
            None, help="mnist.npz, as Keras keeps it", parse=pathlib.Path, selects=False
        ),
        "steps": Setting(STEPS, 20, "of each training"),
        "cells": Setting(tuple(CELLS), tuple(CELLS)[:1]),
    },
)


if __name__ == "__main__":
    command("gumbel_softmax_table")
