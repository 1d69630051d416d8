"""Sampled losses against the full softmax: bias, variance, time.

The frequencies of the classes fall by Zipf's law, and targets are drawn from the softmax itself.
Each loss is taken many times, with other candidates each time; the mean and the scatter of its
value, and of its gradient in the whole table, are compared with the full softmax."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.estimators import COLOURS
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

CLASSES, WIDTH, TOKENS, REPEATS = 10_000, 32, 128, 60
DRAWS = (32, 128, 512, 2048)
STEP = {"tokens": 256, "width": 64, "classes": 100_000, "draws": 512}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A class table and tokens, the log-partition of each, and how frequent classes are."""

    features: jax.Array
    table: jax.Array
    bias: jax.Array
    targets: jax.Array
    log_partition: jax.Array
    frequencies: np.ndarray


def problem() -> Problem:
    """Scores of standard deviation 2 about log-frequencies by Zipf's law."""
    rng = np.random.default_rng(0)
    bias = np.log(zipf(CLASSES))
    h = rng.normal(size=(TOKENS, WIDTH))
    table = rng.normal(0, 2 / WIDTH**0.5, (CLASSES, WIDTH))
    z = h @ table.T + bias
    targets = (z + rng.gumbel(size=z.shape)).argmax(-1)
    log_z = np.log(np.exp(z).sum(-1))
    p = np.exp(z - log_z[:, None]).mean(0)  # how frequent targets are, as counts would say
    single = (jnp.asarray(x, jnp.float32) for x in (h, table, bias))
    return Problem(*single, jnp.asarray(targets), jnp.asarray(log_z[:, None], jnp.float32), p)


def zipf(classes: int) -> np.ndarray:
    """Probabilities that fall as one over the rank."""
    weights = 1 / np.arange(1.0, classes + 1)
    return weights / weights.sum()


