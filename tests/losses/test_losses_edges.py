"""The losses at the edges: masks, infinities, NaN and scores of any size."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.losses.loss_helpers import (
    ALL,
    CASES,
    CLASSES,
    INF,
    KINDS,
    LABELS,
    LOGITS,
    NAN,
    ONE_HOT,
    ROWS,
    SOME,
    assert_close,
    by_kind,
    expected,
    on_distributions,
    on_labels,
)


@by_kind(KINDS)
def test_masked_classes_take_no_part_whatever_stands_there(name):
    base = on_labels(name, where=SOME)
    value, wanted = expected(name, LOGITS, ONE_HOT, SOME)
    assert_close(base[0], value)
    assert_close(base[1], wanted)
    assert not base[1][~SOME].any()
    for anything in (0, 1e30, INF, -INF, NAN):
        z = np.where(SOME, LOGITS, anything)
        chex.assert_trees_all_equal(on_labels(name, z, where=SOME), base)
    z = np.where(SOME, LOGITS, -INF)
    chex.assert_trees_all_equal(on_labels(name, z), base)


@by_kind(KINDS)
def test_target_mass_on_a_masked_class_is_an_infinite_loss_of_finite_gradient(name):
    where = ALL.copy()
    where[np.arange(ROWS), LABELS] = False
    loss, gradient = on_labels(name, where=where)
    assert (loss == INF).all()
    predicted = expected(name, LOGITS, 0 * ONE_HOT + 1 / CLASSES, where)[1] + where / CLASSES
    assert_close(gradient, predicted * where)
    loss, d_z, d_y = on_distributions(name, where=where, y=0.5 * ONE_HOT + 0.1)
    assert (loss == INF).all()
    assert np.isfinite(d_z).all()
    assert np.isfinite(d_y).all()


@by_kind(KINDS)
def test_a_row_without_any_class_loses_nothing(name):
    where = ALL.copy()
    where[2] = False
    z = LOGITS.copy()
    z[4] = -INF
    loss, gradient = on_labels(name, z, where=where)
    assert not loss[[2, 4]].any()
    assert not gradient[[2, 4]].any()
    loss, d_z, d_y = on_distributions(name, z, where=where)
    assert not loss[[2, 4]].any()
    assert not d_z[[2, 4]].any()
    assert np.isfinite(d_y).all()


@by_kind(KINDS)
def test_scores_of_plus_infinity_are_the_limit(name):
    """They share the prediction, and a target elsewhere is infinitely wrong."""
    z = LOGITS.copy()
    z[[0, 1, 2], LABELS[:3]] = INF
    z[[1, 2], 4] = INF
    z[3, 0] = INF
    loss, gradient = on_labels(name, z)
    value, wanted = expected(name, np.zeros((4, CLASSES)), ONE_HOT[:4], np.isinf(z[:4]))
    wanted[3, LABELS[3]] = -1
    assert_close(loss[:3], value[:3])
    assert loss[3] == INF
    assert_close(gradient[:4], wanted)


@by_kind(KINDS)
def test_nan_stays_in_its_row(name):
    z = LOGITS.copy()
    z[3, 0] = NAN
    loss, gradient = on_labels(name, z)
    assert np.isnan(loss[3])
    kept = np.arange(ROWS) != 3
    wanted = on_labels(name)
    chex.assert_trees_all_equal((loss[kept], gradient[kept]), (wanted[0][kept], wanted[1][kept]))


@functools.cache
def _all_kinds():
    def total(z, y):
        losses = jnp.stack([CASES[name].loss(z, y) for name in KINDS])
        return losses.sum(), losses

    return jax.jit(jax.grad(total, has_aux=True))


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    hnp.arrays(float, (3, 4), elements=st.floats(-50, 50) | st.sampled_from([0, 1, 1e6, -1e6])),
    hnp.arrays(float, (3, 4), elements=st.floats(0, 1) | st.sampled_from([0, 1])),
)
def test_never_negative_and_never_nan(z, y):
    y = y + (y.sum(-1, keepdims=True) == 0)
    gradient, losses = _all_kinds()(z, y / y.sum(-1, keepdims=True))
    assert (np.asarray(losses) >= 0).all()
    assert np.isfinite(losses).all()
    assert_close(np.asarray(gradient).sum(-1), np.zeros(3), atol=1e-14)
