"""The losses: their derivatives of first and second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jsoftmax import (
    Tsallis,
    cross_entropy,
    entmax_loss,
    fenchel_young_loss,
    normmax_loss,
    topk_entmax_loss,
)
from tests.losses import loss_oracles as oracles
from tests.losses.loss_helpers import CLASSES, LOGITS, assert_close
from tests.marks import some


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_hessian_is_the_jacobian_of_the_mapping(alpha):
    """diag(s) − s sᵀ/Σs for s = p^(2−α) on the support, and s = 0 where p is 1 and may not grow."""
    z = jnp.asarray(LOGITS[[0, 3, 4, 5]])
    k_hot = jnp.array([0, 2, 3])
    single, several = (np.asarray(h) for h in hessians(z, k_hot, alpha))
    for i, row in enumerate(z):
        for hessian, k in ((single[i], 1), (several[i], 3)):
            p = np.array(oracles.entmax(row, alpha=alpha, k=k), float)
            s = np.where((p > 0) & (p < 1), np.where(p > 0, p, 1) ** (2 - alpha), 0)
            wanted = np.diag(s) - np.outer(s, s) / max(s.sum(), 1e-300)
            assert_close(hessian, wanted, rtol=1e-10, atol=1e-13)


@jax.jit
def hessians(z, k_hot, alpha):
    """Of the losses of a label and of three at once, for every row."""
    return (
        jax.vmap(jax.hessian(lambda row: entmax_loss(row, 1, alpha=alpha)))(z),
        jax.vmap(jax.hessian(lambda row: topk_entmax_loss(row, k_hot, alpha=alpha)))(z),
    )


def test_the_hessian_of_normmax_loss_is_the_jacobian_of_normmax():
    """c (I − p 1ᵀ) diag(p^(2−α)) (I − 1 pᵀ) on the support, c = ‖p‖^(α−1)/(α−1)."""
    alpha, z = 3.0, LOGITS[:5]
    hessian = jax.jit(jax.vmap(jax.hessian(lambda row: normmax_loss(row, 1, alpha=alpha))))(z)
    for i, row in enumerate(z):
        p = np.array(oracles.normmax(row, alpha=alpha), float)
        c = (p**alpha).sum() ** ((alpha - 1) / alpha) / (alpha - 1)
        inner = np.diag(np.where(p > 0, np.where(p > 0, p, 1) ** (2 - alpha), 0))
        left = np.eye(CLASSES) - np.outer(p, np.ones(CLASSES))
        assert_close(hessian[i], c * left @ inner @ left.T, rtol=1e-9, atol=1e-12)


def test_the_hessian_of_cross_entropy_is_that_of_logsumexp():
    hessian = jax.jit(jax.vmap(jax.hessian(lambda row: cross_entropy(row, 1))))(LOGITS)
    for i, row in enumerate(LOGITS):
        p = np.array(oracles.entmax(row, alpha=1.0), float)
        assert_close(hessian[i], np.diag(p) - np.outer(p, p), rtol=1e-11)


DIFFERENTIABLE = {
    "cross_entropy": lambda z, y, alpha: cross_entropy(z, y, label_smoothing=alpha / 10),
    "fenchel_young_loss": lambda z, y, alpha: fenchel_young_loss(z, y, Tsallis(alpha)),
    "normmax_loss": lambda z, y, alpha: normmax_loss(z, y, alpha=alpha + 1),
    "topk_entmax_loss": lambda z, y, alpha: topk_entmax_loss(
        z, jnp.array([[0, 2]] * 3), alpha=alpha
    ),
}


@pytest.mark.parametrize("name", some(DIFFERENTIABLE, ["cross_entropy", "fenchel_young_loss"]))
def test_derivatives_of_first_and_second_order_are_right_in_both_modes(name):
    """Of the value and of the gradient beside it; in scores, targets and α, at α = 1 too."""
    z = jnp.asarray([[0.3, -0.4, 0.1, 0.6], [1.0, 0.2, -0.5, 0.3], [0.1, 0.5, 0.2, -3.0]])
    t = jnp.asarray([[0.0, 0.3, -0.2, 0.1], [0.5, -0.1, 0.0, 0.2], [0.1, 0.2, 0.3, -0.3]])
    alpha = jnp.asarray([[0.7], [1.0], [1.6]])

    def weighted(z, t, alpha):
        loss = DIFFERENTIABLE[name](z, jax.nn.softmax(t), alpha)
        return (loss * jnp.array([1.0, -2.0, 0.5])).sum()

    both = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2)))
    check_grads(both, (z, t, alpha), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)
