"""Bias and variance of every gradient estimator, measured.

Small categorical problems have a gradient that is a sum over the classes: random logits, and two
random functions of a one-hot sample, a quadratic one and a small network. Each estimator gives many
gradients; their mean and their scatter are compared with the exact one.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.runner import command
from benchmarks.tables import Table

CLASSES, PROBLEMS, DRAWS = 8, 10, 20_000
TEMPERATURES = (0.1, 0.3, 0.5, 1.0, 2.0)
FORWARD = 0.5  # the temperature at which decoupled straight-through draws


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An estimator, as (key, logits, f, temperature) → a number with the gradient to be judged.

    `evaluations` is how often it asks for f, `differentiates` whether it asks for ∇f too.
    """

    name: str
    value: Callable[..., jax.Array]
    evaluations: int = 1
    differentiates: bool = True
    at_temperature: bool = True


def contestants() -> list[Contestant]:
    """All of them; those that return samples differ in nothing but their function."""

    def of_sample(name: str, estimator: Callable[..., jax.Array], **options) -> Contestant:
        def value(key, z, f, t):
            return f(estimator(key, z, t, **options))

        return Contestant(name, value)

    def of_values(samples: int) -> Contestant:
        def value(key, z, f, t):
            return jsoftmax.reinforce_leave_one_out(key, z, f, samples)

        name = f"REINFORCE, leave one out, S = {samples}"
        return Contestant(name, value, samples, differentiates=False, at_temperature=False)

    def of_samples(samples: int, weight: float) -> Contestant:
        def value(key, z, f, t):
            x = jsoftmax.reinmax_cv(key, z, t, samples=samples, weight=weight)
            return jax.vmap(f)(x).mean()

        name = f"ReinMax, S = {samples}"
        return Contestant(f"{name}, each other's control" if weight else name, value, samples)

    return [
        of_sample("straight-through", jsoftmax.straight_through_categorical),
        of_sample(
            f"decoupled straight-through, drawn at {FORWARD}",
            jsoftmax.decoupled_straight_through,
            forward_temperature=FORWARD,
        ),
        of_sample("ReinMax", jsoftmax.reinmax),
        of_sample("ReinMax-Rao, S = 10", jsoftmax.reinmax_rao, samples=10),
        *(of_samples(samples, weight) for samples in (4, 8) for weight in (0.0, 0.25)),
        of_sample("straight-through Gumbel", jsoftmax.straight_through_gumbel),
        of_sample("Gumbel-Rao, S = 10", jsoftmax.gumbel_rao, samples=10),
        of_sample("Gumbel-Rao, S = 100", jsoftmax.gumbel_rao, samples=100),
        of_sample("Gumbel-softmax, relaxed", jsoftmax.gumbel_softmax),
        *map(of_values, (2, 4, 8)),
    ]


def quadratic(weights: dict, x: jax.Array) -> jax.Array:
    """Everything a function of second order can be, save its constant."""
    return x @ weights["linear"] + x @ weights["square"] @ x / 2


def network(weights: dict, x: jax.Array) -> jax.Array:
    """One hidden layer of tanh, steep enough to bend between one class and the next."""
    return jnp.tanh(2 * weights["square"] @ x) @ weights["linear"]


FUNCTIONS = {"quadratic": quadratic, "network": network}


