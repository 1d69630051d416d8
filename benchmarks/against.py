"""Race mappings and attention against another revision of this library, in one process.

    git worktree add ../other REVISION
    python -m benchmarks run against --checkout ../other

Both are compiled and timed in turns; the table has the quotient of their minima, and of the seconds
to compile. It is printed and not saved, unless --output names a folder.
"""

import importlib
import pathlib
import sys
import time
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from benchmarks.benchmark import REQUIRED, Benchmark, Outcome, Setting
from benchmarks.runner import command
from benchmarks.tables import Table

SHAPES = [(4096, 64), (4096, 512), (128, 32000)]
LENGTHS = [64, 512, 2048]


def revision(folder: pathlib.Path) -> ModuleType:
    """The package of a folder, under the name it has, without touching one imported before."""
    before = {name: m for name, m in sys.modules.items() if name.split(".")[0] == "jsoftmax"}
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("jsoftmax")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "jsoftmax"]:
            del sys.modules[name]
        sys.modules.update(before)


def cases(js: ModuleType) -> dict:
    """Name → (function, arguments)."""
    rng = np.random.default_rng(0)
    found = {}
    mappings = {
        "softmax": js.softmax,
        "log_softmax": js.log_softmax,
        "sparsemax": js.sparsemax,
        "entmax 1.5": lambda z: js.entmax(z, 1.5),
        "entmax 1.25": lambda z: js.entmax(z, 1.25),
        "entmax 3": lambda z: js.entmax(z, 3.0),
        "cross_entropy": lambda z: js.cross_entropy(z, jnp.zeros(z.shape[0], int)),
        "entmax_loss 1.5": lambda z: js.entmax_loss(z, jnp.zeros(z.shape[0], int)),
    }
    for shape in SHAPES:
        z = jnp.asarray(2 * rng.standard_normal(shape), jnp.float32)
        w = jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for name, f in mappings.items():
            found[f"{name} {shape}"] = (f, (z,))

            def total(z, w, f=f):
                out = f(z)
                return (out * w if out.shape == w.shape else out).sum()

            found[f"{name} {shape} gradient"] = (jax.grad(total), (z, w))
    for length in LENGTHS:
        q = jnp.asarray(rng.standard_normal((1, length, 4, 64)), jnp.float32)
        for alpha in (1.0, 1.5):

            def attend(q, alpha=alpha):
                return js.dot_product_attention(q, q, q, alpha=alpha)

            found[f"attention α = {alpha:g}, T = {length}"] = (attend, (q,))
            slope = jax.grad(lambda q, attend=attend: (attend(q) ** 2).sum())
            found[f"attention α = {alpha:g}, T = {length} gradient"] = (slope, (q,))
    return found


def compiled(function, arguments) -> tuple:
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def raced(one, other, arguments, rounds: int) -> float:
    """The quotient of minima over interleaved rounds."""
    best = [np.inf, np.inf]
    for turn in range(rounds):
        for i in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            jax.block_until_ready((one, other)[i](*arguments))
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0] / best[1]


def run(settings, screen) -> Outcome:
    """Race every case of this revision against the same of the other."""
    if not (settings.checkout / "jsoftmax").is_dir():
        sys.exit(f"{settings.checkout} has no jsoftmax: give a checkout of the other revision.")
    here = pathlib.Path(__file__).parent.parent
    ours, theirs = (cases(revision(folder)) for folder in (here, settings.checkout))
    names = [name for name in ours if settings.only in name]
    records = []
    for name in track(names[:1] if settings.quick else names, "cases", console=screen):
        function, arguments = ours[name]
        one, mine = compiled(function, arguments)
        other, yours = compiled(*theirs[name])
        time_ = raced(one, other, arguments, settings.rounds)
        records.append({"case": name, "time": time_, "compile time": mine / yours})
    means = [float(np.exp(np.mean([np.log(r[k]) for r in records]))) for k in COLUMNS]
    rows = [[r["case"], *(f"{r[k]:.2f}" for k in COLUMNS)] for r in records]
    rows.append(["geometric mean", *(f"{mean:.3f}" for mean in means)])
    table = Table("This revision ÷ the other", "", ["case", *COLUMNS], rows)
    return Outcome([table], {"rounds": settings.rounds, "records": records})


COLUMNS = "time", "compile time"
BENCHMARK = Benchmark(
    "against",
    "Two revisions, timed",
    run,
    {
        "checkout": Setting(REQUIRED, help="a checkout of the other revision", parse=pathlib.Path),
        "rounds": Setting(30, 2, "rounds of every race"),
        "only": Setting("", help="cases with this in their names"),
    },
    folder=None,
)


if __name__ == "__main__":
    command("against")
