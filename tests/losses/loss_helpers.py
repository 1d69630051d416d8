"""Losses and rows shared by the tests of losses, with their expected values."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import (
    cross_entropy,
    entmax_loss,
    fenchel_young_loss,
    normmax_loss,
    sparsemax_loss,
)
from tests.losses import loss_oracles as oracles

INF, NAN = np.inf, np.nan
ROWS, CLASSES = 8, 5


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss; for one row and in many digits its value and prediction; and ∇Ω in numpy."""

    loss: Callable
    value: Callable
    prediction: Callable
    marginal: Callable


def entmax_case(loss, alpha):
    def marginal(y):
        return (
            np.log(y) if alpha == 1 else 0 * y if alpha == INF else y ** (alpha - 1) / (alpha - 1)
        )

    oracle = functools.partial(oracles.entmax_loss, alpha=alpha)
    return Case(loss, oracle, functools.partial(oracles.entmax, alpha=alpha), marginal)


def normmax_case(alpha):
    def marginal(y):
        norm = (y**alpha).sum(-1, keepdims=True) ** (1 / alpha)
        return (y / norm) ** (alpha - 1)

    oracle = functools.partial(oracles.normmax_loss, alpha=alpha)
    predict = functools.partial(oracles.normmax, alpha=alpha)
    return Case(functools.partial(normmax_loss, alpha=alpha), oracle, predict, marginal)


CASES = {
    "cross_entropy": dataclasses.replace(
        entmax_case(cross_entropy, 1.0), value=oracles.cross_entropy, marginal=np.zeros_like
    ),
    "fenchel_young_loss": entmax_case(fenchel_young_loss, 1.0),
    "entmax_loss": entmax_case(entmax_loss, 1.5),
    "sparsemax_loss": entmax_case(sparsemax_loss, 2.0),
    **{
        f"entmax_loss at {alpha}": entmax_case(functools.partial(entmax_loss, alpha=alpha), alpha)
        for alpha in (0.5, 1.25, 3.0, 5.0, INF)
    },
    "normmax_loss": normmax_case(2.0),
}
# One loss of every implementation: the effect of options does not depend on α.
KINDS = [
    "cross_entropy",
    "fenchel_young_loss",
    "entmax_loss",
    "sparsemax_loss",
    "entmax_loss at 0.5",
    "entmax_loss at inf",
    "normmax_loss",
]
# One of every function that computes a loss, where α makes no difference at all.
FORMS = ["cross_entropy", "entmax_loss", "entmax_loss at inf", "normmax_loss"]
# Every function that takes one label a row.
LABELLED = {
    "cross_entropy": cross_entropy,
    "fenchel_young_loss": fenchel_young_loss,
    "entmax_loss": entmax_loss,
    "sparsemax_loss": sparsemax_loss,
    "normmax_loss": normmax_loss,
}

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(ROWS, CLASSES)) * np.array([1, 0.1, 0.3, 1, 1, 3, 3, 10])[:, None]
LOGITS[0] = [1, 1, 0, 0, -1]
LABELS = np.array([0, 1, 2, 3, 4, 3, 2, 1])
TARGETS = rng.dirichlet(np.ones(CLASSES), size=ROWS)
TARGETS[2] = [0.5, 0.5, 0, 0, 0]
TARGETS[5] = [0, 0, 0, 1, 0]
ONE_HOT = np.eye(CLASSES)[LABELS]
WIDE = rng.normal(size=(6, 10)) * np.array([1, 1, 0.3, 2, 3, 10])[:, None]
WIDE[0] = np.random.default_rng(1).normal(size=10)
WIDE[1] = np.round(WIDE[1])  # ties
WIDE_TARGETS = rng.dirichlet(np.ones(10), size=6)
WIDE_TARGETS[1] = np.eye(10)[4]
WIDE_TARGETS[2, :4] = 0
WIDE_TARGETS[2] /= WIDE_TARGETS[2].sum()
ALL = np.ones((ROWS, CLASSES), bool)
EQUAL = np.ones(CLASSES)
SOME = rng.random((ROWS, CLASSES)) < 0.6
SOME[np.arange(ROWS), LABELS] = True


def by_kind(names):
    return pytest.mark.parametrize("name", list(names))


@functools.cache
def _on_labels(name):
    def total(z, labels, where, smoothing, weights):
        loss = CASES[name].loss(
            z,
            labels,
            where=where,
            ignore_index=-1,
            label_smoothing=smoothing,
            class_weights=weights,
        )
        return loss.sum(), loss

    return jax.jit(jax.grad(total, has_aux=True))


def on_labels(name, z=LOGITS, labels=LABELS, where=ALL, smoothing=0.0, weights=EQUAL):
    """The losses of all rows, and their gradients in the logits; one compilation a loss."""
    labels, smoothing = jnp.asarray(labels), np.asarray(smoothing, z.dtype)
    gradient, loss = _on_labels(name)(z, labels, where, smoothing, weights.astype(z.dtype))
    return np.asarray(loss), np.asarray(gradient)


@functools.cache
def _on_distributions(name):
    def total(z, y, where):
        loss = CASES[name].loss(z, y, where=where)
        return loss.sum(), loss

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))


def on_distributions(name, z=LOGITS, y=TARGETS, where=ALL):
    """The losses of all rows, and their gradients in logits and targets."""
    (d_z, d_y), loss = _on_distributions(name)(z, y, where)
    return np.asarray(loss), np.asarray(d_z), np.asarray(d_y)


@functools.partial(jax.jit, static_argnums=0)
def traced(loss, z, y, alpha):
    """(loss, its gradients in z and α), α traced and of its own in each row."""

    def total(z, alpha):
        value = loss(z, y, alpha=alpha)
        return value.sum(), value

    (d_z, d_alpha), value = jax.grad(total, argnums=(0, 1), has_aux=True)(z, alpha)
    return value, d_z, d_alpha[:, 0]


def rows_and_alphas(alphas, rows=6):
    """`rows` rows of WIDE, their targets, and every α with each of them."""
    n = len(alphas)
    z, y = (np.repeat(x[:rows], n, axis=0) for x in (WIDE, WIDE_TARGETS))
    return z, y, np.tile(alphas, rows)


def expected(name, z, y, keep=ALL, weights=None):
    """Value and gradient from the definition, for the classes kept alone."""
    case, values, gradients = CASES[name], [], []
    for row, target, mask in zip(z, y, keep, strict=True):
        p, w = np.zeros(len(row)), np.ones(len(row)) if weights is None else weights
        p[mask] = np.array(case.prediction(row[mask]), float)
        if name == "cross_entropy":
            target = w * target
            values.append(case.value(row[mask], target[mask]))
            gradients.append(target.sum() * p - target)
        else:
            values.append((w * target).sum() * case.value(row[mask], target[mask]))
            gradients.append((w * target).sum() * (p - target))
    return np.array(values, float), np.array(gradients)


def rows_of(prediction, z):
    """Return the prediction of an oracle for each row, as floats."""
    return np.array([[float(p) for p in prediction(row)] for row in z])


def assert_close(actual, wanted, rtol=1e-12, atol=1e-14):
    chex.assert_trees_all_close(np.asarray(actual), np.asarray(wanted), rtol=rtol, atol=atol)
