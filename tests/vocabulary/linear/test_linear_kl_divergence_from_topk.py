"""Divergences from a teacher given as top-k, against whole rows in float64 numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js

TOKENS, WIDTH, CLASSES, K = (3, 2), 4, 11, 3
KINDS = [
    ("forward", "class"), ("reverse", "class"), ("jeffreys", "class"), ("jensen_shannon", "class"),
    ("forward", "renormalised"), ("jensen_shannon", "renormalised"),
]  # fmt: skip
BLOCKS = {"whole": {}, "ragged": {"block_tokens": 4, "block_classes": 3}}

rng = np.random.default_rng(0)
H, W = rng.standard_normal((*TOKENS, WIDTH)), rng.standard_normal((WIDTH, CLASSES))
B = rng.standard_normal(CLASSES)
IDS = rng.permuted(np.broadcast_to(np.arange(CLASSES), (*TOKENS, CLASSES)), axis=-1)[..., :K]
SHARES = rng.dirichlet(np.ones(K + 1), TOKENS)[..., :K]
LOG_P = np.log(SHARES)


def options(direction, rest="class"):
    weight = 0.3 if direction == "jensen_shannon" else None
    return {"direction": direction, "rest": rest, "weight": weight}


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(-1)


def whole(z, ids, shares, direction, rest):
    """The divergence of k + 1 events, formed from whole rows."""
    q = np.exp(z - z.max(-1, keepdims=True))
    q /= q.sum(-1, keepdims=True)
    own = np.take_along_axis(q, ids, -1)
    q = np.concatenate([own, 1 - own.sum(-1, keepdims=True)], -1)
    left = 1 - shares.sum(-1, keepdims=True)
    if rest == "renormalised":
        shares, left = shares / shares.sum(-1, keepdims=True), 0 * left
    p = np.concatenate([shares, left], -1)
    m = 0.3 * p + 0.7 * q
    if direction == "jensen_shannon":
        return 0.3 * kl(p, m) + 0.7 * kl(q, m)
    return (direction != "reverse") * kl(p, q) + (kl(q, p) if direction != "forward" else 0)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("direction, rest", KINDS)
def test_it_is_that_of_whole_rows(direction, rest, blocks):
    where = rng.random((*TOKENS, CLASSES)) < 0.8
    np.put_along_axis(where, IDS, True, -1)
    t = rng.uniform(0.5, 2, (*TOKENS, 1))
    z = np.where(where, 2 * np.tanh((H @ W + B) / 2) / t, -np.inf)
    found = js.linear_kl_divergence_from_topk(
        H, W.T, IDS, LOG_P, **options(direction, rest), bias=B, where=where,
        temperature=jnp.asarray(t), logits_soft_cap=2.0, class_axis=0, **BLOCKS[blocks],
    )  # fmt: skip
    expected = whole(z, IDS, SHARES, direction, rest)
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("direction, rest", KINDS)
def test_it_is_differentiable_in_both_modes_and_twice(direction, rest, blocks):
    def divergence(h, w, b, t):
        return js.linear_kl_divergence_from_topk(
            h, w, IDS, LOG_P, bias=b, temperature=t, **options(direction, rest), **BLOCKS[blocks]
        )

    arguments = H, W, B, np.float64(1.4)
    close = {"rtol": 1e-4, "atol": 1e-4, "eps": 1e-5}
    check_grads(divergence, arguments, order=2, modes=("fwd", "rev"), **close)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_ten_thousand_rows_are_those_of_float64(direction):
    """Logarithms are off by ε |log p|, which D = Σ p ψ(u) multiplies by |q − p|."""
    local = np.random.default_rng(1)
    z = (4 * local.standard_normal((10_000, 12))).astype(np.float32)
    ids = local.permuted(np.broadcast_to(np.arange(12), (10_000, 12)), axis=-1)[:, :4]
    log_p = np.log(local.dirichlet(np.ones(5), 10_000)[:, :4]).astype(np.float32)
    eye = jnp.eye(12, dtype=jnp.float32)
    found = js.linear_kl_divergence_from_topk(z, eye, ids, log_p, direction=direction)
    expected = whole(np.float64(z), ids, np.exp(np.float64(log_p)), direction, "class")
    eps = float(np.finfo(np.float32).eps)
    # The rest P of a teacher in float32 is off by ε, and log P by ε/P.
    left = 1 - np.exp(np.float64(log_p)).sum(-1)
    scale = 1 + np.maximum(z.max(-1) - z.min(-1), -log_p.min(-1)) + 1 / left
    assert (found >= 0).all()
    assert (np.abs(np.asarray(found) - expected) <= 8 * eps * (scale + expected)).all()


def test_all_classes_leave_the_divergence_of_whole_rows():
    ids = np.broadcast_to(np.arange(CLASSES), (*TOKENS, CLASSES))
    log_p = jax.nn.log_softmax(jnp.asarray(H[..., ::-1] @ W))
    found = js.linear_kl_divergence_from_topk(H, W, ids, log_p)
    expected = js.linear_kl_divergence(H[..., ::-1], W, H, W)
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rest", ["class", "renormalised"])
def test_a_list_is_filled_up_by_log_probabilities_of_minus_infinity(rest):
    ids = np.concatenate([IDS, np.full((*TOKENS, 1), -1)], -1)
    log_p = np.concatenate([LOG_P, np.full((*TOKENS, 1), -np.inf)], -1)
    found, slope = jax.value_and_grad(
        lambda h: js.linear_kl_divergence_from_topk(h, W, ids, log_p, rest=rest).sum()
    )(H)
    expected, right = jax.value_and_grad(
        lambda h: js.linear_kl_divergence_from_topk(h, W, IDS, LOG_P, rest=rest).sum()
    )(H)
    chex.assert_trees_all_close((found, slope), (expected, right), rtol=1e-12, atol=1e-14)


def test_a_split_vocabulary_is_a_whole_one():
    h, w = H.reshape(6, WIDTH), np.concatenate([W, W[:, :1]], 1)
    ids, log_p = IDS.reshape(6, K), LOG_P.reshape(6, K)
    parts = jnp.stack(jnp.split(jnp.asarray(w), 4, axis=1))
    found = jax.vmap(
        lambda w: js.linear_kl_divergence_from_topk(h, w, ids, log_p, axis_name="v"), axis_name="v"
    )(parts)
    expected = js.linear_kl_divergence_from_topk(h, w, ids, log_p)
    chex.assert_trees_all_close(found, jnp.stack([expected] * 4), rtol=1e-12)


def test_edges():
    log_p = LOG_P.copy()
    log_p[0, 0] = -np.inf  # the teacher names no class
    where = np.ones((*TOKENS, 1), bool)
    where[0, 1] = False
    ids = jnp.asarray(IDS).at[1, 0, 0].set(CLASSES)

    def divergence(h):
        return js.linear_kl_divergence_from_topk(h, W, ids, log_p, where=where)

    found = divergence(H)
    assert found[0].tolist() == [0, 0] and np.isnan(found[1, 0]) and (found[2] > 0).all()
    slope = jax.grad(lambda h: divergence(h)[0].sum() + divergence(h)[2].sum())(H)
    chex.assert_tree_all_finite(slope)
    assert not slope[0].any()
    assert js.linear_kl_divergence_from_topk(
        jnp.zeros((0, WIDTH)), W, jnp.zeros((0, 2), int), jnp.zeros((0, 2))
    ).shape == (0,)
    narrow = js.linear_kl_divergence_from_topk(
        jnp.asarray(H, jnp.bfloat16), jnp.asarray(W, jnp.bfloat16), IDS, LOG_P
    )
    assert narrow.dtype == jnp.float32


MISTAKES = {
    "`rest` must be": {"rest": "dropped"},
    "is \\+∞ with rest='renormalised'": {"rest": "renormalised", "direction": "reverse"},
    "both need the shape": {"log_probs": LOG_P[..., :2]},
    "direction.*'backward'": {"direction": "backward"},
    "is out of range": {"ids": IDS + CLASSES},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named(message):
    given = {"features": H, "kernel": W, "ids": IDS, "log_probs": LOG_P} | MISTAKES[message]
    with pytest.raises(ValueError, match="linear_kl_divergence_from_topk: .*" + message):
        js.linear_kl_divergence_from_topk(**given)
