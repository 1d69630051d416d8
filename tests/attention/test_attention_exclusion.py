"""An excluded key has weight exactly 0, by every kind of mask and with every option."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from jsoftmax.attention import _products
from tests.marks import some

B, T, S, N, K, H = 2, 4, 5, 2, 1, 3
LAST = S - 1  # which no query may see
BIAS, SEGMENTS = np.full((N, T, S), 0.5), np.zeros((B, S), int)
EVERYTHING_SEEN = {
    "mask": np.ones((T, S), bool),
    "bias": BIAS,
    "key_value_seq_lengths": np.full(B, S),
    "query_segment_ids": np.zeros((B, T), int),
    "key_value_segment_ids": SEGMENTS,
    "local_window_size": (np.array([S, S]), np.array([S, S])),
}
BEFORE_LAST = np.arange(S) < LAST
# Arrays that each exclude the last key by themselves; and static options that do.
BY_ARRAYS = {
    "mask": {"mask": EVERYTHING_SEEN["mask"] & BEFORE_LAST},
    "a bias of −∞": {"bias": np.where(BEFORE_LAST, BIAS, -np.inf)},
    "lengths": {"key_value_seq_lengths": np.full(B, LAST)},
    "segments": {"key_value_segment_ids": np.where(BEFORE_LAST, SEGMENTS, 1)},
    "a window of each entry": {"local_window_size": (np.array([S, S]), np.array([0, 0]))},
}
BY_PLACES = {"causal": {"is_causal": True}, "a window": {"local_window_size": (None, 0)}}
OPTIONS = {
    "nothing": {},
    "a soft cap": {"logits_soft_cap": 0.5},
    "a soft cap that is traced": {"logits_soft_cap": jnp.array([0.5, 2.0])},
    "sinks": {"sinks": jnp.zeros(N)},
    "dropout": {"dropout_rate": 0.4, "dropout_rng": jax.random.key(0)},
    "blocks": {"block_q": 2, "block_k": 2, "logits_soft_cap": 0.5, "sinks": 0.0},
}
ALPHAS = {"1": 1.0, "1.5": 1.5, "2": 2.0, "∞": np.inf, "traced": jnp.array([1.0, 3.0])}


def arrays():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=s) for s in ((B, T, N, H), (B, S, K, H), (B, S, K, 2)))
    q[0, 1, 0] += 30 * k[0, LAST, 0]  # which would win wherever it were seen
    return jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)


NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]


@pytest.mark.law
@pytest.mark.parametrize(
    "alpha", ["1", "1.5", *(pytest.param(a, marks=NIGHTLY) for a in ("2", "∞", "traced"))]
)
@pytest.mark.parametrize("option", some(OPTIONS, ["blocks"]))
def test_what_is_excluded_has_no_weight_and_no_gradient(option, alpha):
    """Every way of excluding, alone; and none where nothing excludes."""
    options = {"alpha": ALPHAS[alpha]} | OPTIONS[option]
    to_look_at = {name: x for name, x in options.items() if name[:4] not in ("drop", "bloc")}

    @jax.jit
    def found(given, **places):
        def loss(k, v, bias):
            others = given | places | {"bias": bias}
            out = js.dot_product_attention(q, k, v, **others, **options)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

        q, k, v = arrays()
        given = {"bias": BIAS} | given
        weights = js.attention_weights(q, k, **given, **places, **to_look_at)
        slopes = jax.grad(loss, (0, 1, 2))(k, v, given["bias"])
        return weights, slopes[0][:, LAST], slopes[1][:, LAST], slopes[2][..., LAST], slopes

    by_places = jax.jit(found.__wrapped__, static_argnames=("is_causal", "local_window_size"))
    answers = {way: found(EVERYTHING_SEEN | given) for way, given in BY_ARRAYS.items()}
    answers |= {way: by_places({}, **given) for way, given in BY_PLACES.items()}
    for way, (weights, *of_last, slopes) in answers.items():
        for x in (weights[..., LAST], *of_last):
            np.testing.assert_array_equal(x, 0, err_msg=way)
        assert all(np.isfinite(x).all() for x in (weights, *slopes)), way
        assert (np.asarray(weights).sum((0, 2, 3)) > 0).all(), way
    assert np.asarray(found(EVERYTHING_SEEN)[0])[..., LAST].any()


def test_a_length_below_zero_leaves_nothing_to_be_seen_where_it_is_traced():
    q, k, v = arrays()
    attend = jax.jit(lambda n: js.dot_product_attention(q, k, v, key_value_seq_lengths=n))
    out = attend(jnp.array([-1, 2]))
    assert not out[0].any()
    assert out[1].all()


def test_windows_that_are_traced_or_have_one_side_hide_the_same_keys():
    """Also one of each batch entry, and a side that is wider than there are places."""
    q, k, v = arrays()
    t, s = np.arange(T)[:, None], np.arange(S)

    @functools.partial(jax.jit, static_argnums=0)
    def both(size, mask):
        windows = [
            js.dot_product_attention(q, k, v, local_window_size=size(n))
            for n in (1, jnp.array(1), jnp.ones(B, int))
        ]
        return [*windows, js.dot_product_attention(q, k, v, mask=mask)]

    for size, mask in (
        (lambda n: n, abs(s - t) <= 1),
        (lambda n: (n, None), s >= t - 1),
        (lambda n: (None, n), s <= t + 1),
        (lambda n: (2**31 - 1, n), s <= t + 1),
    ):
        *windows, right = both(size, mask)
        for window in windows:
            np.testing.assert_allclose(window, right, rtol=1e-12)


def test_a_soft_cap_has_the_derivatives_of_the_dense_formula():
    """The first two; a cap that is not positive is NaN in its own head."""
    q, k, v = arrays()

    def attend(cap):
        return js.dot_product_attention(q, k, v, alpha=1.5, logits_soft_cap=cap)

    def dense(cap):
        z, cap = jnp.einsum("btnh,bskh->bnts", q, k) / np.sqrt(H), cap[:, None, None]
        p = js.entmax(cap * jnp.tanh(z / cap), 1.5)
        return jnp.einsum("bnts,bskh->btnh", p, v)

    @jax.jit
    def both(cap, change):
        def second(function):
            def slope(cap):
                return jax.jvp(function, (cap,), (change,))

            return jax.jvp(slope, (cap,), (change,))

        return second(attend), second(dense)

    ours, right = both(jnp.array([0.7, 3.0]), jnp.array([1.0, -0.5]))
    chex.assert_trees_all_close(ours, right, rtol=1e-10, atol=1e-12)
    assert np.isnan(attend(jnp.array([0.0, 3.0]))[:, :, 0]).all()


@pytest.mark.parametrize("alpha", some([1.0, 1.5], [1.5]))
def test_nan_in_a_key_that_few_queries_do_not_see_does_not_reach_them(alpha):
    """Few queries' keys are cleaned only if a mixture tells that they must be."""
    q, k, v = arrays()
    mask = np.arange(S) < LAST
    for spoil in (np.nan, np.inf):
        for key, value in ((k.at[0, LAST].set(spoil), v), (k, v.at[0, LAST].set(spoil))):

            @jax.jit
            def both(key, value):
                def attend(*x):
                    return js.dot_product_attention(*x, mask=mask, alpha=alpha)

                out, pull = jax.vjp(attend, q, key, value)
                return out, pull(jnp.ones_like(out))

            right, slopes = both(k, v)
            out, spoiled = both(key, value)
            np.testing.assert_array_equal(out, right)
            np.testing.assert_array_equal(spoiled[0], slopes[0])
            assert np.isfinite(spoiled[1]).all() and np.isfinite(spoiled[2]).all()
        seen = js.dot_product_attention(q, k.at[0, 1].set(spoil), v, mask=mask, alpha=alpha)
        assert np.isnan(seen[0]).all() and np.isfinite(seen[1]).all()


@pytest.mark.parametrize("queries", some([1, 3], [3]))
def test_heads_whose_keys_are_read_in_one_product_are_no_others(queries, monkeypatch):
    """As on a CPU without a mesh; with all derivatives, and NaN where it is seen."""
    shapes = [(2, queries, 4, 3), (2, 5, 2, 3), (2, 5, 2, 4)]
    qkv = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]

    def found():
        def attend(*qkv):
            return js.dot_product_attention(*qkv, alpha=1.5)

        out, pull = jax.vjp(attend, *qkv)
        spoiled = attend(qkv[0], qkv[1].at[1, 2, 0].set(jnp.nan), qkv[2])
        return out, pull(jnp.cos(out)), spoiled

    assert _products.are_joined(*qkv[:2])
    joined = found()
    monkeypatch.setattr(_products, "may_be_split", lambda *arrays: True)
    assert not _products.are_joined(*qkv[:2])
    apart = found()
    chex.assert_trees_all_close(joined, apart, atol=1e-12)
    assert np.isnan(joined[2][1, :, :2]).all()
    assert np.isfinite(joined[2][1, :, 2:]).all()
