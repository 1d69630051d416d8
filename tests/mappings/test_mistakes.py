"""Valid arguments, and error messages for all others."""

import functools
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jsoftmax as js

INF, NAN = np.inf, np.nan
near = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
WITH_ALPHA = [js.entmax, js.smoothmax, js.entropy, js.binary_entmax, js.entmax_sparse, js.normmax]


@pytest.mark.parametrize("alpha", [0.0, -1.5, NAN, 0])
@pytest.mark.parametrize("function", WITH_ALPHA)
def test_an_order_out_of_range_is_an_error_where_it_is_known(function, alpha):
    arguments = (np.ones(3), 2) if function is js.entmax_sparse else (np.ones(3),)
    for given in (alpha, np.float32(alpha), np.array(alpha)):
        with pytest.raises(ValueError, match=rf"jsoftmax.{function.__name__}: `alpha` must be"):
            function(*arguments, alpha=given)
    with pytest.raises(ValueError, match=rf"jsoftmax.{function.__name__}.*alpha"):
        function(*arguments, alpha=np.array([alpha]))


@pytest.mark.parametrize("alpha", [0.0, -1.5, NAN])
@pytest.mark.parametrize("function", WITH_ALPHA)
def test_an_order_out_of_range_is_nan_where_it_is_traced(function, alpha):
    """In its own row, whether it is traced or an array."""
    alphas = jnp.array([[alpha], [1.5]])
    z = np.array([[1.0, 2.0, 0.0]] * 2)
    if function is js.entmax_sparse:
        function = functools.partial(lambda z, alpha: js.entmax_sparse(z, 2, alpha=alpha).values)
    for call in (function, jax.jit(function)):
        result = np.asarray(call(z, alphas))
        assert np.isnan(result[0]).all()
        assert np.isfinite(result[1]).all()


def test_normmax_needs_an_order_above_one():
    for alpha in (1.0, 0.5):
        with pytest.raises(ValueError, match=r"jsoftmax.normmax: `alpha` must be above 1"):
            js.normmax(np.ones(3), alpha)
        assert np.isnan(js.normmax(np.ones(3), jnp.array(alpha))).all()


def test_an_axis_given_as_the_order_is_asked_about():
    for function in (js.entmax, js.normmax, js.smoothmax):
        with pytest.raises(ValueError, match=r"Did you mean axis=-1\?"):
            function(np.ones((2, 3)), -1)


@pytest.mark.parametrize("k", [0, -1, 3.5, 4, NAN])
@pytest.mark.parametrize("function", [js.topk_entmax, js.topk_sigmoid])
def test_a_mass_out_of_range_is_an_error_where_it_is_known_and_nan_where_not(function, k):
    for given in (k, np.array([[k]])):
        with pytest.raises(ValueError, match=rf"jsoftmax.{function.__name__}: `k` must be above 0"):
            function(np.ones((1, 3)), given)
    assert np.isnan(function(np.array([1.0, 2.0, 0.0]), jnp.array(float(k)))).all()


def test_caps_without_room_are_an_error_where_they_are_known_and_nan_where_not():
    z = np.array([1.0, 2.0, 0.0])
    for caps in (0.3, np.array([0.2, 0.3, 0.4])):
        with pytest.raises(ValueError, match=r"jsoftmax.capped_entmax: the caps in `upper` sum to"):
            js.capped_entmax(z, caps)
        assert np.isnan(js.capped_entmax(z, jnp.asarray(caps))).all()
    with pytest.raises(ValueError, match="must be at least 0"):
        js.capped_entmax(z, np.array([1.0, 1.0, -0.1]))
    near(js.capped_entmax(z, 1 / 3), np.full(3, 1 / 3))
    near(js.capped_entmax(z, np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])
    near(
        js.capped_entmax(z, np.array([1.0, 0.0, 1.0])), js.entmax(z, where=np.array([1, 0, 1]) > 0)
    )


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


MASKED = [js.softmax, js.log_softmax, js.entmax, js.sparsemax, js.normmax, js.logsumexp, js.softmin]
MASKED += [js.hardmax, js.smoothmax, js.soft_argmax, js.entropy, js.boltzmann, js.heat_capacity]


@pytest.mark.parametrize("function", MASKED)
def test_a_mask_with_more_dimensions_than_the_scores_is_an_error(function):
    """jax.nn gives wrong numbers."""
    with pytest.raises(ValueError, match=shapes(function, "where", (2, 2, 3), (2, 3))):
        function(np.ones((2, 3)), where=np.ones((2, 2, 3), bool))


def shapes(function, argument, wrong, right):
    """The words that a message about shapes must contain, in this order."""
    name = re.escape(f"jsoftmax.{function.__name__}")
    return f"{name}.*`{argument}`.*{re.escape(str(wrong))}.*{re.escape(str(right))}"