def problems(count: int) -> tuple[np.ndarray, dict]:
    """Logits and weights, standard normal."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((count, CLASSES))
    linear = random.standard_normal((count, CLASSES))
    square = random.standard_normal((count, CLASSES, CLASSES))
    return logits, {"linear": linear, "square": (square + square.swapaxes(1, 2)) / 2}


def exact(f: Callable, weights: dict, z: jax.Array) -> jax.Array:
    """∂ Σ p_i f(e_i)/∂z."""
    return jax.grad(
        lambda z: jax.nn.softmax(z) @ jax.vmap(f, (None, 0))(weights, jnp.eye(CLASSES))
    )(z)


@functools.cache
def judge(contestant: Contestant, function: str, draws: int) -> Callable[..., dict]:
    """For a batch of problems, how many gradients compare with the exact one."""
    f = FUNCTIONS[function]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
    def judged(key, z, weights, t):
        def gradient(key):
            return jax.grad(lambda z: contestant.value(key, z, functools.partial(f, weights), t))(z)

        g = jax.lax.map(gradient, jax.random.split(key, draws), batch_size=2000)
        right = exact(f, weights, z)
        scatter = g.var(0).sum()
        off = ((g.mean(0) - right) ** 2).sum()
        length = (right**2).sum()
        directions = g @ right / jnp.maximum(jnp.linalg.norm(g, axis=-1), 1e-30)
        return {
            "bias": (off - scatter / draws) / length,  # the mean of so many draws scatters too
            "resolution": scatter / draws / length,
            "variance": scatter / length,
            "cosine_of_mean": g.mean(0) @ right / jnp.sqrt((g.mean(0) ** 2).sum() * length),
            "cosine_of_draw": directions.mean() / jnp.sqrt(length),
        }

    return judged


def measure(contestant: Contestant, function: str, t: float, count: int, draws: int) -> dict:
    """Root mean squares over the problems of bias and deviation, both relative to |gradient|."""
    judged = judge(contestant, function, draws)
    keys = jax.random.split(jax.random.key(1), count)
    found = {name: np.asarray(x) for name, x in judged(keys, *problems(count), t).items()}
    return {
        "estimator": contestant.name,
        "function": function,
        "temperature": t if contestant.at_temperature else None,
        "evaluations": contestant.evaluations,
        "differentiates": contestant.differentiates,
        "bias": float(np.sqrt(max(found["bias"].mean(), 0))),
        "resolution": float(np.sqrt(found["resolution"].mean())),
        "deviation": float(np.sqrt(found["variance"].mean())),
        "error": float(np.sqrt(max(found["bias"].mean(), 0) + found["variance"].mean())),
        "cosine_of_mean": float(found["cosine_of_mean"].mean()),
        "cosine_of_draw": float(found["cosine_of_draw"].mean()),
    }


QUANTITIES = {
    "bias": "Length of the mean error over the length of the gradient. < marks a length below "
    "twice the scatter of the mean of so many draws, and may be nothing.",
    "deviation": "Standard deviation of one gradient (root of the summed variances) over the "
    "length of the exact one.",
    "error": "Root mean squared error of one gradient over the length of the exact one: bias and "
    "deviation together.",
    "cosine_of_mean": "Cosine of the angle between the mean and the exact gradient.",
    "cosine_of_draw": "Mean cosine of the angle between one gradient and the exact one.",
}


def tables(records: list[dict]) -> list[Table]:
    """For each function and quantity one row an estimator, one column a temperature."""
    made = []
    for function in FUNCTIONS:
        for quantity, caption in QUANTITIES.items():
            mine = [record for record in records if record["function"] == function]
            rows = []
            for name in dict.fromkeys(record["estimator"] for record in mine):
                cells = [record for record in mine if record["estimator"] == name]
                texts = [_text(record, quantity) for record in cells]
                if len(cells) == 1:  # without a temperature
                    texts = texts * len(TEMPERATURES)
                first = cells[0]
                asked = f"{first['evaluations']} f" + (
                    f", {first['evaluations']} ∇f" if first["differentiates"] else ""
                )
                rows.append([name, asked, *texts])
            title = f"{quantity.replace('_', ' ').capitalize()}: {function}"
            headers = ["estimator", "asks for", *(f"T = {t:g}" for t in TEMPERATURES)]
            made.append(Table(title, caption, headers, rows))
    return made


def _text(record: dict, quantity: str) -> str:
    value = record[quantity]
    if quantity == "bias" and value < 2 * record["resolution"]:
        return f"< {2 * record['resolution']:.2g}"
    return f"{value:.3f}" if quantity.startswith("cosine") else f"{value:.2g}"


# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = (
    "#0072B2",
    "#56B4E9",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#F0C000",
    "#CC79A7",
    "#7B4F9D",
    "#8C6239",
    "#000000",
    "#7FBC41",
    "#B22222",
)
GREY = "#6e6e6e"


def picture(records: list[dict]) -> Figure:
    """Bias against deviation, one path an estimator, from cold to hot."""
    # Dark letters on white paper, which can be read on a page of any colour.
    page = Figure(figsize=(11, 5.6), layout="constrained", facecolor="white")
    panels = page.subplots(1, 2, sharex=True, sharey=True)
    for axes, function in zip(panels, FUNCTIONS, strict=True):
        _paths(axes, [record for record in records if record["function"] == function])
        axes.set(title=f"{function} f, {CLASSES} classes", xlabel="deviation of one gradient ÷ |g|")
    panels[0].set_ylabel("bias ÷ |g|  (at the floor: none was found)")
    handles, labels = panels[0].get_legend_handles_labels()
    page.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return page


FLOOR = 0.01


def _paths(axes: Axes, records: list[dict]) -> None:
    colours = iter(COLOURS)
    markers = iter("sD^")
    for name in dict.fromkeys(record["estimator"] for record in records):
        mine = [record for record in records if record["estimator"] == name]
        x = [record["deviation"] for record in mine]
        y = [
            max(record["bias"], FLOOR) if record["bias"] > 2 * record["resolution"] else FLOOR
            for record in mine
        ]
        if len(mine) == 1:
            axes.plot(x, y, next(markers), color=GREY, label=name, markersize=7, clip_on=False)
            continue
        sizes = np.linspace(3, 9, len(mine))
        (line,) = axes.plot(x, y, "-", color=next(colours), linewidth=1.5, label=name)
        for place, size in zip(zip(x, y, strict=True), sizes, strict=True):
            axes.plot(*place, "o", color=line.get_color(), markersize=size, clip_on=False)
    axes.set(xscale="log", yscale="log", ylim=(FLOOR, None))
    for scale in (axes.xaxis, axes.yaxis):
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.text(
        0.98, 0.95, f"dots grow with T: {', '.join(f'{t:g}' for t in TEMPERATURES)}",
        transform=axes.transAxes, fontsize="small", horizontalalignment="right",
    )  # fmt: skip


def run(settings, screen) -> Outcome:
    """Measure every estimator."""
    jax.config.update("jax_enable_x64", True)
    cases = [
        (contestant, function, t)
        for function in FUNCTIONS
        for contestant in contestants()
        for t in (settings.temperatures if contestant.at_temperature else (1.0,))
    ]
    records = [
        measure(*case, settings.problems, settings.draws)
        for case in track(cases, "estimators", console=screen)
    ]
    kept = {"draws": settings.draws, "problems": settings.problems, "records": records}
    about = (
        f"{settings.problems} problems of {CLASSES} classes with standard normal logits, "
        f"{settings.draws} gradients of each estimator on each; the exact gradient by enumeration."
    )
    return Outcome(tables(records), kept, about, pictures={"estimators.png": picture(records)})


BENCHMARK = Benchmark(
    "estimators",
    "Gradient estimators: bias and variance",
    run,
    {
        "draws": Setting(DRAWS, 100, "gradients of each estimator"),
        "problems": Setting(PROBLEMS, 2, "problems"),
        "temperatures": Setting(TEMPERATURES, TEMPERATURES[2:4]),
    },
)


if __name__ == "__main__":
    command("estimators")
