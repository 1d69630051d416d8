"""The losses: smoothing, class weights, z-loss, and the class axis."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jsoftmax import cross_entropy
from tests.losses.loss_helpers import (
    CASES,
    CLASSES,
    FORMS,
    INF,
    KINDS,
    LABELS,
    LOGITS,
    ONE_HOT,
    SOME,
    WIDE,
    WIDE_TARGETS,
    assert_close,
    by_kind,
    expected,
    on_labels,
)


@by_kind(KINDS)
def test_smoothing_is_spread_over_the_unmasked_classes(name):
    smoothed = 0.7 * ONE_HOT + 0.3 * SOME / SOME.sum(-1, keepdims=True)
    loss, gradient = on_labels(name, where=SOME, smoothing=0.3)
    value, wanted = expected(name, LOGITS, smoothed, SOME)
    assert_close(loss, value)
    assert_close(gradient, wanted)


@by_kind(KINDS)
def test_class_weights_multiply_the_loss_of_their_class(name):
    """Each −log p in cross-entropy, elsewhere the loss by ⟨w, y⟩; a weight of 0 beats even ∞."""
    weights = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
    smoothed = 0.7 * ONE_HOT + 0.3 / CLASSES
    loss, gradient = on_labels(name, smoothing=0.3, weights=weights)
    value, wanted = expected(name, LOGITS, smoothed, weights=weights)
    assert_close(loss, value)
    assert_close(gradient, wanted)
    z = LOGITS.copy()
    z[2, LABELS[2]] = -INF
    loss, gradient = on_labels(name, z, weights=weights)
    assert loss[2] == 0
    assert not gradient[2].any()


def test_z_loss_pulls_the_log_partition_to_zero():
    """λ (log Σ eᶻ)², with the gradient 2 λ log Σ eᶻ · p; both 0 in a fully masked row."""
    z = LOGITS.copy()
    z[5] = -INF

    @jax.jit
    def with_strength(strength):
        def total(z):
            loss = cross_entropy(z, jnp.asarray(LABELS), where=SOME, z_loss=strength)
            return loss.sum(), loss

        return jax.grad(total, has_aux=True)(z)

    (gradient, loss), (d_base, base) = with_strength(0.25), with_strength(0.0)
    inside = np.where(SOME, z, -INF)
    with np.errstate(divide="ignore"):
        level = np.log(np.exp(inside).sum(-1))
    level[5] = 0
    assert_close(loss - base, 0.25 * level**2)
    p = np.exp(inside - level[:, None])
    assert_close(gradient - d_base, 0.5 * level[:, None] * p, atol=1e-12)
    fixed = cross_entropy(z, LABELS, where=SOME, z_loss=0.25)
    assert_close(fixed, loss)


@by_kind(FORMS)
def test_any_axis_and_axes_of_classes(name):
    """Classes on several axes are numbered row-major."""
    loss = CASES[name].loss
    z, labels = jnp.asarray(WIDE[:, :6]), jnp.array([0, 5, 2, 4, 1, 3])
    y = jax.nn.one_hot(labels, 6)

    @jax.jit
    def everywhere(z):
        folded = z.reshape(6, 2, 3).swapaxes(0, 1)
        flat = loss(z, labels)
        return (
            loss(z.T, labels, axis=0) - flat,
            loss(z.T, y.T, axis=-2) - flat,
            loss(folded, labels, axis=(0, 2)) - flat,
            loss(folded, y.reshape(6, 2, 3).swapaxes(0, 1), axis=(-1, 0)) - flat,
        )

    for difference in everywhere(z):
        assert_close(difference, np.zeros(6), atol=1e-13)


@by_kind(FORMS)
def test_classes_split_over_an_axis_by_name(name):
    """Labels count over all the parts; distributions, masks and weights are split as the scores."""
    case = CASES[name].loss
    labels, y = jnp.array([0, 5, 2, 9, 7, 4]), jnp.asarray(WIDE_TARGETS)
    w = jnp.linspace(0.5, 1.5, 10)

    @jax.jit
    def both(z):
        def whole(z):
            loss = case(z, labels, label_smoothing=0.1, class_weights=w), case(z, y)
            return sum(x.sum() for x in loss), loss

        def part(z, y, w):
            return (
                case(z, labels, label_smoothing=0.1, class_weights=w, axis_name="parts"),
                case(z, y, axis_name="parts"),
            )

        def split(z):
            parts = (x.reshape(-1, 2, 5).swapaxes(0, 1) for x in (z, y))
            loss = jax.vmap(part, axis_name="parts")(*parts, w.reshape(2, 5))
            return sum(x[0].sum() for x in loss), jax.tree.map(lambda x: x[1], loss)

        return jax.grad(whole, has_aux=True)(z), jax.grad(split, has_aux=True)(z)

    whole, split = both(jnp.asarray(WIDE))
    jax.tree.map(assert_close, split, whole)


@by_kind(FORMS)
def test_rows_alone_and_uncompiled_give_the_same(name):
    loss, gradient = on_labels(name)
    labels = jnp.asarray(LABELS)
    rows = jax.jit(jax.vmap(jax.value_and_grad(CASES[name].loss)))(jnp.asarray(LOGITS), labels)
    chex.assert_trees_all_close(rows, (loss, gradient), rtol=1e-13, atol=1e-15)
    assert_close(CASES[name].loss(LOGITS[3], int(LABELS[3])), loss[3], rtol=1e-13)
