"""Error messages of linear losses name function, argument and remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import (
    linear_categorical,
    linear_cross_entropy,
    linear_cross_entropy_sum,
    linear_entmax_loss,
    linear_topk,
)
from tests.vocabulary.linear.linear_helpers import CLASSES, FEATURES, KERNEL, LABELS, TOKENS

LOSS = linear_cross_entropy
MISTAKES = {
    "the other layout": (lambda: LOSS(FEATURES, KERNEL.T, LABELS), ValueError, "class_axis=0"),
    "no classes": (lambda: LOSS(FEATURES, KERNEL[:, :0], LABELS), ValueError, "no classes"),
    "axis": (lambda: LOSS(FEATURES, KERNEL, LABELS, class_axis=2), ValueError, "`class_axis`"),
    "complex": (lambda: LOSS(FEATURES * 1j, KERNEL, LABELS), TypeError, "`features`"),
    "rows": (
        lambda: LOSS(FEATURES, KERNEL, jnp.ones((TOKENS, CLASSES))),
        ValueError,
        r"pairs \(ids, weights\)",
    ),
    "floats": (lambda: LOSS(FEATURES, KERNEL, jnp.ones(TOKENS)), TypeError, "integers"),
    "no pair": (lambda: LOSS(FEATURES, KERNEL, (LABELS,)), ValueError, "tuple of 1"),
    "uneven pair": (
        lambda: LOSS(FEATURES, KERNEL, (LABELS[:, None], np.ones((TOKENS, 2)))),
        ValueError,
        "m classes for each token",
    ),
    "ignored pair": (
        lambda: LOSS(FEATURES, KERNEL, (LABELS[:, None], np.ones((TOKENS, 1))), ignore_index=0),
        ValueError,
        "`ignore_index`",
    ),
    "no class": (lambda: LOSS(FEATURES, KERNEL, LABELS + 9), ValueError, "out of range"),
    "bias": (lambda: LOSS(FEATURES, KERNEL, LABELS, bias=np.ones(1)), ValueError, "`bias`"),
    "weights of classes": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, class_weights=np.ones(1)),
        ValueError,
        "`class_weights`",
    ),
    "mask": (lambda: LOSS(FEATURES, KERNEL, LABELS, where=jnp.ones(4)), TypeError, "boolean"),
    "size of mask": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, where=jnp.ones(4, bool)),
        ValueError,
        "`where`",
    ),
    "smoothing": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, label_smoothing=1.5),
        ValueError,
        "`label_smoothing`",
    ),
    "temperature": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, temperature=0.0),
        ValueError,
        "`temperature`",
    ),
    "cap": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, logits_soft_cap=-1.0),
        ValueError,
        "`logits_soft_cap`",
    ),
    "a fraction to ignore": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, ignore_index=0.5),
        TypeError,
        "`ignore_index`",
    ),
    "block": (lambda: LOSS(FEATURES, KERNEL, LABELS, block_tokens=0), ValueError, "`block_tokens`"),
    "α": (lambda: linear_entmax_loss(FEATURES, KERNEL, LABELS, alpha=-1.0), ValueError, "`alpha`"),
    "weights": (
        lambda: linear_cross_entropy_sum(FEATURES, KERNEL, LABELS, jnp.ones(3)),
        ValueError,
        "`weights`",
    ),
    "k": (lambda: linear_topk(FEATURES, KERNEL, CLASSES + 1), ValueError, "`k`"),
    "keys": (
        lambda: linear_categorical(jax.random.split(jax.random.key(0)), FEATURES, KERNEL),
        ValueError,
        "one key",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("loss", [LOSS, linear_entmax_loss])
def test_the_label_to_ignore_may_be_traced(loss):
    known = loss(FEATURES, KERNEL, LABELS, ignore_index=int(LABELS[0]))
    traced = jax.jit(lambda i: loss(FEATURES, KERNEL, LABELS, ignore_index=i))(LABELS[0])
    np.testing.assert_allclose(traced, known, rtol=1e-12)
    assert traced[0] == 0 and jnp.count_nonzero(traced) == (LABELS[0] != LABELS).sum()


def test_labels_in_an_array_are_not_checked():
    """That would block dispatch: the loss is NaN."""
    assert jnp.isnan(LOSS(FEATURES, KERNEL, jnp.asarray(LABELS + 9))).any()
    assert jnp.isfinite(jax.jit(LOSS)(FEATURES, KERNEL, LABELS)).all()