Sampler = jsoftmax.vocabulary.ClassSampler
Loss = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A loss and where its candidates come from. (Targets of a batch are draws by unigram.)"""

    loss: str
    sampler: str

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.loss}, {self.sampler}"


UNIGRAM, POWER, DISTINCT = "unigram", "unigram^¾", "unigram, no repeats"
SAMPLED = "sampled softmax"
CONTESTANTS = (
    Contestant(SAMPLED, "uniform"),
    Contestant(SAMPLED, "uniform, no repeats"),
    Contestant(SAMPLED, "log-uniform"),
    Contestant(SAMPLED, POWER),
    Contestant(SAMPLED, UNIGRAM),
    Contestant(SAMPLED, DISTINCT),
    Contestant("with corrected targets", UNIGRAM),
    Contestant("importance sampling", UNIGRAM),
    Contestant("target sampling", "random vocabularies"),
    Contestant("NCE, c = log Z", UNIGRAM),
    Contestant("negative sampling", UNIGRAM),
)


def samplers(frequencies: np.ndarray) -> dict[str, Sampler]:
    """All of them; targets are drawn with these frequencies."""
    unigram = functools.partial(jsoftmax.vocabulary.unigram_sampler, frequencies)
    return {
        "uniform": jsoftmax.vocabulary.uniform_sampler(frequencies.size),
        "uniform, no repeats": jsoftmax.vocabulary.uniform_sampler(
            frequencies.size, replacement=False
        ),
        "log-uniform": jsoftmax.vocabulary.log_uniform_sampler(frequencies.size),
        POWER: unigram(power=0.75),
        UNIGRAM: unigram(power=1),
        DISTINCT: unigram(power=1, replacement=False),
        "random vocabularies": unigram(power=1, replacement=False),
    }


def losses(log_partition: jax.Array) -> dict[str, Loss]:
    """(features, table, targets, candidates, bias, class_axis) → one loss a token."""

    def of_vocabulary(h, table, y, candidates, **options):
        return jsoftmax.vocabulary.target_sampling_loss(h, table, y, candidates.ids, **options)

    return {
        SAMPLED: jsoftmax.sampled_softmax_loss,
        "with corrected targets": functools.partial(
            jsoftmax.sampled_softmax_loss, correct_targets=True
        ),
        "importance sampling": jsoftmax.vocabulary.importance_sampling_loss,
        "target sampling": of_vocabulary,
        "NCE, c = log Z": functools.partial(jsoftmax.nce_loss, log_partition=log_partition),
        "negative sampling": jsoftmax.negative_sampling_loss,
    }


def measure(contestant: Contestant, draws: int, repeats: int, given: Problem) -> dict:
    """Bias and deviation of the mean loss, in nats, and of its gradient over the exact one."""
    loss = losses(given.log_partition)[contestant.loss]
    h, y = given.features, given.targets

    def full(table):
        return jsoftmax.linear_cross_entropy(h, table, y, bias=given.bias, class_axis=0).mean()

    def sampled(table, candidates):
        options = {"bias": given.bias, "class_axis": 0}
        return loss(h, table, y, candidates, **options).mean()

    def once(key, table, sampler):
        candidates = sampler.sample(key, (draws,), y)
        return jax.value_and_grad(sampled)(table, candidates)

    @jax.jit
    def statistics(key, table, sampler):
        value, gradient = jax.value_and_grad(full)(table)

        def add(sums, key):
            found, slope = once(key, table, sampler)
            off = slope - gradient
            sums = jax.tree.map(jnp.add, sums, (off, jnp.sum(off**2)))
            return sums, found - value

        start = (jnp.zeros_like(table), jnp.zeros(()))
        (off, squares), values = jax.lax.scan(add, start, jax.random.split(key, repeats))
        off = off / repeats
        length = jnp.sum(gradient**2)
        scatter = squares / repeats - jnp.sum(off**2)
        mean = off + gradient
        cosine = jnp.sum(mean * gradient) / jnp.sqrt(jnp.sum(mean**2) * length)
        return values, jnp.sum(off**2) / length, scatter / length, cosine

    sampler = samplers(given.frequencies)[contestant.sampler]
    values, off, scatter, cosine = statistics(jax.random.key(1), given.table, sampler)
    values = np.asarray(values, np.float64)
    scatter = float(scatter) * repeats / (repeats - 1)
    return {
        "loss": contestant.loss,
        "sampler": contestant.sampler,
        "contestant": contestant.name,
        "draws": draws,
        "value_bias": float(values.mean()),
        "value_deviation": float(values.std(ddof=1)),
        "value_resolution": float(values.std(ddof=1) / repeats**0.5),
        # The mean of so many gradients scatters too.
        "gradient_bias": float(np.sqrt(max(float(off) - scatter / repeats, 0))),
        "gradient_resolution": float(np.sqrt(scatter / repeats)),
        "gradient_deviation": float(np.sqrt(scatter)),
        "cosine": float(cosine),
    }


QUANTITIES = {
    "value_bias": "Mean of the loss less the full cross-entropy, in nats. < marks a mean below "
    "twice the standard error, and may be nothing.",
    "value_deviation": "Standard deviation of the mean loss of the tokens, in nats.",
    "gradient_bias": "Length of the mean error over the length of the full gradient. < marks a "
    "length below half the scatter of the mean of so many gradients, and may be nothing.",
    "gradient_deviation": "Standard deviation of one gradient (root of the summed variances) over "
    "the length of the full one.",
    "cosine": "Cosine of the angle between the mean and the full gradient.",
}


def tables(records: list[dict]) -> list[Table]:
    """For each quantity one row a contestant, one column a number of draws."""
    made = []
    draws = sorted({record["draws"] for record in records})
    for quantity, caption in QUANTITIES.items():
        rows = []
        for name in dict.fromkeys(record["contestant"] for record in records):
            mine = {r["draws"]: r for r in records if r["contestant"] == name}
            rows.append([name, *(_text(mine[n], quantity) for n in draws)])
        title = quantity.replace("_", ": ", 1).replace("cosine", "gradient: cosine").capitalize()
        made.append(Table(title, caption, ["loss, sampler", *(f"{n:,}" for n in draws)], rows))
    return made


def _text(record: dict, quantity: str) -> str:
    value = record[quantity]
    if quantity == "value_bias" and abs(value) < 2 * record["value_resolution"]:
        return f"< {2 * record['value_resolution']:.2g}"
    if quantity == "gradient_bias" and value < record["gradient_resolution"] / 2:
        return f"< {record['gradient_resolution'] / 2:.2g}"
    return f"{value:.3f}" if quantity == "cosine" else f"{value:.2g}"


def picture(records: list[dict]) -> Figure:
    """Bias and deviation of the gradient against the number of draws, of all that estimate it."""
    records = [record for record in records if record["loss"] != "negative sampling"]
    # Dark letters on white paper, which can be read on a page of any colour.
    page = Figure(figsize=(11, 5.8), layout="constrained", facecolor="white")
    panels = page.subplots(1, 2, sharex=True)
    _lines(panels[0], records, "gradient_bias", "bias of the gradient ÷ |g|, where any was found")
    _lines(panels[1], records, "gradient_deviation", "deviation of one gradient ÷ |g|")
    handles, labels = panels[0].get_legend_handles_labels()
    page.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return page


def _lines(axes: Axes, records: list[dict], quantity: str, label: str) -> None:
    names = list(dict.fromkeys(record["contestant"] for record in records))
    for i, name in enumerate(names):
        mine = [r for r in records if r["contestant"] == name]
        found = [
            r for r in mine
            if quantity != "gradient_bias" or r[quantity] > r["gradient_resolution"] / 2
        ]  # fmt: skip
        colour, style = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--"
        axes.plot(
            [r["draws"] for r in found], [r[quantity] for r in found],
            style, marker="o", markersize=4, color=colour, linewidth=1.5, label=name,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="candidates", title=label)
    axes.set_xticks(DRAWS, [f"{n:,}" for n in DRAWS])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


FULL, STREAMED, SUM = "optax on h @ Wᵀ", "linear_cross_entropy", "linear_cross_entropy_sum"
DENSE_SAMPLED, FEW_ROWS = "sampled_softmax_loss", "sampled_softmax_loss, few rows"


def steps(draws: int, y: jax.Array, classes: int) -> dict[str, Callable]:
    """Whole training steps (table, state, features, sampler, key) → (table, state), by Adagrad."""
    n, optimizer, rows = y.size, optax.adagrad(0.1), jsoftmax.vocabulary.row_adagrad(0.1)

    def dense(loss):
        def step(table, state, h, sampler, key):
            gradient = jax.grad(lambda table: loss(h, table, sampler, key))(table)
            updates, state = optimizer.update(gradient, state, table)
            return optax.apply_updates(table, updates), state

        return step, optimizer.init

    def full(h, table, sampler, key):
        return optax.softmax_cross_entropy_with_integer_labels(h @ table.T, y).mean()

    def streamed(h, table, sampler, key):
        return jsoftmax.linear_cross_entropy(h, table, y, class_axis=0).mean()

    def summed(h, table, sampler, key):
        return jsoftmax.linear_cross_entropy_sum(h, table, y, 1 / n, class_axis=0)

    def sampled(h, table, sampler, key):
        candidates = sampler.sample(key, (draws,))
        return jsoftmax.sampled_softmax_loss(h, table, y, candidates, class_axis=0).mean()

    def few_rows(table, state, h, sampler, key):
        few = jsoftmax.vocabulary.gathered_classes(y, sampler.sample(key, (draws,)), classes)

        def loss(rows):
            return jsoftmax.sampled_softmax_loss(
                h, rows, few.labels, few.candidates, class_axis=0
            ).mean()

        return rows.update(table, state, few.ids, jax.grad(loss)(table[few.ids]))

    return {
        FULL: dense(full),
        STREAMED: dense(streamed),
        SUM: dense(summed),
        DENSE_SAMPLED: dense(sampled),
        FEW_ROWS: (few_rows, rows.init),
    }


def timed(sizes: dict, rounds: int) -> list[dict]:
    """Milliseconds of a step of every kind; table and state are donated and come back."""
    classes, width = sizes["classes"], sizes["width"]
    rng = np.random.default_rng(0)
    h = jnp.asarray(rng.normal(size=(sizes["tokens"], width)), jnp.float32)
    first = jnp.asarray(rng.normal(0, 2 / width**0.5, (classes, width)), jnp.float32)
    y = jnp.asarray(rng.choice(classes, sizes["tokens"], p=zipf(classes)))
    rest = (h, jsoftmax.vocabulary.unigram_sampler(zipf(classes)), jax.random.key(0))
    calls, memory = {}, {}
    for name, (step, init) in steps(sizes["draws"], y, classes).items():
        table = first + 0
        state = init(table)
        ready = jax.jit(step, donate_argnums=(0, 1)).lower(table, state, *rest).compile()
        memory[name] = ready.memory_analysis().temp_size_in_bytes / 1e6
        calls[name] = _turn(ready, [table, state], rest)
    best = race(calls, rounds=rounds)
    return [
        {"step": name, "milliseconds": 1e3 * best[name], "megabytes": memory[name]}
        for name in calls
    ]


def _turn(executable, carried: list, rest: tuple) -> Callable[[], None]:
    def call():
        carried[:] = jax.block_until_ready(executable(*carried, *rest))

    return call


def step_table(records: list[dict], sizes: dict) -> Table:
    """Milliseconds, megabytes, and how many times faster than the full softmax."""
    full = next(r for r in records if r["step"] == FULL)["milliseconds"]
    rows = [
        [r["step"], f"{r['milliseconds']:.4g}", f"{full / r['milliseconds']:.3g} ×",
         f"{r['megabytes']:.3g}"]
        for r in records
    ]  # fmt: skip
    caption = (
        f"{sizes['tokens']:,} tokens of width {sizes['width']}, {sizes['classes']:,} classes, "
        f"{sizes['draws']:,} candidates by unigram^¾ shared by all tokens; gradient of the table "
        "and Adagrad's update of it, row by row for few rows. Minima of interleaved rounds; MB are "
        "temporaries."
    )
    return Table("A training step", caption, ["loss", "ms", "faster by", "MB"], rows)


def run(settings, screen) -> Outcome:
    """Time the steps, then measure bias and variance."""
    times = timed(settings.step, rounds=3)
    given = problem()
    cases = [(contestant, n) for contestant in CONTESTANTS for n in settings.draws]
    records = [
        measure(contestant, n, settings.repeats, given)
        for contestant, n in track(cases, "losses", console=screen)
    ]
    about = (
        f"Bias and variance: {TOKENS} tokens of width {WIDTH}, {CLASSES:,} classes. Their "
        "log-frequencies fall by Zipf's law, with scores of standard deviation 2 about them; "
        f"targets are drawn from the softmax; {settings.repeats} sets of candidates, shared by all "
        "tokens."
    )
    kept = {"repeats": settings.repeats, "step": settings.step, "times": times, "records": records}
    report = [step_table(times, settings.step), *tables(records)]
    return Outcome(report, kept, about, pictures={"sampled.png": picture(records)})


BENCHMARK = Benchmark(
    "sampled",
    "Sampled losses: time, bias and variance",
    run,
    {
        "repeats": Setting(REPEATS, 5, "sets of candidates"),
        "draws": Setting(DRAWS, DRAWS[:2]),
        "step": Setting(STEP, {"tokens": 64, "width": 16, "classes": 2000, "draws": 64}),
    },
)


if __name__ == "__main__":
    command("sampled")
