"""Sizes that are unknown while tracing, as in an exported program."""

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
from tests.marks import some
from tests.vocabulary.linear.linear_helpers import CLASSES, WIDTH, assert_close

FUNCTIONS = {
    "cross-entropy": lambda h, w, y: linear_cross_entropy(
        h, w, y, ignore_index=1, label_smoothing=0.1, temperature=1.3
    ),
    "sum": linear_cross_entropy_sum,
    "entmax": linear_entmax_loss,
    "top-k": lambda h, w, y: linear_topk(h, w, 3),
    "draws": lambda h, w, y: linear_categorical(jax.random.key(0), h, w),
    "slopes": jax.grad(lambda h, w, y: linear_cross_entropy(h, w, y).sum(), (0, 1)),
    "slopes of the sum": jax.grad(linear_cross_entropy_sum, (0, 1)),
}


def at_three_sizes(function, tokens, classes):
    """The exported program equals the direct one."""
    rng = np.random.default_rng(0)
    h, w = (jax.ShapeDtypeStruct(s, float) for s in ((tokens, WIDTH), (WIDTH, classes)))
    y = jax.ShapeDtypeStruct((tokens,), int)
    exported = jax.export.export(jax.jit(function))(h, w, y)
    for n, k in ((1, 4), (65, CLASSES), (130, 40)):
        k = classes if isinstance(classes, int) else k
        data = rng.normal(size=(n, WIDTH)), rng.normal(size=(WIDTH, k)), rng.integers(0, k, n)
        data = tuple(map(jnp.asarray, data))
        assert_close(exported.call(*data), function(*data))


@pytest.mark.parametrize("name", some(FUNCTIONS, ["sum", "draws", "slopes"]))
def test_the_number_of_tokens_may_be_unknown(name):
    (n,) = jax.export.symbolic_shape("n")
    at_three_sizes(FUNCTIONS[name], n, CLASSES)


@pytest.mark.parametrize(
    "name", some([name for name in FUNCTIONS if name != "draws"], ["top-k", "slopes"])
)
def test_the_number_of_classes_may_be_unknown_too(name):
    n, k = jax.export.symbolic_shape("n, k", constraints=["k >= 3"])
    at_three_sizes(FUNCTIONS[name], n, k)
