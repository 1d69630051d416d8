"""Log-probabilities of tokens from hidden states, against whole rows in float64 numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from jsoftmax.vocabulary import LogProbTerms


def whole(h, w, y, where=True, temperature=1.0, log_q=0.0, bias=0.0, cap=None):
    """Log-probability, log-partition, entropy and rank by sorting whole rows in float64."""
    z = np.asarray(h, np.float64) @ np.asarray(w, np.float64) + bias
    z = z if cap is None else cap * np.tanh(z / cap)
    z = np.where(where, z / temperature + log_q, -np.inf)
    ordered = np.sort(z, axis=-1)
    top = ordered[..., -1:]
    log_partition = top[..., 0] + np.log(np.exp(ordered - top).sum(-1))
    log_p = z - log_partition[..., None]
    own = np.take_along_axis(z, np.asarray(y)[..., None], -1)
    rank = [len(row) - np.searchsorted(row, x, side="right") for row, x in zip(
        ordered.reshape(-1, z.shape[-1]), own.ravel(), strict=True)]  # fmt: skip
    p = np.exp(log_p)
    entropy = -np.where(p > 0, p * np.where(p > 0, log_p, 0), 0).sum(-1)
    return LogProbTerms(
        own[..., 0] - log_partition, log_partition, entropy, np.reshape(rank, y.shape)
    )


def problem(tokens=(5, 7), width=6, classes=37, seed=0):
    rng = np.random.default_rng(seed)
    h, w = rng.standard_normal((*tokens, width)), rng.standard_normal((width, classes))
    return h, w, rng.integers(0, classes, tokens), rng


def test_ten_thousand_rows_are_those_of_float64():
    h, w, y, _ = problem((10_000,), 16, 300)
    h, w = (np.float32(x) for x in (h, w))
    expected = whole(h, w, y)
    terms = js.linear_log_prob_terms(h, w, y)
    # A product of 16 terms in float32 is off by 16 · 2⁻²⁴ · Σ |h w|, at most 40 here.
    for found, right in zip(terms[:3], expected[:3], strict=True):
        chex.assert_trees_all_close(found, np.float32(right), rtol=1e-6, atol=4e-5)
    close = np.abs(terms.rank - expected.rank)
    assert close.max() <= 1 and (close > 0).mean() < 1e-3  # where two scores differ by rounding
    chex.assert_trees_all_close(js.linear_log_prob(h, w, y), terms.log_prob, rtol=1e-6, atol=4e-6)


def test_every_option_is_that_of_whole_rows():
    h, w, y, rng = problem()
    bias, log_q = rng.standard_normal(37), rng.standard_normal(37)
    where = rng.random((5, 7, 37)) < 0.7
    np.put_along_axis(where, y[..., None], True, -1)
    t = rng.uniform(0.5, 2, (5, 7, 1))
    expected = whole(h, w, y, where, t, log_q, bias, 2.0)
    terms = js.linear_log_prob_terms(
        h, w.T, y, bias=bias, where=where, temperature=jnp.asarray(t), logits_soft_cap=2.0,
        log_prior=log_q, class_axis=0, block_tokens=4, block_classes=5,
    )  # fmt: skip
    for found, right in zip(terms, expected, strict=True):
        chex.assert_trees_all_close(found, np.asarray(right, found.dtype), rtol=1e-9, atol=1e-9)
    assert terms.rank.dtype == jnp.int32


@pytest.mark.parametrize("blocks", [{}, {"block_tokens": 4, "block_classes": 5}])
def test_all_terms_are_differentiable_in_both_modes(blocks):
    h, w, y, rng = problem((3, 2), 4, 11)

    def total(h, w, b, t):
        terms = js.linear_log_prob_terms(h, w, y, bias=b, temperature=t, **blocks)
        alone = js.linear_log_prob(h, w, y, bias=b, temperature=t, **blocks)
        return jnp.sin(terms.log_prob) + terms.log_partition**2 + jnp.exp(terms.entropy) + alone

    arguments = (h, w, rng.standard_normal(11), np.float64(1.3))
    check_grads(total, arguments, order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


def test_ties_do_not_count_and_the_arg_max_has_rank_0():
    w = jnp.array([[3.0, 1.0, 1.0, 0.0, 3.0]])
    terms = js.linear_log_prob_terms(jnp.ones((5, 1)), w, jnp.arange(5))
    assert terms.rank.tolist() == [0, 2, 2, 4, 0]


def test_a_split_vocabulary_is_a_whole_one():
    h, w, y, _ = problem((6,), 4, 12)
    parts = jnp.stack(jnp.split(jnp.asarray(w), 4, axis=1))
    split = jax.vmap(
        lambda w: js.linear_log_prob_terms(h, w, y, axis_name="v"), axis_name="v", out_axes=0
    )(parts)
    expected = js.linear_log_prob_terms(h, w, y)
    for part in range(4):
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=part: x[i], split), expected)


def test_tokens_that_are_left_out_have_0_and_labels_that_are_no_class_nan():
    h, w, _, _ = problem((3,), 4, 12)
    y = jnp.array([2, -100, 40])
    terms = js.linear_log_prob_terms(h, w, y, ignore_index=-100)
    assert terms.log_prob[1] == 0 and not np.signbit(terms.log_prob[1])
    assert np.isnan(terms.log_prob[2]) and terms.rank.tolist()[1:] == [0, -1]
    alone = js.linear_log_prob(h, w, y, ignore_index=-100)
    assert alone[1] == 0 and not np.signbit(alone[1]) and np.isnan(alone[2])
    masked = js.linear_log_prob(h, w, jnp.zeros(3, int), where=jnp.array([[True], [False], [True]]))
    assert masked[1] == 0
    gradient = jax.grad(lambda h: jnp.sum(js.linear_log_prob(h, w, y, ignore_index=-100)[:2]))(h)
    assert not gradient[1].any() and np.isfinite(gradient[:2]).all()


def test_a_target_that_takes_no_part_is_impossible():
    h, w, _, _ = problem((2,), 4, 12)
    where = np.arange(12) > 3
    y = jnp.array([0, 5])
    terms = js.linear_log_prob_terms(h, w, y, where=where)
    assert terms.log_prob[0] == -jnp.inf and terms.rank[0] == 8
    gradient = jax.grad(lambda h: js.linear_log_prob(h, w, y, where=where)[0])(h)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_summed_in_float32(dtype):
    h, w, y, _ = problem((64,), 16, 100)
    h, w = jnp.asarray(h, dtype), jnp.asarray(w, dtype)
    expected = whole(np.asarray(h, np.float64), np.asarray(w, np.float64), y)
    found = js.linear_log_prob(h, w, y)
    assert found.dtype == jnp.float32
    chex.assert_trees_all_close(found, np.float32(expected.log_prob), rtol=1e-5, atol=4e-5)


def test_a_confident_prediction_keeps_its_digits():
    h, w = np.ones((1, 1), np.float32), np.array([[30.0, 0.0, 1.0]], np.float32)
    found = js.linear_log_prob(h, w, np.array([0]))
    chex.assert_trees_all_close(
        found, np.float32(-np.log1p(np.exp(-30) + np.exp(-29)))[None], rtol=1e-6
    )


def test_no_tokens_have_no_results():
    assert js.linear_log_prob(jnp.zeros((0, 3)), jnp.zeros((3, 4)), jnp.zeros(0, int)).shape == (0,)
