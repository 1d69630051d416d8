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
from tests.marks import some

ROWS, SHORT, LONG = 48, 11, 300  # long rows have peaks; the search starts at their threshold
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
    "capped_entmax": lambda z, alpha: js.capped_entmax(z, 0.4, alpha=alpha),
    "topk_entmax": lambda z, alpha: js.topk_entmax(z, 3, alpha=alpha),
    "entmax_loss": lambda z, alpha: js.entmax_loss(z, np.zeros(len(z), int), alpha=alpha),
}
# One for each way a p is computed.
ALONE = ["softmax", "sparsemax", "entmax 1.5", "entmax 1.25", "entmax 0.5", "entmax 3"]
ALONE += ["entmax traced 1.5", "normmax 2", "topk_entmax 1.5 k=2", "topk_sigmoid k=1.5", "Elastic"]
ALONE += ["cross_entropy", "entmax_loss", "entmax_loss at 3.0", "normmax_loss"]


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


def assert_rows_stand_alone(function, fields, rows, held=()):
    """The same bits turned about, and among equals, empty rows and others; NaN is equal to NaN.

    The rows `held` stay in the batch.
    """
    n = len(rows.z)
    places = np.arange(n)
    together = answers(function, fields, rows)
    turned = np.random.default_rng(0).permutation(n)
    np.testing.assert_array_equal(answers(function, fields, rows[turned]), together[turned])
    for i in (0, 3, 4, 10, 11, 12, 24):
        # Its equals, a row of equal scores, an empty one, infinite scores, NaN.
        for beside in (i, 1, 2, 9, 10):
            chosen = np.where(places % 2 == i % 2, i, beside)
            chosen = np.where(np.isin(places, held), places, chosen)
            mixed = answers(function, fields, rows[chosen])
            np.testing.assert_array_equal(mixed, together[chosen])


@pytest.mark.parametrize("name", some(OF_ROWS, list(OF_ROWS)[::4]))
def test_a_row_of_a_mapping_has_the_same_bits_next_to_any_others(name):
    assert_rows_stand_alone(OF_ROWS[name], (), hard_rows(SHORT))


@pytest.mark.parametrize(
    "name", ["sparsemax", "entmax 1.5", "entmax 1.25", "entmax 0.5", "entmax 3"]
)
def test_a_long_row_has_the_same_bits_next_to_any_others(name):
    assert_rows_stand_alone(OF_ROWS[name], (), hard_rows(LONG))


@pytest.mark.parametrize("name", OF_LABELS)
def test_a_row_of_a_loss_has_the_same_bits_next_to_any_others(name):
    assert_rows_stand_alone(OF_LABELS[name], ("label",), hard_rows(SHORT))


@pytest.mark.parametrize("classes", some([SHORT, LONG], [SHORT]))
@pytest.mark.parametrize("name", some(OF_ALPHA, ["entmax", "capped_entmax"]))
def test_a_row_has_the_same_bits_next_to_others_on_its_curve(name, classes):
    """Rows of array-valued α, where the largest and the least α of the batch stay in it."""
    rows = hard_rows(classes)
    held = rows.alpha[:, 0].argmin(), rows.alpha[:, 0].argmax()
    assert_rows_stand_alone(OF_ALPHA[name], ("alpha",), rows, held)


@pytest.mark.parametrize("classes", [SHORT, LONG])
@pytest.mark.parametrize("name", some(OF_ALPHA, ["entmax", "topk_entmax"]))
def test_another_curve_gives_a_row_the_same_answer_within_rounding(name, classes):
    """Next to rows of its own α, with a faster curve for some α, and next to rows of any α."""
    rows = hard_rows(classes)
    mixed = answers(OF_ALPHA[name], ("alpha",), rows)
    for alpha in np.unique(rows.alpha):
        own = dataclasses.replace(rows, alpha=np.full_like(rows.alpha, alpha))
        alike = answers(OF_ALPHA[name], ("alpha",), own)
        here = rows.alpha[:, 0] == alpha
        bend = label_bend(alike[here], rows[here]) if name == "entmax_loss" else 0
        assert_within_rounding(mixed[here], alike[here], rows[here], bend)


