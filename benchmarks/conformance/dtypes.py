"""Small floats, integers and bools, float64, wrong shapes and labels."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from benchmarks.conformance import oracle
from benchmarks.conformance.functions import (
    FAMILY,
    cross_entropy,
    entmax15_loss,
    logsumexp,
    mine,
    softmax,
    sparsemax_loss,
)
from benchmarks.conformance.judge import Near, Refused, Same, Ulps
from benchmarks.conformance.libraries import Jax, Torch, ours
from benchmarks.conformance.questions import Section, ask_for, f32, value


def sections():
    """Every section of this file, in the order of the page."""
    yield Section("float16 and bfloat16: within 1 ulp", halves())
    yield Section("float8", bytes_())
    yield Section("What bfloat16 returns", returned(), convention=True)
    yield Section("Integers and bools", integers())
    yield Section("float64 under x64", doubles())
    yield Section("Labels out of range", labels())
    yield Section("Empty axes", empty(), convention=True)
    yield Section("Wrong shapes and axes", mistakes())
    yield Section("Dtypes too coarse for probabilities, and complex", unfit(), convention=True)


def halves():
    # Narrow enough for wide supports, so that there is something to round.
    for dtype in ("bfloat16", "float16"):
        for name, (function, a) in FAMILY.items():
            spread = 2 if a == 1 else 0.02
            x = _normal((1, 512), spread).astype(dtype)
            right = Ulps(oracle.entmax(x, a), dtype)
            yield value(f"{name}, 512 {dtype} logits, spread {spread}", function(), right, x)
    x = _normal((1, 4096), 0.1).astype(ml_dtypes.bfloat16)
    for name, (function, _) in FAMILY.items():
        right = Near([1.0], 0, 2**-8)
        yield value(f"sum of {name}, 4096 bfloat16 logits (± 1/256)", _summed(function()), right, x)


def bytes_():
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        x = np.array([[1, 2, 3]], dtype)
        right = Ulps(oracle.softmax(x), dtype)
        yield value(f"softmax of (1, 2, 3), {dtype}", softmax(), right, x)


def returned():
    x = _normal((2, 256), 2).astype(ml_dtypes.bfloat16)
    for name, (function, _) in FAMILY.items():
        yield ask_for("dtype", f"{name} of bfloat16", function(), Same("bfloat16"), x)
    for name, function in {
        "logsumexp": logsumexp(),
        "cross-entropy": cross_entropy([0, 1]),
        "sparsemax loss": sparsemax_loss([0, 1]),
        "entmax 1.5 loss": entmax15_loss([0, 1]),
    }.items():
        yield ask_for("dtype", f"{name} of bfloat16", function, Same("float32"), x)


def integers():
    for dtype, row in (("uint8", [1, 2, 250]), ("int8", [-128, 127, 127]), ("bool", [0, 1, 1])):
        x = np.array([row], dtype)
        for name, (function, a) in FAMILY.items():
            right = Near(oracle.entmax(x, a))
            yield value(f"{name} of {dtype} {tuple(row)}", function(), right, x)


def doubles():
    x = _normal((1, 100), 1)
    for name, (function, a) in FAMILY.items():
        right = Near(oracle.entmax(x, a), 1e-12, 1e-12)
        yield value(f"{name} of 100 float64 logits (1e-12)", function(), right, x)


def labels():
    x = f32([1, 2, 3])
    for label in (7, -1):
        for name, loss in {
            "cross-entropy": cross_entropy,
            "sparsemax loss": sparsemax_loss,
            "entmax 1.5 loss": entmax15_loss,
        }.items():
            right = Refused(or_nan=True)
            yield value(f"{name}, label {label} of 3", loss(np.array([label])), right, x)
        traced = mine(lambda z, label=label: ours.cross_entropy(z, jnp.array([label])))
        right = Near([np.nan])
        yield value(f"cross-entropy, label {label} as a jax.Array", traced, right, x)


def empty():
    for name, (function, _) in FAMILY.items():
        yield value(f"{name} of no classes", function(), Refused(), np.zeros((2, 0), np.float32))
    for name, (function, _) in FAMILY.items():
        right = Near(np.zeros((0, 3)))
        yield value(f"{name} of an empty batch", function(), right, np.zeros((0, 3), np.float32))


def mistakes():
    x = _normal((2, 3), 1).astype(np.float32)
    more = np.ones((2, 2, 3), bool)
    yield value("softmax, `where` of more dimensions than the logits", softmax(more), Refused(), x)
    wrong = np.ones((2, 2), bool)
    yield value("softmax, `where` that does not broadcast", softmax(wrong), Refused(), x)
    functions = {
        "jax.nn": Jax(lambda z: jax.nn.softmax(z, axis=5)),
        "jsoftmax": Jax(lambda z: ours.softmax(z, axis=5)),
    }
    yield value("softmax, axis 5 of 2", functions, Refused(), x)
    slip = mine(lambda z: ours.entmax(z, -1))
    yield value("entmax(z, −1): an axis where α belongs", slip, Refused(), x)


def unfit():
    for dtype in ("float4_e2m1fn", "float8_e8m0fnu", "complex64"):
        yield value(f"softmax of {dtype}", softmax(), Refused(), np.array([[1, 2, 4]], dtype))


def _summed(functions):
    # In float32, whatever the function returns.
    def total(function):
        if isinstance(function, Jax):
            return Jax(lambda z: function.call(z).astype(jnp.float32).sum(-1))
        if isinstance(function, Torch):
            return Torch(lambda z: function.call(z).float().sum(-1))
        return {way: total(each) for way, each in function.items()}

    return {library: total(function) for library, function in functions.items()}


def _normal(shape: tuple[int, ...], spread: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, spread, shape)
