"""Excluded classes: mass and gradient exactly 0, by every kind of mask and with every option."""

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
    nce_loss,
    negative_sampling_loss,
    sampled_softmax_loss,
)
from jsoftmax.vocabulary import Candidates, importance_sampling_loss
from tests.marks import some
from tests.vocabulary.linear.linear_helpers import CLASSES, FEATURES, KERNEL, TOKENS, assert_close

IN = np.arange(CLASSES) % 3 > 0
FEW = np.flatnonzero(IN)
INSIDE = np.arange(TOKENS) % len(FEW)  # labels among the classes that take part
LABELS = FEW[INSIDE]
HUGE = float(jnp.finfo(jnp.float64).max)

# The last gives scores that overflow to −∞, of features and kernel that are finite.
H, W = (
    jnp.concatenate([FEATURES, jnp.ones((TOKENS, 1)) * 2], axis=1),
    jnp.pad(KERNEL, ((0, 1), (0, 0))),
)
WAYS = {
    "where": (W, {"where": IN}),
    "where, of each token": (W, {"where": jnp.broadcast_to(IN, (TOKENS, CLASSES))}),
    "bias": (W, {"bias": jnp.where(IN, 0, -jnp.inf)}),
    "score": (W.at[-1].set(jnp.where(IN, 0, -HUGE)), {}),
}
OPTIONS = {
    "none": {},
    "cap": {"logits_soft_cap": 1.0},
    "temperatures": {"temperature": jnp.linspace(0.5, 2, TOKENS)[:, None], "logits_soft_cap": 1.0},
    "hot": {"temperature": jnp.full((TOKENS, 1), jnp.inf)},
}
# All that there is at once, and in the slow lane one after another.
EACH = [
    pytest.param(name, marks=[] if name == "temperatures" else pytest.mark.slow) for name in OPTIONS
]
LOSSES = {
    "cross-entropy": linear_cross_entropy,
    "in blocks": lambda *x, **o: linear_cross_entropy(*x, **o, block_tokens=3, block_classes=4),
    "sum": linear_cross_entropy_sum,
    "entmax": linear_entmax_loss,
    "entmax, α = ∞": lambda *x, **o: linear_entmax_loss(*x, alpha=jnp.inf, **o),
}
ALL, ONLY = (Candidates(np.arange(n), 0.0, np.zeros(TOKENS)) for n in (CLASSES, len(FEW)))
SAMPLED = {
    "sampled softmax": sampled_softmax_loss,
    "importance sampling": importance_sampling_loss,
    "NCE": nce_loss,
    "negative sampling": negative_sampling_loss,
}


def slopes_of(loss, kernel, labels, **options):
    bias = options.pop("bias", jnp.zeros(kernel.shape[1]))

    def total(h, kernel, bias):
        return loss(h, kernel, labels, bias=bias, **options).sum()

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(H, kernel, bias)


def assert_excluded(found, expected):
    """The loss of the classes that take part alone, and nothing for the others."""
    value, (h, kernel, bias) = found
    assert_close(value, expected[0], rtol=1e-10)
    assert_close(h, expected[1][0], rtol=1e-10)
    assert_close(kernel[:, IN], expected[1][1], rtol=1e-10)
    assert (kernel[:, ~IN] == 0).all() and (bias[~IN] == 0).all()


@pytest.mark.parametrize("option", EACH)
@pytest.mark.parametrize("way", some(WAYS, ["where", "bias"]))
def test_no_loss_counts_an_excluded_class(way, option):
    kernel, given = WAYS[way]
    for loss in LOSSES.values():
        found = slopes_of(loss, kernel, LABELS, **given, **OPTIONS[option])
        assert_excluded(found, slopes_of(loss, W[:, IN], INSIDE, **OPTIONS[option]))


@pytest.mark.parametrize("option", EACH)
@pytest.mark.parametrize("way", some(["bias", "score"], ["bias"]))
def test_no_sampled_loss_counts_an_excluded_candidate(way, option):
    kernel, given = WAYS[way]
    for loss in SAMPLED.values():

        def of(candidates, loss=loss):
            return lambda h, kernel, y, **options: loss(h, kernel, y, candidates, **options)

        found = slopes_of(of(ALL), kernel, LABELS, **given, **OPTIONS[option])
        assert_excluded(found, slopes_of(of(ONLY), W[:, IN], INSIDE, **OPTIONS[option]))


@pytest.mark.parametrize("option", [*EACH, "cold"])
@pytest.mark.parametrize("way", some(WAYS, ["where", "score"]))
def test_an_excluded_class_is_neither_drawn_nor_found(way, option):
    kernel, given = WAYS[way]
    options = OPTIONS.get(option, {"temperature": jnp.zeros((TOKENS, 1)), "logits_soft_cap": 1.0})
    h = jnp.tile(H, (20, 1))
    many = {
        k: jnp.tile(v, (20, 1)) if jnp.ndim(v) == 2 else v for k, v in (given | options).items()
    }
    drawn = linear_categorical(jax.random.key(0), h, kernel, block_classes=4, **many)
    assert IN[drawn].all()

    def values(h, kernel):
        found = linear_topk(h, kernel, CLASSES, **given, **options)
        return found.values.sum(where=found.values > -jnp.inf), found

    (slopes, d_kernel), found = jax.grad(values, (0, 1), has_aux=True)(H, kernel)
    assert IN[found.classes[:, : len(FEW)]].all()
    assert (found.values[:, len(FEW) :] == -jnp.inf).all()
    assert jnp.isfinite(slopes).all() and (d_kernel[:, ~IN] == 0).all()
