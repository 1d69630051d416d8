"""Contrast, margins and routing beside plain jnp.

The peers are written by hand in a few lines of jnp, on whole arrays: the losses of CLIP, SigLIP,
supervised contrast and ArcFace, and the routing of a mixture of experts.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import jsoftmax
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

HAND, AGAIN, OURS = "by hand", "by hand again", "jsoftmax"
T, BIAS, SCALE, ANGLE, K = 0.1, -10.0, 64.0, 0.5, 8


def unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def clip(q, k, t):
    z = unit(q) @ unit(k).T / t
    own = jnp.arange(len(z))
    rows, columns = (jax.nn.log_softmax(z, axis)[own, own] for axis in (-1, 0))
    return -jnp.mean(rows + columns) / 2


def clip_here(q, k, t):
    return jsoftmax.contrastive_loss(q, k, temperature=t, normalize=True).mean()


def siglip(q, k, t):
    z = unit(q) @ unit(k).T / t + BIAS
    y = 2 * jnp.eye(len(z)) - 1
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(y * z), -1))


def siglip_here(q, k, t):
    loss = jsoftmax.sigmoid_contrastive_loss(q, k, temperature=t, bias=BIAS, normalize=True)
    return loss.mean()


def supervised(q, labels, t):
    h = unit(q)
    itself = jnp.eye(len(h), dtype=bool)
    log_p = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, h @ h.T / t))
    same = (labels[:, None] == labels) & ~itself
    positives = jnp.maximum(same.sum(-1), 1)
    return -jnp.mean(jnp.where(same, log_p, 0).sum(-1) / positives)


def supervised_here(q, labels, t):
    return jsoftmax.contrastive_loss(
        q, q, temperature=t, normalize=True, labels=labels, exclude_self=True, symmetric=False
    ).mean()


def arcface(h, table, labels):
    cosine = unit(h) @ unit(table).T
    is_label = labels[:, None] == jnp.arange(len(table))
    turned = jnp.cos(jnp.arccos(jnp.clip(cosine, -1 + 1e-6, 1 - 1e-6)) + ANGLE)
    log_p = jax.nn.log_softmax(SCALE * jnp.where(is_label, turned, cosine))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], -1))


def arcface_here(h, table, labels):
    return jsoftmax.linear_cross_entropy(
        h, table, labels, normalize=True, angular_margin=ANGLE, temperature=1 / SCALE, class_axis=0
    ).mean()


def arcface_sum(h, table, labels):
    return jsoftmax.linear_cross_entropy_sum(
        h, table, labels, 1 / len(labels), normalize=True, angular_margin=ANGLE,
        temperature=1 / SCALE, class_axis=0,
    )  # fmt: skip


def routed(z):
    p = jax.nn.softmax(z)
    w, experts = jax.lax.top_k(p, K)
    w = w / w.sum(-1, keepdims=True)
    share = jax.nn.one_hot(experts, z.shape[-1]).sum((0, 1)) / experts.size
    balance = z.shape[-1] * jnp.sum(share * p.mean(0))
    z_loss = jnp.mean(jax.nn.logsumexp(z, -1) ** 2)
    return jnp.sum(jnp.sin(w)) + balance + z_loss


def routed_here(z):
    experts = jsoftmax.route(z, K)
    statistics = experts.statistics
    return jnp.sum(jnp.sin(experts.weights)) + statistics.balance_loss + statistics.z_loss


@dataclasses.dataclass(frozen=True)
class Problem:
    """A scalar function by hand and by jsoftmax, and its arguments."""

    name: str
    by_hand: Callable
    ours: Callable
    shapes: tuple[tuple[int, ...], ...]
    classes: int = 0  # of labels, which come behind the arrays of numbers
    temperature: bool = False  # which comes last

    @property
    def title(self) -> str:
        return f"{self.name}, {' and '.join(map(str, map(list, self.shapes)))}"

    def arguments(self) -> list[jax.Array]:
        rng = np.random.default_rng(0)
        found = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in self.shapes]
        if self.classes:
            labels = rng.integers(0, self.classes, self.shapes[0][0])
            found.append(jnp.asarray(labels, jnp.int32))
        return [*found, jnp.float32(T)] if self.temperature else found


PAIRS = (4096, 256), (4096, 256)
FACES = (128, 128), (100_000, 128)
PROBLEMS = (
    Problem("contrastive_loss, CLIP", clip, clip_here, PAIRS, temperature=True),
    Problem("sigmoid_contrastive_loss, SigLIP", siglip, siglip_here, PAIRS, temperature=True),
    Problem(
        "contrastive_loss, supervised, 100 labels", supervised, supervised_here, PAIRS[:1], 100,
        temperature=True,
    ),
    Problem("linear_cross_entropy, ArcFace", arcface, arcface_here, FACES, 100_000),
    Problem("linear_cross_entropy_sum, ArcFace", arcface, arcface_sum, FACES, 100_000),
    Problem("route, k = 8", routed, routed_here, ((8192, 64),)),
)  # fmt: skip


def measure(problem: Problem, seconds: float, rounds: int) -> dict:
    """Seconds of value and gradient, temporaries in bytes, and how far the values are apart."""
    given = problem.arguments()
    moves = tuple(i for i, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.floating))

    def compiled(function):
        return jax.jit(jax.value_and_grad(function, moves)).lower(*given).compile()

    programs = {HAND: compiled(problem.by_hand), OURS: compiled(problem.ours)}
    calls = {
        name: functools.partial(lambda p: jax.block_until_ready(p(*given)), program)
        for name, program in programs.items()
    }
    value, other = (float(call()[0]) for call in calls.values())
    if not math.isclose(value, other, rel_tol=1e-4):
        raise AssertionError(f"{problem.title}: {value} by hand, and {other} by jsoftmax")
    best = race({**calls, AGAIN: calls[HAND]}, seconds=seconds, rounds=rounds)
    memory = {n: p.memory_analysis().temp_size_in_bytes for n, p in programs.items()}
    return {"problem": problem.title, "seconds": best, "temporaries": memory}


def table(found: list[dict]) -> Table:
    """Ratios to the forms by hand."""
    rows = []
    for record in found:
        best, memory = record["seconds"], record["temporaries"]
        rows.append(
            [
                record["problem"],
                f"{1e3 * best[HAND]:.3g}",
                f"{best[AGAIN] / best[HAND]:.2f}",
                f"{best[OURS] / best[HAND]:.2f}",
                *(f"{memory[name] / 1e6:.4g}" for name in (HAND, OURS)),
            ]
        )
    return Table(
        "Contrast, margins and routing, value and gradient",
        "Float32; minima of interleaved rounds, divided by that of the form by hand. Temporaries "
        "are those of the compiled program, without arguments and results.",
        ["problem", "by hand, ms", "again", "jsoftmax", "by hand, MB", "jsoftmax, MB"],
        rows,
    )


def run(settings, screen) -> Outcome:
    """Race every problem."""
    problems = track(settings.problems, "problems", console=screen)
    found = [measure(each, settings.seconds, settings.rounds) for each in problems]
    return Outcome([table(found)], {"records": found})


BENCHMARK = Benchmark(
    "experts_and_contrast",
    "Contrast, margins and routing, timed",
    run,
    {
        "problems": Setting(PROBLEMS),
        "seconds": Setting(5.0, 0.2, "of every race, at least"),
        "rounds": Setting(10, 1, "rounds of every race, at least"),
    },
)


if __name__ == "__main__":
    command("experts_and_contrast")
