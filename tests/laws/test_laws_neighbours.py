"""A row's answer does not depend on the other rows of its batch.

A search over many rows goes on until the last of them is done. A row that is done stays where it
is, so that in one program it has the same bits next to any others. In a program for another number
of rows XLA rounds otherwise, and next to another α all rows may take another curve: there the
answers agree within rounding.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.a_regularizer_of_a_stranger import Blend
from tests.catalogue import CATALOGUE
from tests.losses.loss_helpers import CASES as LOSSES

ROWS, SHORT, LONG = 48, 11, 300  # long rows have peaks, from whose threshold the search starts
EPS = float(np.finfo(np.float32).eps)
ALPHAS = (0.5, 0.9, 1.0, 1.1, 1.25, 4 / 3, 1.5, 1.75, 2.0, 2.5, 3.0, 10.0)

OF_ROWS = {mapping.name: lambda z, m=mapping: m(z) for mapping in CATALOGUE}
OF_ROWS["entmax 1.333"] = lambda z: js.entmax(z, 4 / 3)
OF_ROWS["binary_entmax"] = js.binary_entmax
OF_ROWS |= {
    type(regularizer).__name__: functools.partial(js.regularized_argmax, regularizer=regularizer)
    for regularizer in (js.FermiDirac(), js.Elastic(5.0), js.JensenShannon(), js.Laplace(), Blend())
}
OF_LABELS = {name: case.loss for name, case in LOSSES.items()}
OF_LABELS["topk_entmax_loss"] = lambda z, label: js.topk_entmax_loss(z, label[:, None], alpha=1.5)
OF_ALPHA = {
    "entmax": js.entmax,
    "log_entmax": lambda z, alpha: js.log_regularized_argmax(z, js.Tsallis(alpha)),
    "capped_entmax": lambda z, alpha: js.capped_entmax(z, 0.4, alpha=alpha),
    "topk_entmax": lambda z, alpha: js.topk_entmax(z, 3, alpha=alpha),
    "normmax": lambda z, alpha: js.normmax(z, 1 + alpha),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Scores, the cotangent, a label and an α, one of each a row."""

    z: np.ndarray
    cotangent: np.ndarray
    label: np.ndarray
    alpha: np.ndarray

    def __getitem__(self, rows):
        return Rows(*(x[rows] for x in dataclasses.astuple(self)))


@functools.cache
def hard_rows(classes, seed=0):
    """Rows of float32 that take few steps and many, and some that are not solved at all."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((ROWS, classes)) * 10 ** rng.uniform(-4, 3, (ROWS, 1))
    z[::7] = np.round(z[::7])  # ties
    # One class that leads by almost the margin of α = 2.
    z[3::7] = np.minimum(z[3::7], 0)
    z[3::7, 0] = z[3::7, 1:].max(-1) + 1 - 10.0 ** -np.arange(len(z[3::7]))
    z[5::7] += 1e4
    z[1] = 0
    z[2] = -np.inf
    z[8, classes // 2 :] = -np.inf
    z[9, 1:3] = np.inf
    z[10, 1] = np.nan
    label = rng.integers(classes, size=ROWS)
    alpha = rng.permuted(np.resize(ALPHAS, ROWS))[:, None]
    cotangent = rng.standard_normal(z.shape)
    return Rows(*(x.astype(np.float32) for x in (z, cotangent)), label, alpha.astype(np.float32))


@functools.cache
def program(function, *fields):
    def pulled(rows):
        z, cotangent, *others = (rows[name] for name in ("z", "cotangent", *fields))
        value, pull = jax.vjp(lambda z: function(z, *others), z)
        return value, pull(cotangent if value.ndim == 2 else cotangent[:, 0])[0]

    return jax.jit(pulled)


def answers(function, fields, rows):
    """The value and the slope of every row, side by side."""
    value, slope = program(function, *fields)(vars(rows))
    return np.concatenate([np.asarray(value).reshape(len(slope), -1), slope], -1)


def assert_rows_stand_alone(function, fields, rows, neighbours=None):
    """The same bits turned about, and among equals, empty rows and others; NaN is equal to NaN.

    Neighbours have the α of the row, or any α where `neighbours` have it.
    """
    n = len(rows.z)
    together = answers(function, fields, rows)
    turned = np.random.default_rng(0).permutation(n)
    np.testing.assert_array_equal(answers(function, fields, rows[turned]), together[turned])
    for i in (0, 3, 4, 10, 11, 12, 24):
        alike = answers(function, fields, rows[np.full(n, i)])
        np.testing.assert_array_equal(alike, np.broadcast_to(together[i], alike.shape))
        for beside in (1, 2, 9, 10):  # equal scores, none at all, infinite ones, NaN
            mixed = rows[np.where(np.arange(n) % 2 == i % 2, i, beside)]
            np.testing.assert_array_equal(answers(function, fields, mixed)[i], together[i])


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_row_of_a_mapping_has_the_same_bits_next_to_any_others(name):
    assert_rows_stand_alone(OF_ROWS[name], (), hard_rows(SHORT))


@pytest.mark.parametrize("name", OF_LABELS)
def test_a_row_of_a_loss_has_the_same_bits_next_to_any_others(name):
    assert_rows_stand_alone(OF_LABELS[name], ("label",), hard_rows(SHORT))
