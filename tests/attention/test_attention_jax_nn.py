"""Attention instead of jax.nn's: the same names, meaning and numbers, where rows see a key."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js

pytestmark = pytest.mark.slow  # together some minutes

B, T, S, N, H = 2, 7, 9, 4, 3
rng = np.random.default_rng(0)
BIAS = rng.normal(size=(B, N, T, S))
MASK = rng.random((B, 1, T, S)) < 0.7
MASK[..., 0] = True
CASES = {
    "nothing": {},
    "bias, scale, causal": {"bias": BIAS, "scale": 0.7, "is_causal": True},
    "bias for all heads, mask": {"bias": BIAS[:1, :1], "mask": MASK},
    "lengths, bias of keys": {
        "query_seq_lengths": np.array([7, 3], np.int32),
        "key_value_seq_lengths": np.array([5, 9], np.int32),
        "bias": BIAS[:1, :1, :1],
    },
    "window, lengths": {"local_window_size": 2, "query_seq_lengths": np.array([7, 5], np.int32)},
    "two windows, causal, mask of heads": {
        "local_window_size": (3, 1),
        "is_causal": True,
        "mask": np.eye(T, S, dtype=bool) | (rng.random((1, N, T, S)) < 0.7),
    },
}
KEY_HEADS = dict(zip(CASES, (4, 1, 2, 4, 2, 1), strict=True))


def arrays(key_heads, dtype=float):
    rng = np.random.default_rng(1)
    shapes = [(B, T, N, H), (B, S, key_heads, H), (B, S, key_heads, H), (B, T, N, H)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@functools.partial(jax.jit, static_argnums=(0, 1))
def both(case, return_residual, query, key, value, weights):
    """(ours, theirs): the result, and the gradients of ⟨weights, mixtures⟩."""

    def of(function):
        def total(query, key, value, bias):
            out = function(query, key, value, bias, **options, return_residual=return_residual)
            mixtures = out[0] if return_residual else out
            return (mixtures * weights).sum().astype(float), out

        gradient = jax.grad(total, (0, 1, 2, 3) if "bias" in CASES[case] else (0, 1, 2), True)
        return gradient(query, key, value, bias)

    options = CASES[case] | {}
    bias = options.pop("bias", None)
    if bias is not None:
        bias = jnp.asarray(bias, query.dtype)
    return of(js.dot_product_attention), of(jax.nn.dot_product_attention)


# jax.nn takes its softmax in float32, whatever the inputs: scores of at most 5 are off by 5 units
# of 2^-24, and so, relatively, are weights; mixtures and gradients are at most 5, of a few terms.
near = functools.partial(chex.assert_trees_all_close, rtol=0, atol=5 * 10 * 2**-24)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_jax_nn(case):
    ours, theirs = both(case, False, *arrays(KEY_HEADS[case]))
    near(ours, theirs)


@pytest.mark.parametrize("case", ["nothing", "bias, scale, causal"])
def test_the_residual_is_that_of_jax_nn(case):
    """Of the same shape, [batch, queries, heads]; ours can be differentiated."""
    (_, ours), (_, theirs) = both(case, True, *arrays(KEY_HEADS[case]))
    assert ours[1].shape == (B, T, N)
    near(ours, theirs)


def test_without_a_batch_too():
    q, k, v, _ = (x[0] for x in arrays(2))
    near(jax.jit(js.dot_product_attention)(q, k, v), jax.nn.dot_product_attention(q, k, v))


@pytest.mark.parametrize(
    "dtype, unit", [(jnp.float32, 2**-24), (jnp.bfloat16, 2**-8)], ids=["float32", "bfloat16"]
)
def test_in_short_floats_both_differ_by_their_roundings_alone(dtype, unit):
    """jax.nn rounds scores, weights and sums to the dtype."""
    ours, theirs = both("bias, scale, causal", False, *arrays(1, dtype))
    assert all(x.dtype == dtype for x in jax.tree.leaves(ours))
    ours, theirs = jax.tree.map(lambda x: np.asarray(x, float), (ours, theirs))
    near(ours, theirs, atol=5 * 10 * unit)


def test_their_flag_of_the_implementation_is_accepted():
    """jax.nn's "xla" is ours."""
    q, k, v, _ = arrays(4)
    named, unnamed = (
        jax.jit(functools.partial(js.dot_product_attention, implementation=name))(q, k, v)
        for name in ("xla", None)
    )
    chex.assert_trees_all_equal(named, unnamed)


def test_a_row_that_sees_nothing_is_zero_where_theirs_is_the_mean_of_the_masked():
    q, k, v, _ = arrays(4)
    mask = np.ones((B, N, T, S), bool)
    mask[:, :, 3] = False
    ours, theirs = (
        jax.jit(function)(q, k, v, mask=mask)
        for function in (js.dot_product_attention, jax.nn.dot_product_attention)
    )
    np.testing.assert_allclose(theirs[:, 3], v.mean(1), rtol=1e-6)
    assert not np.asarray(ours)[:, 3].any()
    near(ours[:, :3], theirs[:, :3])