@pytest.mark.parametrize("function", MASKED)
def test_a_mistake_is_answered_with_function_argument_and_remedy(function, unchecked):
    z = np.ones((2, 3))
    name = rf"jsoftmax.{function.__name__}: "
    argument = {
        "entropy": "probabilities",
        "boltzmann": "energies",
        "heat_capacity": "energies",
    }.get(function.__name__, "logits")
    with pytest.raises(ValueError, match=shapes(function, "where", (4,), (2, 3))):
        function(z, where=np.ones(4, bool))
    with pytest.raises(TypeError, match=name + "`where` has dtype float64.*boolean"):
        function(z, where=np.ones((2, 3)))
    with pytest.raises(TypeError, match=name + f"`{argument}` has dtype complex"):
        function(z * 1j)
    with pytest.raises(ValueError, match=name + f".*axis 2 is out of range for `{argument}`.*2, 3"):
        function(z, axis=2)
    with pytest.raises(ValueError, match=name + ".*none twice"):
        function(z, axis=(0, -2))
    with pytest.raises(TypeError, match=name + "`axis` must be an int"):
        function(z, axis=1.0)
    with pytest.raises(ValueError, match=name + f"`{argument}` is a single number"):
        function(1.0)


@pytest.mark.parametrize("name", ["alpha", "temperature"])
def test_a_parameter_that_does_not_fit_its_rows_is_answered_with_both_shapes(name):
    z = np.ones((2, 3))
    with pytest.raises(ValueError, match=shapes(js.entmax, name, (5, 1), (2, 3))):
        js.entmax(z, **{name: jnp.ones((5, 1))})
    with pytest.raises(ValueError, match=rf"`{name}`.*\(1, 3\).*size 1 along the class axis"):
        js.entmax(z, **{name: jnp.ones(3)})
    with pytest.raises(ValueError, match=r"`k`.*\(1, 3\).*size 1 along the class axis"):
        js.topk_entmax(z, jnp.ones(3))
    with pytest.raises(ValueError, match=shapes(js.capped_entmax, "upper", (4,), (2, 3))):
        js.capped_entmax(z, jnp.ones(4))
    with pytest.raises(ValueError, match=shapes(js.soft_argmax, "coordinates", (4,), (2, 3))):
        js.soft_argmax(z, np.ones(4))


def test_the_size_of_the_sparse_form_is_checked(unchecked):
    for size in (0, -3):
        with pytest.raises(ValueError, match=r"jsoftmax.entmax_sparse: `size` must be at least 1"):
            js.entmax_sparse(np.ones(3), size)
    for size in (2.0, True, jnp.array(2)):
        with pytest.raises(TypeError, match="entmax_sparse: `size` must be an integer"):
            js.entmax_sparse(np.ones(3), size)
    with pytest.raises(ValueError, match=r"jsoftmax.entmax_sparse: `axis` must be a single axis"):
        js.entmax_sparse(np.ones((2, 3)), 2, axis=(0, 1))


def test_lists_and_numbers_of_python_and_numpy_will_do(unchecked):
    """Lists too, which the annotations leave out."""
    near(js.softmax([1.0, 2.0, 8.0]), js.softmax(np.array([1.0, 2, 8])))
    near(js.softmax([1, 2, 8]), js.softmax(np.array([1.0, 2, 8])))
    near(
        js.softmax([1, 2, 8], where=[True, False, True]),
        [1 / (1 + np.exp(7)), 0, 1 / (1 + np.exp(-7))],
    )
    for number in (1.5, np.float32(1.5), np.array(1.5), jnp.array(1.5), [1.5]):
        near(js.entmax([1.0, 2.0], number), js.entmax(np.array([1.0, 2.0])))
        near(js.softmax([1.0, 2.0], temperature=number), js.softmax(np.array([1.0, 2]) / 1.5))
    for number in (2, np.int32(2), jnp.array(2), True + 1):
        near(js.entmax([1.0, 2.0], number), js.sparsemax([1.0, 2.0]))
        near(js.topk_entmax([1.0, 2.0, 3.0], number), js.topk_entmax([1.0, 2.0, 3.0], 2.0))


def test_the_first_arguments_are_those_of_jax_nn():
    z = np.random.default_rng(17).standard_normal((3, 4))
    where = np.array([True, False, True, True])
    near(js.softmax(z, 0), jax.nn.softmax(z, 0))
    near(js.softmax(z, -1, where), jax.nn.softmax(z, -1, where))
    near(js.softmax(z, (0, 1)), jax.nn.softmax(z, (0, 1)))
    near(js.log_softmax(z, 0), jax.nn.log_softmax(z, 0))
    near(js.logsumexp(z, 1, keepdims=True), jax.nn.logsumexp(z, 1, keepdims=True))
