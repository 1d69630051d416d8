"""Masked rows, and valid arguments of the losses."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from jsoftmax import cross_entropy, log_softmax, logsumexp, topk_entmax_loss
from jsoftmax.vocabulary import linear_cross_entropy
from tests.losses.loss_helpers import LABELLED, assert_close, by_kind

Z = np.random.default_rng(5).normal(size=(3, 4))
Y = np.random.default_rng(6).dirichlet(np.ones(4), size=3)


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@by_kind(LABELLED)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_row_without_target_mass_does_not_count(name, smoothing):
    """Loss 0 and gradient 0, whatever its logits are; the other rows are as they were."""
    y = Y.copy()
    y[1] = 0
    z = Z.copy()
    z[1, 2] = np.nan

    def total(z, y):
        loss = LABELLED[name](z, y, label_smoothing=smoothing, class_weights=np.arange(1.0, 5))
        return loss.sum(), loss

    gradients, loss = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(z, y)
    others = np.array([0, 2])
    wanted, right = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(Z[others], Y[others])
    assert loss[1] == 0
    assert_close(loss[others], right)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert (gradient[1] == 0).all()
        assert_close(gradient[others], other)


@by_kind(LABELLED)
def test_what_is_no_array_of_numbers_is_named_as_the_mistake_of_its_argument(name, unchecked):
    """As text, an object, a ragged list."""
    loss, labels = LABELLED[name], np.zeros(3, int)
    wrong = ["hot", object(), ["x", "y", "z"], [[1], [1, 2]], np.array([None] * 3), lambda z: z]
    for x in [*wrong, None]:
        for argument, call in {
            "logits": lambda x: loss(x, labels),
            "targets": lambda x: loss(Z, x),
        }.items():
            with pytest.raises((TypeError, ValueError), match=rf"jsoftmax\.{name}: `{argument}`"):
                call(x)
    options = ["where", "ignore_index", "label_smoothing", "class_weights"]
    if name == "cross_entropy":
        options += ["z_loss", "temperature", "logits_soft_cap"]
    elif name in ("entmax_loss", "normmax_loss"):
        options += ["alpha"]
    if name == "fenchel_young_loss":
        options += ["regularizer"]
    for option in options:
        for x in wrong:
            with pytest.raises((TypeError, ValueError), match=rf"jsoftmax\.{name}: `{option}`"):
                loss(Z, labels, **{option: x})


def test_the_labels_of_a_k_hot_loss_are_numbers(unchecked):
    for x in ("hot", None, object(), [[0], [0, 1]]):
        with pytest.raises((TypeError, ValueError), match=r"jsoftmax\.topk_entmax_loss: `labels`"):
            topk_entmax_loss(Z, x)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64"])
def test_an_ignored_label_may_be_traced(dtype):
    """Also one that the dtype of the labels cannot hold, which then ignores nobody."""
    labels = jnp.array([1, 3, 2], dtype)
    ignoring = jax.jit(lambda n: cross_entropy(Z, labels, ignore_index=n))
    plain = cross_entropy(Z, labels)
    for number in (3, -1, 253, 259, 2**32 + 3):
        wanted = jnp.where(labels.astype("int64") == number, 0, plain)
        assert_close(ignoring(jnp.int64(number)), wanted)
        assert_close(cross_entropy(Z, labels, ignore_index=number), wanted)
    assert_close(ignoring(jnp.int8(3)), jnp.where(labels == 3, 0, plain))
    outside = jnp.array([1, 3, 100], dtype)
    counted = jax.jit(lambda n: cross_entropy(Z, outside, ignore_index=n))
    assert np.isfinite(counted(jnp.int64(100))).all()
    assert np.isnan(counted(jnp.int64(3))[2])


def test_an_ignored_label_is_one_integer(unchecked):
    for wrong in (1.0, True, [1, 2], jnp.ones(3, int)):
        with pytest.raises(TypeError, match=r"`ignore_index` has dtype .*; give it one integer"):
            cross_entropy(Z, np.array([0, 1, 2]), ignore_index=wrong)


def test_a_smoothing_out_of_range_is_an_error_where_it_is_known_and_nan_where_not():
    labels, smoothing = np.array([0, 1, 2]), np.array([[0.1], [1.5], [-0.5]])
    with pytest.raises(ValueError, match="`label_smoothing` must be from 0 to 1"):
        cross_entropy(Z, labels, label_smoothing=smoothing)
    for call in (cross_entropy, jax.jit(cross_entropy)):
        loss = call(Z, jnp.asarray(labels), label_smoothing=jnp.asarray(smoothing))
        assert_close(loss[0], cross_entropy(Z[0], 0, label_smoothing=0.1))
        assert np.isnan(loss[1:]).all()


def test_a_negative_weight_is_an_error_where_it_is_known_and_counts_as_it_is_where_not():
    labels, weights = np.array([0, 1, 2]), np.array([1.0, -2.0, 1.0, 1.0])
    for wrong in (weights, np.where(weights < 0, np.nan, weights)):
        with pytest.raises(ValueError, match="`class_weights` must be at least 0, got"):
            cross_entropy(Z, labels, class_weights=wrong)
    signed = cross_entropy(Z, labels, class_weights=jnp.asarray(weights))
    assert_close(signed, weights[labels] * cross_entropy(Z, labels))


def test_a_tuple_of_axes_numbers_the_classes_in_its_order():
    """As in optax."""
    z = Z.reshape(3, 2, 2)
    for axis in ((1, 2), (2, 1), (-1, 1)):
        moved = jnp.moveaxis(z, axis, (1, 2)).reshape(3, 4)
        for label in range(4):
            labels = np.full(3, label)
            wanted = optax.softmax_cross_entropy_with_integer_labels(moved, labels)
            assert_close(cross_entropy(z, labels, axis), wanted)
    assert_close(cross_entropy(z[0], 1, axis=None), cross_entropy(z[0].reshape(4), 1))
    assert_close(cross_entropy(z[0], 1, axis=(1, 0)), cross_entropy(z[0].T.reshape(4), 1))


@pytest.mark.parametrize(
    ("temperature", "cap"), [(0.7, None), (np.array([[0.5], [1.0], [2.0]]), 0.8)]
)
def test_a_temperature_and_a_soft_cap_are_those_of_the_linear_form(temperature, cap):
    """Values, and derivatives in the logits and the temperature."""
    labels, weights = np.array([1, 3, 2]), np.arange(1.0, 5)
    options = {"label_smoothing": 0.1, "class_weights": weights, "z_loss": 0.01}

    def dense(z, t):
        loss = cross_entropy(z, labels, temperature=t, logits_soft_cap=cap, **options)
        return loss.sum(), loss

    def linear(z, t):
        capped = z if cap is None else cap * jnp.tanh(z / cap)
        loss = linear_cross_entropy(capped, jnp.eye(4), labels, temperature=t, **options)
        return loss.sum(), loss

    t = jnp.asarray(temperature)
    got, wanted = (
        jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True))(Z, t) for f in (dense, linear)
    )
    jax.tree.map(assert_close, got, wanted)


def test_an_excluded_logit_stays_excluded_under_the_cap(unchecked):
    z = np.where(np.arange(4) == 2, -np.inf, Z)
    labels = np.array([0, 1, 3])
    got, slope = jax.value_and_grad(lambda z: cross_entropy(z, labels, logits_soft_cap=0.8).sum())(
        z
    )
    assert_close(got, cross_entropy(0.8 * np.tanh(z[:, [0, 1, 3]] / 0.8), np.arange(3)).sum())
    assert (slope[:, 2] == 0).all()
    assert cross_entropy(z, np.full(3, 2), logits_soft_cap=0.8).tolist() == [np.inf] * 3
    for wrong in (0.0, -1.0, jnp.ones(())):
        with pytest.raises(ValueError, match="`logits_soft_cap` must be a positive number"):
            cross_entropy(z, labels, logits_soft_cap=wrong)


def test_the_temperature_has_its_limits():
    z, labels = np.array([[2.0, 1.0, 2.0]] * 3), np.array([0, 1, 2])
    cold = cross_entropy(z, labels, temperature=0)
    assert_close(cold, [np.log(2), np.inf, np.log(2)])
    for t in (0.3, -0.3):
        assert_close(
            cross_entropy(z, labels, temperature=t),
            -np.asarray(log_softmax(z / t))[range(3), labels],
        )
    for t in (0.5, -0.5):
        with_level = cross_entropy(z, labels, temperature=t, z_loss=0.1)
        wanted = cross_entropy(z / t, labels) + 0.1 * logsumexp(z / t) ** 2
        assert_close(with_level, wanted)
    slope = jax.jit(jax.grad(lambda t: cross_entropy(z, labels, temperature=t).sum()))
    for t in (1e-5, 1e-100, 1e-300, 1e-320):
        assert not np.isnan(slope(t))
