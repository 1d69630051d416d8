"""An argument that is not an array of numbers: the error names function, argument and remedy."""

import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jsoftmax as js
from tests.mappings.mapping_helpers import ARGUMENTS, call, values

NO_ARRAYS = ["hot", b"hot", object(), ["x", "y"], [[1], [1, 2]], {"x": 1}, np.array(["x"])]
NO_ARRAYS += [np.array([None]), np.array([1.0, None]), 10**400, lambda z: z, ["1.5"]]


@pytest.fixture(autouse=True)
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_is_no_array_of_numbers_is_named_as_the_mistake_of_its_argument(name):
    scores, others = ARGUMENTS[name]
    z = np.zeros((2, 3))
    for wrong in [*NO_ARRAYS, None]:
        with pytest.raises((TypeError, ValueError)) as error:
            call(name, wrong)
        assert re.search(rf"jsoftmax\.{name}: `{scores}` .*; give", str(error.value)), error.value
    for argument in others:
        optional = argument in ("where", "coordinates")
        optional |= argument == "alpha" and name not in ("entmax", "binary_entmax", "normmax")
        for wrong in [*NO_ARRAYS, *([] if optional else [None])]:
            with pytest.raises((TypeError, ValueError)) as error:
                call(name, z, **{argument: wrong})
            message = str(error.value)
            assert re.search(rf"jsoftmax\.{name}: `{argument}` .*give", message, re.I), message


def test_the_remedy_for_an_alpha_of_the_wrong_shape_is_taken():
    z = jnp.array([[0.1, 1.2, 0.9], [0.0, 1.0, 2.0]])
    for name in ("alpha", "temperature"):
        with pytest.raises(ValueError, match=rf"`{name}` has shape \(2,\).*the shape \(2, 1\)"):
            js.entmax(z, **{name: jnp.array([1.5, 2.0])})
        assert js.entmax(z, **{name: jnp.array([[1.5], [2.0]])}).shape == z.shape


def test_a_list_of_traced_numbers_is_an_array():
    z = jnp.array([0.1, 1.2, 0.9])
    at = jax.jit(lambda a: js.entmax(z, [a]))(1.5)
    np.testing.assert_allclose(at, js.entmax(z), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"binary_entmax", "entmax_sparse"}))
def test_an_axis_of_none_is_all_axes(name):
    z = np.arange(6.0).reshape(2, 3) / 6
    np.testing.assert_array_equal(values(name, z, axis=None), values(name, z, axis=(0, 1)))


def test_an_axis_of_none_is_that_of_jax_nn():
    z = np.random.default_rng(3).standard_normal((3, 4))
    for name in ("softmax", "log_softmax", "logsumexp"):
        theirs = getattr(jax.nn, name)(z, axis=None)
        np.testing.assert_allclose(getattr(js, name)(z, axis=None), theirs, rtol=1e-12)


def test_an_index_per_axis_stands_in_the_order_of_the_tuple():
    heat = jnp.zeros((4, 5)).at[2, 3].set(40.0)
    np.testing.assert_allclose(js.soft_argmax(heat, axis=(1, 0)), [3.0, 2.0])
    np.testing.assert_allclose(js.soft_argmax(heat, axis=None), [2.0, 3.0])
