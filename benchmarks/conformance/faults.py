"""Large offsets, wide rows, second derivatives, transformations, batches."""

import numpy as np

from benchmarks.conformance import oracle
from benchmarks.conformance.functions import (
    FAMILY,
    budget,
    cross_entropy,
    entmax15_loss,
    mine,
    normmax,
    sparsemax_loss,
)
from benchmarks.conformance.judge import Near, Row
from benchmarks.conformance.libraries import Jax, Torch, entmax, jaxopt, optax, ours
from benchmarks.conformance.questions import Section, ask_for, f32, gradient, hessian, value

WEIGHTS = f32([1, 2, 4])


def sections():
    """Every section of this file, in the order of the page."""
    yield Section("A large offset changes nothing", offsets())
    yield Section("Wide rows of nearly equal logits", wide())
    yield Section("Small losses", small_losses())
    yield Section("Hessians", hessians())
    yield Section("vmap and forward mode", transformations())
    yield Section("A batch in one call", batch())
    yield Section("normmax, k-hot, soft targets", scarce())


def offsets():
    x = f32([1e7, 1e7 + 1])
    for name, (function, a) in FAMILY.items():
        yield value(f"{name} of (1e7, 1e7 + 1)", function(), Near(oracle.entmax(x, a)), x)
    for label in (0, 1):
        title = f"of (1e7, 1e7 + 1), label {label}"
        right = Near([oracle.cross_entropy(x[0], label)])
        yield value(f"cross-entropy {title}", cross_entropy([label]), right, x)
        right = Near([oracle.loss(x[0], label, 2)])
        yield value(f"sparsemax loss {title}", sparsemax_loss([label]), right, x)
        right = Near([oracle.loss(x[0], label, 1.5)])
        yield value(f"entmax 1.5 loss {title}", entmax15_loss([label]), right, x)


def wide():
    for columns, spread, offset in ((32_000, 1e-4, 100), (1_000_000, 1e-6, 10)):
        x = np.random.default_rng(0).normal(offset, spread, (1, columns)).astype(np.float32)
        for name, (function, a) in FAMILY.items():
            right = Row(oracle.entmax(x, a), 1e-4)
            title = f"{name}, {columns:,} columns, spread {spread:g}, offset {offset}"
            yield value(title, function(), right, x)


def small_losses():
    for gap in (15, 60):
        x = f32([gap, 0, -1])
        right = Near([oracle.cross_entropy(x[0], 0)], 1e-5, 0)
        title = f"cross-entropy of ({gap}, 0, −1), label 0 (relative 1e-5)"
        yield value(title, cross_entropy([0]), right, x)
    x = f32([1, 1e-3, 0])
    right = Near([oracle.loss(x[0], 0, 2)], 1e-3, 0)
    title = "sparsemax loss of (1, 0.001, 0), label 0 (relative 1e-3)"
    yield value(title, sparsemax_loss([0]), right, x)


def hessians():
    for x in (f32([-2.5, 0.4, 0.7]), f32([0.1, 0.4, 0.7])):
        for name, (function, a) in FAMILY.items():
            right = Near(oracle.hessian(x[0], WEIGHTS[0], a), 1e-3, 1e-4)
            title = f"Hessian of Σ w·{name} at ({', '.join(f'{z:g}' for z in x[0])}) (1e-3)"
            yield hessian(title, function(), right, x[0], WEIGHTS[0])
    for name, loss, a in (
        ("cross-entropy", cross_entropy, 1),
        ("sparsemax loss", sparsemax_loss, 2),
        ("entmax 1.5 loss", entmax15_loss, 1.5),
    ):
        right = Near(oracle.jacobian(x[0], a).reshape(1, 3, 1, 3), 1e-4, 1e-5)
        yield hessian(f"Hessian of the {name}", loss([0]), right, x, f32(1))


def transformations():
    x, tangent = f32([0.1, 0.4, 0.7], [1, 2, 3]), f32([1, 0, 0], [0, 1, 0])
    for name, (function, a) in FAMILY.items():
        right = Near(oracle.entmax(x, a))
        yield ask_for("vmapped", f"vmap of {name}", function(), right, x)
        right = np.stack([oracle.jacobian(z, a) @ t for z, t in zip(x, tangent, strict=True)])
        yield ask_for("pushed", f"jvp of {name}", function(), Near(right), x, tangent)


def batch():
    x = f32([0.1, 0.4, 0.7], [1, 2, 3])
    functions = {
        "optax": Jax(lambda z: optax.projections.projection_simplex(z)),
        "jaxopt": Jax(lambda z: jaxopt.projection.projection_simplex(z)),
        "entmax": Torch(lambda z: entmax.sparsemax(z)),
        "jsoftmax": Jax(lambda z: ours.sparsemax(z)),
    }
    title = "sparsemax of two rows (optax projects the whole tree, as it documents)"
    yield value(title, functions, Near(oracle.sparsemax(x)), x)


def scarce():
    x = f32([0.1, 0.4, 0.7])
    for a in (1.5, 2.0):
        yield value(f"normmax, α = {a:g}", normmax(a), Near(oracle.normmax(x, a)), x)
    x = f32([0.1, 0.5, 0.9, 3])
    yield value("2-hot projection", budget(2), Near(oracle.budget(x, 2)), x)
    weights = f32([1, 2, 4, 8])
    free = (oracle.budget(x, 2) > 0) & (oracle.budget(x, 2) < 1)
    right = Near(free * (weights - (free * weights).sum() / free.sum()))
    yield gradient("gradient of the 2-hot projection", budget(2), right, x, weights)
    x, y = f32([0.1, 0.4, 0.7]), f32([0.2, 0.3, 0.5])
    p = oracle.sparsemax(x)
    # ½‖p − y‖² + Σ (y − p)(τ − z off the support): here the support is everything.
    right = Near(((p - y) ** 2).sum(-1) / 2)
    soft = mine(lambda z: ours.sparsemax_loss(z, y))
    yield value("sparsemax loss against (0.2, 0.3, 0.5)", soft, right, x)
