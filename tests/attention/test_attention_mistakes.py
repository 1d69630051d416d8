"""Mistakes in the arguments of attention: each answer names function, argument and remedy."""

import functools
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jsoftmax as js

B, T, S, N, K, H = 2, 5, 6, 4, 2, 3
Q, KEY, V = np.ones((B, T, N, H)), np.ones((B, S, K, H)), np.ones((B, S, K, 7))
WHOLE = f"{(B, N, T, S)}"
RNG = jax.random.key(0)


@pytest.fixture(autouse=True)
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def words(*parts):
    """A pattern of these, in this order."""
    return r"jsoftmax\.dot_product_attention: .*" + ".*".join(re.escape(part) for part in parts)


SHAPES = {
    "no heads": (Q[0, 0], KEY[0, 0], V[0, 0], ["`query` (4, 3)", "(..., length, heads, width)"]),
    "other axes": (Q, KEY[0], V, [str(Q.shape), str(KEY[0].shape), "same number of batch axes"]),
    "other batch": (Q[:1], KEY, V, [str(Q[:1].shape), str(KEY.shape), "different batch axes"]),
    "fewer values": (Q, KEY, V[:, 1:], [str(KEY.shape), "(2, 5, 2, 7)", "needs one value"]),
    "other width": (Q, KEY[..., 1:], V, ["(2, 6, 2, 2)", "must have the same width"]),
    "no keys": (Q, KEY[:, :0], V[:, :0], ["(2, 0, 2, 3)", "needs at least one key"]),
    "no width": (Q[..., :0], KEY[..., :0], V, ["one feature to attend by"]),
    "three heads": (Q[:, :, :3], KEY, V, ["the 3 query heads must be a multiple of the 2"]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_do_not_fit_are_all_named(name):
    q, k, v, parts = SHAPES[name]
    with pytest.raises(ValueError, match=words(*parts)):
        js.dot_product_attention(q, k, v)


VALUES = {
    "bias": [(np.ones((B, N, T, 5)), [str((B, N, T, 5)), "the scores", WHOLE])],
    "mask": [(np.ones((3, T, S), bool), [str((3, T, S)), "the scores", WHOLE])],
    "alpha": [
        (0.0, ["must be positive"]),
        (-1, ["must be positive"]),
        (np.nan, ["must be positive"]),
        (np.array([1.0, 1.5, 2.0, 0.0]), ["must be positive"]),
        (jnp.ones(3), ["(3,)", "one for each of the 4 heads of `query`"]),
    ],
    "scale": [(np.ones(2), ["(2,)", "one for each of the 4 heads of `query`"])],
    "sinks": [(np.ones((4, 1)), ["(4, 1)", "one for each of the 4 heads of `query`"])],
    "query_seq_lengths": [
        (np.ones(3, int), ["(3,)", "one length for each batch entry", "(2,)"]),
        (np.array([4, -1]), ["must not be negative", "[4, -1]"]),
    ],
    "key_value_seq_lengths": [
        (np.ones((2, 1), int), ["(2, 1)", "one length for each batch entry"]),
        (-2, ["must not be negative", "-2"]),
    ],
    "local_window_size": [
        (-1, ["integer ≥ 0", "-1"]),
        (1.5, ["integer ≥ 0", "1.5"]),
        ((1, 2, 3), ["pair (before, after)", "(1, 2, 3)"]),
        (True, ["integer ≥ 0", "True"]),
        ((None, -1), ["integer ≥ 0", "(None, -1)"]),
        ("wide", ["integer ≥ 0", "'wide'"]),
        (np.array([1, -1]), ["integer ≥ 0"]),
        (jnp.ones(3, int), ["(3,)", "one for each batch entry", "(2,)"]),
    ],
    "logits_soft_cap": [
        (0.0, ["a positive number", "0.0"]),
        (-2, ["a positive number", "-2"]),
        (np.array([1.0, 2.0, 0.0, 1.0]), ["a positive number"]),
        (jnp.ones(3), ["(3,)", "one for each of the 4 heads of `query`"]),
    ],
    "dropout_rate": [
        (1.0, ["from 0 to below 1", "1.0"]),
        (-0.1, ["from 0 to below 1", "-0.1"]),
        (0.5, ["needs `dropout_rng`", "jax.random.key"]),
    ],
    "implementation": [("flash", ["must be None, 'xla'", "'flash'"])],
    "block_q": [(0, ["at least 1", "0"])],
    "block_k": [(-4, ["at least 1", "-4"])],
}


@pytest.mark.parametrize("name", VALUES)
def test_values_out_of_range_and_shapes_are_answered_with_what_would_do(name):
    for given, parts in VALUES[name]:
        with pytest.raises(ValueError, match=words(f"`{name}`", *parts)):
            js.dot_product_attention(Q, KEY, V, **{name: given})


KINDS = {
    "query": [(Q * 1j, ["complex", "real numbers"])],
    "key": [(KEY * 1j, ["complex", "real numbers"])],
    "value": [(V * 1j, ["complex", "real numbers"])],
    "bias": [
        (np.ones(S) * 1j, ["complex", "real numbers"]),
        (np.ones((T, S), bool), ["is boolean", "as `mask`"]),
    ],
    "mask": [(np.ones((T, S)), ["float64", "boolean", "`bias`"])],
    "alpha": [(np.ones(4) * 1j, ["complex", "real numbers"])],
    "scale": [(np.ones(4) * 1j, ["complex", "real numbers"])],
    "sinks": [(np.ones(4) * 1j, ["complex", "real numbers"])],
    "is_causal": [("yes", ["True or False"])],
    "query_seq_lengths": [(np.ones(2), ["float64", "integers"])],
    "key_value_seq_lengths": [(np.ones(2), ["float64", "integers"])],
    "local_window_size": [(jnp.ones(2), ["float64", "integers"])],
    "block_q": [(2.0, ["integer", "2.0"]), (True, ["integer", "True"])],
    "block_k": [("4", ["integer", "'4'"])],
}


@pytest.mark.parametrize("name", KINDS)
def test_arrays_of_the_wrong_kind_are_answered_with_the_right_one(name):
    for given, parts in KINDS[name]:
        with pytest.raises(TypeError, match=words(f"`{name}`", *parts)):
            js.dot_product_attention(**{"query": Q, "key": KEY, "value": V} | {name: given})


def test_segments_come_in_pairs_of_integers_one_for_each_place():
    of_queries, of_keys = np.zeros((B, T), int), np.zeros((B, S), int)

    def attend(of_queries, of_keys):
        js.dot_product_attention(
            Q, KEY, V, query_segment_ids=of_queries, key_value_segment_ids=of_keys
        )

    for pair in ((of_queries, None), (None, of_keys)):
        with pytest.raises(ValueError, match=words("give both `query_segment_ids` and")):
            attend(*pair)
    with pytest.raises(TypeError, match=words("`query_segment_ids`", "float64", "integers")):
        attend(of_queries * 1.0, of_keys)
    with pytest.raises(ValueError, match=words("`key_value_segment_ids`", "(2, 5)", "(2, 6)")):
        attend(of_queries, of_keys[:, 1:])
    with pytest.raises(ValueError, match=words("`query_segment_ids`", "(2, 1)", "(2, 5)")):
        attend(of_queries[:, :1], of_keys)


def test_a_dropout_key_is_one_key():
    for wrong in (0, np.ones(2), jnp.ones(2)):
        with pytest.raises(TypeError, match=words("one key")):
            js.dot_product_attention(Q, KEY, V, dropout_rate=0.5, dropout_rng=wrong)
    with pytest.raises(ValueError, match=words("(3,)", "one key")):
        js.dot_product_attention(Q, KEY, V, dropout_rate=0.5, dropout_rng=jax.random.split(RNG, 3))


def test_an_order_out_of_range_is_nan_in_its_own_head_where_it_is_traced():
    attend = jax.jit(lambda alpha: js.dot_product_attention(Q, KEY, V, alpha=alpha))
    out = attend(jnp.array([1.0, -1.0, 2.0, jnp.nan]))
    assert np.isfinite(out[:, :, [0, 2]]).all()
    assert np.isnan(out[:, :, [1, 3]]).all()


def test_the_weights_to_look_at_name_themselves():
    with pytest.raises(ValueError, match=r"jsoftmax\.attention_weights: .*the same width"):
        js.attention_weights(Q, KEY[..., 1:])
    with pytest.raises(TypeError, match=r"jsoftmax\.attention_weights: `mask` has dtype"):
        js.attention_weights(Q, KEY, mask=np.ones((T, S)))


def test_lists_and_numbers_of_python_and_numpy_will_do():
    rows = np.random.default_rng(0).normal(size=(3, 2, 1, 4))
    attend = jax.jit(functools.partial(js.dot_product_attention, alpha=1.5, scale=0.5))
    actual = js.dot_product_attention(*rows.tolist(), alpha=np.float32(1.5), scale=[np.array(0.5)])
    np.testing.assert_allclose(actual, attend(*rows), rtol=1e-12)
    assert jax.eval_shape(lambda q: js.dot_product_attention(q, q, q, alpha=[1.5]), rows[0]).shape


REFUSED = {
    "alpha": 1.5,
    "sinks": 0.0,
    "query_segment_ids": np.zeros(T, int),
    "return_residual": True,
    "block_q": 2,
    "block_k": 2,
    "axis_name": "keys",
    "scale": jnp.ones(N),
    "logits_soft_cap": 2.0,
    "local_window_size": (None, 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_kernel_refuses_what_it_does_not_take(name):
    """A named implementation never falls back."""
    options = {name: REFUSED[name], "implementation": "cudnn"}
    if name == "query_segment_ids":
        options["key_value_segment_ids"] = np.zeros(S, int)
    inside = jax.vmap(lambda q: js.dot_product_attention(q, KEY, V, **options), axis_name="keys")
    with pytest.raises(NotImplementedError, match=words("'cudnn' does not take", name)):
        inside(Q[None])