@pytest.mark.parametrize("name", some(ALONE, ALONE[1::3]))
def test_one_row_and_ten_thousand_give_the_same_answer_within_rounding(name):
    rows = hard_rows(SHORT)
    rows = rows[~np.isnan(rows.z).any(-1)]
    many = answers(*named(name), rows[np.resize(np.arange(len(rows.z)), 10_000)])
    for i in range(len(rows.z)):
        row = rows[i : i + 1]
        assert_within_rounding(answers(*named(name), row), many[i : i + 1], row)


# XLA's maxima on CPU lose a NaN in arrays of many rows; sums keep it.
WHOLE = ["softmax", "entmax 0.5", "normmax 2", "Elastic", "FermiDirac"]
SPOILED = {
    "hardmax": js.hardmax,
    "sparsemax": js.sparsemax,
    "entmax": js.entmax,
    "entmax, 3": lambda z: js.entmax(z, 3.0),
    "capped_entmax": lambda z: js.capped_entmax(z, 0.4),
    "topk_entmax": lambda z: js.topk_entmax(z, 2),
    "logsumexp": js.logsumexp,
    "smoothmax": lambda z: js.smoothmax(z, 1.5),
    "cross_entropy": lambda z: js.cross_entropy(z, jnp.zeros(len(z), int)),
    "entmax_loss": lambda z: js.entmax_loss(z, jnp.zeros(len(z), int)),
    "normmax_loss": lambda z: js.normmax_loss(z, jnp.zeros(len(z), int)),
    "linear_cross_entropy": lambda z: js.linear_cross_entropy(
        z, jnp.eye(z.shape[-1], dtype=z.dtype), jnp.zeros(len(z), int)
    ),
    "linear_entmax_loss": lambda z: js.linear_entmax_loss(
        z, jnp.eye(z.shape[-1], dtype=z.dtype), jnp.zeros(len(z), int)
    ),
}


@pytest.mark.parametrize("whole", [False, True], ids=["one class", "all classes"])
@pytest.mark.parametrize("name", some(SPOILED, list(SPOILED)[::3]))
def test_a_nan_among_ten_thousand_rows_is_seen_in_its_own(name, whole):
    """A row of a mapping has it at its class at least, and a loss is NaN and not 0."""
    z = np.random.default_rng(0).standard_normal((10_000, 11)).astype(np.float32)
    spoiled = np.arange(len(z)) % 50 == 3
    z[spoiled, slice(None) if whole else 3] = np.nan
    value = np.asarray(jax.jit(SPOILED[name])(z)).reshape(len(z), -1)
    assert (np.isnan(value).any(-1) == spoiled).all()


@pytest.mark.parametrize("name", WHOLE)
def test_nan_is_its_whole_row_among_ten_thousand(name):
    rows = hard_rows(SHORT)
    rows = rows[np.resize(np.arange(ROWS), 10_000)]
    value = answers(*named(name), rows)[:, :SHORT]
    assert np.isnan(value[np.isnan(rows.z).any(-1)]).all()


def named(name):
    return (OF_ROWS[name], ()) if name in OF_ROWS else (OF_LABELS[name], ("label",))


def label_bend(answer, rows):
    """How much the loss of a label moves with the p of the label, which is right to 4 eps.

    It has ω(y) − ω(p) − ω′(p) (1 − p), of derivative −ω″(p) (1 − p), and ω″ is p^(α−2).
    """
    with np.errstate(all="ignore"):
        p = 1 + answer[:, 1] / rows.cotangent[:, 0]  # of class 0, the label
        bend = (1 - p) * p ** (rows.alpha[:, 0] - 2)
    return np.where((p > 0) & (p < 1), bend, 0)[:, None]


def assert_within_rounding(one, other, rows, bend=0):
    """Compare values to 4 eps, losses to 8 eps of max(1, L), slopes to 16 eps of the largest."""
    np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))
    finite = np.isfinite(other)
    one, other = (np.where(finite, x, 0) for x in (one, other))
    split = [one.shape[-1] - rows.z.shape[-1]]
    (error, slope_error), (value, slope) = (
        np.split(x, split, axis=-1) for x in (np.abs(one - other), np.abs(other))
    )
    is_loss = value.shape[-1] == 1
    assert (error <= EPS * ((8 if is_loss else 4) * np.maximum(1, value) + 4 * bend)).all()
    largest = np.maximum(np.abs(rows.cotangent).max(-1), slope.max(-1))[:, None]
    assert (slope_error <= 16 * EPS * largest).all()
