"""A named kernel never falls back, and an unknown name is an error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.kernels.rows_helpers import scores

pytestmark = pytest.mark.kernels
Z = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize("function", [js.softmax, js.entmax, js.logsumexp, js.sparsemax])
def test_an_unknown_name_is_an_error(function):
    with pytest.raises(ValueError, match=rf"{function.__name__}: `implementation` is 'triton'"):
        function(Z, implementation="triton")


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("`logits` of dtype float64", lambda: js.softmax(Z.astype(float), implementation="pallas")),
        (
            "`logits` of dtype int32",
            lambda: js.softmax(Z.astype(np.int32), implementation="pallas"),
        ),
        ("`axis` of 2 axes", lambda: js.softmax(Z, axis=(0, 1), implementation="pallas")),
        ("`axis` of 2 axes", lambda: js.entmax(Z, axis=None, implementation="pallas")),
        (
            "`ignore_index` as an array",
            lambda: js.entmax_loss(
                Z, np.array([0, 1]), ignore_index=jnp.int32(1), implementation="pallas"
            ),
        ),
    ],
)
def test_a_kernel_refuses_an_argument_that_it_does_not_take(message, call):
    with pytest.raises(NotImplementedError, match=message) as error:
        call()
    assert "leave `implementation`" in str(error.value)


def test_a_kernel_refuses_split_classes():
    split = jax.vmap(
        functools.partial(js.softmax, axis_name="parts", implementation="pallas"), axis_name="parts"
    )
    with pytest.raises(NotImplementedError, match="`axis_name` of split classes"):
        split(scores(2, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda **kind: js.softmax(Z, axis=5, **kind),
        lambda **kind: js.entmax(Z, -1.0, **kind),
        lambda **kind: js.softmax(Z, where=np.ones((4, 3), bool), **kind),
        lambda **kind: js.cross_entropy(Z, np.array([0, 3]), **kind),
        lambda **kind: js.regularized_argmax(Z, 1.5, **kind),
        lambda **kind: js.softmax(np.zeros((2, 0), np.float32), **kind),
    ],
)
def test_mistakes_are_answered_as_ever(call):
    """The same error, whatever the implementation."""
    with pytest.raises((ValueError, TypeError)) as plain:
        call()
    with pytest.raises(type(plain.value)) as kernel:
        call(implementation="pallas")
    assert str(kernel.value) == str(plain.value)


def test_naming_xla_changes_nothing():
    np.testing.assert_array_equal(js.softmax(Z, implementation="xla"), js.softmax(Z))
