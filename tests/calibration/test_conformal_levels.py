"""Thresholds of several levels and of single classes, and sets that are never empty."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js

INF, NAN = np.inf, np.nan
ROWS, CLASSES = 120, 4
rng = np.random.default_rng(1)
Z = rng.normal(size=(ROWS, CLASSES)).round(1)  # with ties
LABELS = rng.choice(CLASSES, ROWS, p=[0.5, 0.3, 0.15, 0.05])
LEVELS = np.array([[0.0, 0.07, 0.5], [0.8, 0.95, 1.0]])
OWN = Z[np.arange(ROWS), LABELS]
by_class = functools.partial(js.conformal_threshold, classwise=True)
same = np.testing.assert_array_equal


def right(scores, level):
    """The ⌈(n+1)c⌉-th smallest, of fractions."""
    rank = -((-Fraction(str(level)) * (len(scores) + 1)) // 1)
    return np.append(np.sort(scores), INF)[max(int(rank), 1) - 1]


def test_every_level_has_the_threshold_that_it_has_alone():
    found = js.conformal_threshold(Z, LABELS, LEVELS)
    same(found, [[right(OWN, c) for c in row] for row in LEVELS])
    same(jax.jit(js.conformal_threshold)(Z, LABELS, LEVELS), found)
    w = rng.random(ROWS)
    same(
        js.conformal_threshold(Z, LABELS, LEVELS[0], weights=w),
        [js.conformal_threshold(Z, LABELS, float(c), weights=w) for c in LEVELS[0]],
    )
    assert js.conformal_threshold(Z, LABELS, np.zeros((0,))).shape == (0,)


def test_every_class_has_the_threshold_of_its_own_examples():
    wanted = [[[right(OWN[k == LABELS], c) for k in range(CLASSES)] for c in row] for row in LEVELS]
    same(by_class(Z, LABELS, LEVELS), wanted)
    same(jax.jit(by_class)(Z, LABELS, LEVELS), wanted)
    same(by_class(Z, LABELS, 0.5), wanted[0][2])
    same(by_class(Z.astype(np.float32), LABELS, 0.5), np.asarray(wanted[0][2], np.float32))


def test_class_thresholds_lie_where_the_classes_of_the_scores_do():
    wanted = by_class(Z, LABELS, LEVELS)
    turned = by_class(Z.T, LABELS, LEVELS, 0)
    assert turned.shape == (2, 3, CLASSES, 1)
    same(turned[..., 0], wanted)
    same(js.conformal_sets(Z.T, turned[0, 2], 0).T, js.conformal_sets(Z, wanted[0, 2]))
    pair = by_class(Z.reshape(ROWS, 2, 2), LABELS, 0.5, axis=(-1, -2))
    assert pair.shape == (2, 2)
    same(pair, by_class(Z.reshape(ROWS, 2, 2).swapaxes(1, 2).reshape(ROWS, -1), LABELS, 0.5)
         .reshape(2, 2).T)  # fmt: skip


def test_weights_of_classes_are_repetitions_and_an_absent_class_has_no_threshold():
    w = rng.integers(0, 3, ROWS)
    again = np.repeat(np.arange(ROWS), w)
    z = np.where((w == 0)[:, None], NAN, Z)
    same(by_class(z, LABELS, LEVELS, weights=w), by_class(Z[again], LABELS[again], LEVELS))
    assert by_class(Z, np.zeros(ROWS, int), 0.1)[3] == INF
    same(by_class(Z[:0], LABELS[:0]), [INF] * CLASSES)


def test_a_score_of_nan_spoils_its_class_and_an_unknown_label_every_class():
    z = Z.copy()
    z[4, LABELS[4]] = NAN
    same(np.isnan(by_class(z, LABELS)), np.arange(CLASSES) == LABELS[4])
    assert np.isnan(by_class(Z, jnp.asarray(LABELS).at[0].set(9))).all()


def test_every_class_is_covered_as_often_as_is_asked():
    """By exchangeability; 40,000 new labels a class have a standard error of 0.003 at most."""
    n, many, c = 99, 40_000, 0.8
    labels = np.repeat([0, 1], [n, 9])

    def draw(rng, labels):
        return labels[:, None] * 2.0 + rng.normal(size=(len(labels), 2))

    new = np.repeat([0, 1], many)
    covered = np.zeros(2)
    repeats = 200
    thresholds = jax.jit(lambda z: by_class(z, labels, c))
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        q = thresholds(draw(rng, labels))
        hit = draw(rng, new)[np.arange(2 * many), new] <= np.asarray(q)[new]
        covered += [hit[new == k].mean() / repeats for k in (0, 1)]
    # Of n examples the coverage is Beta(k, n+1−k): its mean is k/(n+1), k = ⌈(n+1)c⌉.
    exact = np.array([80 / 100, 8 / 10])
    deviation = np.sqrt(exact * (1 - exact) / np.array([101, 11]) / repeats)
    assert (abs(covered - exact) < 5 * deviation).all()


def test_no_set_is_empty_if_that_is_asked():
    for q in (-5.0, 0.0, np.full(CLASSES, -5.0), INF, NAN):
        plain, full = (js.conformal_sets(Z, q, nonempty=x) for x in (False, True))
        least = Z.min(-1, keepdims=True) == Z
        same(full, plain | (least & ~np.asarray(plain).any(-1, keepdims=True)))
        assert np.asarray(full).any(-1).all()
    mask = np.arange(CLASSES) < 2
    masked = js.conformal_sets(Z, -5.0, nonempty=True, where=mask)
    same(masked[:, :2], js.conformal_sets(Z[:, :2], -5.0, nonempty=True))
    assert not masked[:, 2:].any()
    nobody = js.conformal_sets(Z, -5.0, nonempty=True, where=np.zeros(CLASSES, bool))
    assert not nobody.any()
    turned = js.conformal_sets(Z.T, -5.0, 0, nonempty=True)
    same(turned.T, js.conformal_sets(Z, -5.0, nonempty=True))


def test_levels_out_of_range_are_named():
    with pytest.raises(ValueError, match="conformal_threshold: `coverage` must be from 0 to 1"):
        js.conformal_threshold(Z, LABELS, np.array([0.5, 1.5]))
