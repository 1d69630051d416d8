"""The losses: labels, ignored rows, and k labels at once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import cross_entropy, topk_entmax_loss
from tests.losses import loss_oracles as oracles
from tests.losses.loss_helpers import (
    ALL,
    CLASSES,
    INF,
    KINDS,
    LABELLED,
    LABELS,
    LOGITS,
    NAN,
    SOME,
    WIDE,
    assert_close,
    by_kind,
    on_labels,
)

# One label


@by_kind(LABELLED)
def test_a_label_that_is_no_class_is_an_error_where_it_is_known(name):
    """In Python, in numpy, and while tracing."""
    loss, z = LABELLED[name], np.zeros((2, 3))
    for wrong, at in ([0, 3], 3), ([-1, 2], -1), ([0, 255], 255):
        labels = np.array(wrong)
        message = rf"jsoftmax.{name}: label {at} is out of range \[0, 3\)"
        with pytest.raises(ValueError, match=message):
            loss(z, labels)
        with pytest.raises(ValueError, match=message):
            jax.jit(lambda z, labels=labels: loss(z, labels))(z)
        with pytest.raises(ValueError, match=message):
            loss(z, labels, ignore_index=1)
        with pytest.raises(ValueError, match=message):
            loss(z[0], at)


@by_kind(KINDS)
def test_a_label_that_is_no_class_is_nan_in_a_jax_array(name):
    """Never another class, in any dtype; and other rows are unaffected."""
    right, _ = on_labels(name)
    for dtype, wrong in (np.int32, [5, -2]), (np.uint8, [255, 5]), (np.int64, [2**32, -(2**32)]):
        labels = LABELS.astype(dtype)
        labels[[1, 4]] = wrong
        loss, gradient = on_labels(name, labels=labels)
        assert np.isnan(loss[[1, 4]]).all()
        others = [0, 2, 3, 5, 6, 7]
        assert_close(loss[others], right[others])
        assert np.isfinite(gradient[others]).all()


@by_kind(KINDS)
def test_ignored_rows_lose_nothing_whatever_stands_there(name):
    labels, z = LABELS.copy(), LOGITS.copy()
    labels[[2, 5]] = -1
    z[2], z[5, 1] = NAN, INF
    loss, gradient = on_labels(name, z, labels)
    wanted, slope = (x.copy() for x in on_labels(name))
    wanted[[2, 5]], slope[[2, 5]] = 0, 0
    chex.assert_trees_all_equal((loss, gradient), (wanted, slope))


def test_an_ignored_label_may_be_a_class_or_none_of_its_dtype():
    """A number that the labels cannot hold does not wrap into one that they do."""
    z = jnp.asarray(LOGITS)

    def loss(labels, ignored):
        return cross_entropy(z, jnp.asarray(labels), ignore_index=ignored, z_loss=0.1)

    base = loss(LABELS, None)
    assert_close(loss(LABELS, 3), np.where(LABELS == 3, 0, base))
    assert_close(loss(LABELS.astype(np.int8), 255), base)
    labels = LABELS.astype(np.uint8)
    labels[0] = 255
    assert np.isnan(loss(labels, -1)[0])
    assert loss(labels, 255)[0] == 0
    with pytest.raises(ValueError, match="label 255 is out of range"):
        cross_entropy(z, labels, ignore_index=-1)


# k at once


@functools.cache
def _k_hot(k):
    def total(z, labels, where):
        loss = topk_entmax_loss(z, labels, alpha=1.5, where=where)
        return loss.sum(), loss

    return jax.jit(jax.grad(total, has_aux=True))


def k_hot(z, labels, where=ALL):
    labels = jnp.asarray(labels)
    gradient, loss = _k_hot(labels.shape[-1])(z, labels, where)
    return np.asarray(loss), np.asarray(gradient)


PAIRS = np.stack([LABELS, (LABELS + 2) % CLASSES], axis=-1)


def test_the_order_of_the_right_classes_does_not_matter():
    chex.assert_trees_all_close(k_hot(LOGITS, PAIRS), k_hot(LOGITS, PAIRS[:, ::-1]), rtol=1e-13)


def test_a_k_hot_loss_is_zero_past_its_margin():
    """The k right classes lead all others by 1/(α−1)."""
    z = LOGITS / 10
    np.put_along_axis(z, PAIRS, np.take_along_axis(z, PAIRS, -1) + 5, axis=-1)
    loss, gradient = k_hot(z, PAIRS)
    assert not loss.any()
    assert not gradient.any()


def test_k_hot_labels_that_are_no_classes_or_the_same_are_errors_or_nan():
    z = np.zeros((1, 4))
    for wrong, message in (
        ([[0, 4]], "label 4 is out of range"),
        ([[-1, 2]], "label -1 is out of range"),
        ([[2, 2]], "`labels` name a class twice in one row"),
        ([[0, 1, 2, 3, 0]], "`labels` name 5 classes a row; there are 4"),
    ):
        with pytest.raises(ValueError, match=f"jsoftmax.topk_entmax_loss: {message}"):
            topk_entmax_loss(z, np.array(wrong))
    labels = PAIRS.copy()
    labels[1], labels[4], labels[6] = [0, 5], [-1, 2], [3, 3]
    loss, gradient = k_hot(LOGITS, labels)
    others = [0, 2, 3, 5, 7]
    assert np.isnan(loss[[1, 4, 6]]).all()
    wanted = k_hot(LOGITS, PAIRS)
    chex.assert_trees_all_equal(
        (loss[others], gradient[others]), (wanted[0][others], wanted[1][others])
    )


def test_k_hot_masks_and_infinities():
    where = SOME.copy()
    np.put_along_axis(where, PAIRS, True, axis=-1)
    where[3, PAIRS[3, 0]], where[6] = False, False
    base = k_hot(LOGITS, PAIRS, where)
    assert base[0][3] == INF
    assert np.isfinite(base[1]).all()
    assert not base[1][~where].any()
    assert base[0][6] == 0
    for i in (0, 1, 2, 4, 5, 7):
        keep = where[i]
        target = np.isin(np.arange(CLASSES), PAIRS[i])[keep].astype(float)
        value = oracles.entmax_loss(LOGITS[i, keep], target, alpha=1.5, k=2)
        assert_close(base[0][i], float(value), atol=1e-13)
    for anything in (0, INF, NAN):
        z = np.where(where, LOGITS, anything)
        chex.assert_trees_all_equal(k_hot(z, PAIRS, where), base)
    z = LOGITS.copy()
    z[0, PAIRS[0]], z[1, 4], z[2] = INF, NAN, -INF
    loss, gradient = k_hot(z, PAIRS)
    assert np.isnan(loss[1])
    assert not loss[[0, 2]].any()
    assert not gradient[[0, 2]].any()


def test_k_hot_classes_on_another_axis_and_split():
    z, pairs = jnp.asarray(WIDE), jnp.array([[0, 9], [3, 4], [5, 1], [8, 2], [7, 6], [9, 3]])
    base = jax.jit(topk_entmax_loss)(z, pairs)
    assert_close(jax.jit(topk_entmax_loss, static_argnames="axis")(z.T, pairs, axis=0), base)
    parts = z.reshape(6, 2, 5).swapaxes(0, 1)
    split = jax.vmap(lambda z: topk_entmax_loss(z, pairs, axis_name="parts"), axis_name="parts")
    assert_close(jax.jit(split)(parts), jnp.stack([base, base]))
