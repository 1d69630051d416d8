"""Race mappings and attention against another revision of this library, in one process.

    git worktree add ../other REVISION
    python -m benchmarks.against ../other

Both are compiled and timed in turns; the table has the quotient of their minima, and of the seconds
that compiling took.
"""

import argparse
import importlib
import pathlib
import sys
import time
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

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


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=pathlib.Path, help="a checkout of the other revision")
    options.add_argument("--rounds", type=int, default=30)
    options.add_argument("--only", default="", help="cases whose names contain this")
    options = options.parse_args()
    if not (options.folder / "jsoftmax").is_dir():
        options_error = f"{options.folder} has no jsoftmax: give a checkout of the other revision."
        raise SystemExit(options_error)
    here = pathlib.Path(__file__).parent.parent
    ours, theirs = (cases(revision(folder)) for folder in (here, options.folder))
    print("| case | time | compile time |\n|---|---|---|")
    times, compiles = [], []
    for name, (function, arguments) in ours.items():
        if options.only not in name:
            continue
        one, mine = compiled(function, arguments)
        other, yours = compiled(*theirs[name])
        times.append(raced(one, other, arguments, options.rounds))
        compiles.append(mine / yours)
        print(f"| {name} | {times[-1]:.2f} | {compiles[-1]:.2f} |", flush=True)
    means = (float(np.exp(np.mean(np.log(x)))) for x in (times, compiles))
    print("| geometric mean | {:.3f} | {:.2f} |".format(*means))


if __name__ == "__main__":
    main()
