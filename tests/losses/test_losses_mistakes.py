"""Error messages of the losses."""

import re

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jsoftmax import Tsallis, topk_entmax_loss
from tests.losses.loss_helpers import LABELLED, NAN, by_kind


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


EVERY = {**LABELLED, "topk_entmax_loss": topk_entmax_loss}


def shapes(*named):
    """The words that a message must contain, in this order."""
    return ".*".join(re.escape(str(n)) for n in named)


@by_kind(EVERY)
def test_a_mistake_is_answered_with_function_argument_and_remedy(name, unchecked):
    loss, here = EVERY[name], f"jsoftmax.{name}: "
    z = np.ones((2, 3))
    labels = np.zeros((2, 1) if name == "topk_entmax_loss" else 2, int)
    with pytest.raises(ValueError, match=shapes(here, "`where`", (4,), (2, 3))):
        loss(z, labels, where=np.ones(4, bool))
    with pytest.raises(TypeError, match=shapes(here, "`where` has dtype float64", "boolean")):
        loss(z, labels, where=np.ones((2, 3)))
    with pytest.raises(TypeError, match=shapes(here, "`logits` has dtype complex")):
        loss(z * 1j, labels)
    with pytest.raises(ValueError, match=shapes(here, "axis 2 is out of range", (2, 3))):
        loss(z, labels, axis=2)
    with pytest.raises(ValueError, match=shapes(here, "has no classes")):
        loss(np.ones((2, 0)), labels)
    given = "`labels`" if name == "topk_entmax_loss" else "`targets`"
    with pytest.raises(TypeError, match=shapes(here, f"{given} has dtype bool", "integer")):
        loss(z, labels == 0)
    wrong = np.zeros((3, 1) if name == "topk_entmax_loss" else 3, int)
    with pytest.raises(ValueError, match=shapes(here, given, wrong.shape, (2, 3))):
        loss(z, wrong)
    assert loss(np.ones((0, 3)), labels[:0]).shape == (0,)
    if name == "fenchel_young_loss":
        with pytest.raises(TypeError, match=shapes(here, "`regularizer` is -1", "mean axis=-1?")):
            loss(z, labels, -1)
        with pytest.raises(TypeError, match=shapes(here, "jsoftmax.Tsallis(1.5)")):
            loss(z, labels, 1.5)
        with pytest.raises(TypeError, match=shapes(here, "an object, Tsallis()")):
            loss(z, labels, Tsallis)
        with pytest.raises(ValueError, match=shapes(here, "`alpha`", (5, 1), (2, 3))):
            loss(z, labels, Tsallis(jnp.full((5, 1), 1.5)))
    elif name not in ("cross_entropy", "sparsemax_loss"):
        with pytest.raises(ValueError, match=shapes(here, "`alpha` must be", "-1")):
            loss(z, labels, alpha=-1)
        with pytest.raises(ValueError, match=shapes(here, "`alpha`", (5, 1), (2, 3))):
            loss(z, labels, alpha=jnp.full((5, 1), 1.5))


def test_a_k_hot_loss_has_a_single_axis(unchecked):
    message = "jsoftmax.topk_entmax_loss: `axis` must be a single axis"
    with pytest.raises(ValueError, match=message):
        topk_entmax_loss(np.ones((2, 3)), np.array([[0]]), axis=(0, 1))


@by_kind(LABELLED)
def test_a_mistaken_option_is_answered_the_same_way(name, unchecked):
    loss, here = LABELLED[name], f"jsoftmax.{name}: "
    z, labels, y = np.ones((2, 3)), np.zeros(2, int), np.full((2, 3), 1 / 3)
    for smoothing in (-0.1, 1.5, NAN):
        with pytest.raises(ValueError, match=shapes(here, "`label_smoothing` must be from 0 to 1")):
            loss(z, labels, label_smoothing=smoothing)
    with pytest.raises(ValueError, match=shapes(here, "`class_weights`", (4,), (2, 3))):
        loss(z, labels, class_weights=np.ones(4))
    with pytest.raises(TypeError, match=shapes(here, "`class_weights` has dtype complex")):
        loss(z, labels, class_weights=np.ones(3) * 1j)
    with pytest.raises(ValueError, match=shapes(here, "`ignore_index` needs integer targets")):
        loss(z, y, ignore_index=-1)
    for wrong in (y[:, :1], y[0], y[:, :2], np.ones((3, 3))):
        with pytest.raises(ValueError, match=shapes(here, "`targets`", wrong.shape, (2, 3))):
            loss(z, wrong)
    with pytest.raises(TypeError, match=shapes(here, "`targets` has dtype complex")):
        loss(z, y * 1j)
