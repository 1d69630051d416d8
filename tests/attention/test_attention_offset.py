"""Queries at an offset among the keys: chunks of a prompt, steps of decoding, documents."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.attention import attention_oracle as oracle

B, S, N, K, H = 2, 12, 4, 2, 3
rng = np.random.default_rng(0)
Q, KEY, V = (rng.normal(size=(B, S, n, w)) for n, w in ((N, H), (K, H), (K, 2)))
near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
SIGHTS = {
    "causal": {"is_causal": True},
    "a causal window": {"is_causal": True, "local_window_size": 3, "alpha": 1.5},
    "a window": {"local_window_size": (2, 1)},
    "all before": {"local_window_size": (None, 2), "alpha": 1.5},
    "a traced window": {"local_window_size": jnp.array([1, 4]), "is_causal": True},
}


@pytest.mark.parametrize("name", SIGHTS)
def test_a_chunk_of_queries_gives_the_rows_of_the_whole(name):
    """Wherever it starts, told by a number, a traced one, or one for each batch entry."""
    options = SIGHTS[name]
    whole = js.dot_product_attention(Q, KEY, V, **options)
    weights = js.attention_weights(Q, KEY, **options)
    for start, size in ((0, 1), (4, 5), (11, 1)):
        chunk = Q[:, start : start + size]
        for offset in (start, jnp.array(start), np.full(B, start)):
            attend = functools.partial(js.dot_product_attention, query_offset=offset, **options)
            near(attend(chunk, KEY, V), whole[:, start : start + size])
        near(attend(chunk, KEY, V, block_q=2, block_k=8), whole[:, start : start + size])
        p = js.attention_weights(chunk, KEY, query_offset=start, **options)
        near(p, weights[:, :, start : start + size])


def test_batch_entries_may_stand_at_different_places():
    starts = np.array([2, 7])
    whole = js.dot_product_attention(Q, KEY, V, is_causal=True, local_window_size=4)
    chunks = np.stack([Q[i, s : s + 3] for i, s in enumerate(starts)])
    attend = functools.partial(js.dot_product_attention, is_causal=True, local_window_size=4)
    out = jax.jit(lambda offset: attend(chunks, KEY, V, query_offset=offset))(starts)
    near(out, np.stack([whole[i, s : s + 3] for i, s in enumerate(starts)]))


def test_long_chunks_in_blocks_and_windows():
    """At sizes where keys outside of windows are left out; and before the first key."""
    q, k = (rng.normal(size=(n, 1, 4)) for n in (300, 700))
    for options in ({"is_causal": True}, {"local_window_size": (9, 4), "alpha": 1.5}):
        for offset in (350, -40):
            attend = functools.partial(js.dot_product_attention, **options, block_q=32, block_k=64)
            places = np.arange(300)[:, None] + offset
            before, after = options.get("local_window_size", (1000, 0))
            seen = (np.arange(700) >= places - before) & (np.arange(700) <= places + after)
            out = attend(q, k, k, query_offset=offset)
            masked = js.dot_product_attention(q, k, k, mask=seen, alpha=options.get("alpha"))
            near(out, masked)
            near(attend(q, k, k, query_offset=jnp.array(offset)), masked)


def test_keys_that_are_split_count_from_the_first_of_all():
    cut = {x: y.reshape(B, 4, 3, K, -1).swapaxes(0, 1) for x, y in (("k", KEY), ("v", V))}
    attend = functools.partial(
        js.dot_product_attention, axis_name="k", is_causal=True, query_offset=6, alpha=1.5
    )
    out = jax.vmap(lambda k, v: attend(Q[:, 6:9], k, v), axis_name="k")(cut["k"], cut["v"])
    whole = js.dot_product_attention(Q, KEY, V, is_causal=True, alpha=1.5)
    near(out, np.broadcast_to(whole[:, 6:9], out.shape))


OF_QUERIES = np.array([[4, 4, 4, 9, 9, 7, 7], [1, 1, 2, 2, 2, 2, 5]])
OF_KEYS = np.array([[4, 4, 9, 9, 9, 9, 7, 7, 7], [1, 2, 2, 2, 5, 5, 5, 5, 5]])


@pytest.mark.parametrize("window", [None, (1, 1)])
def test_order_restarts_with_each_pair_of_packed_documents(window):
    """Against each document by itself; with the gradient of the dense formula."""
    q, k, v = Q[:, :7], KEY[:, :9].repeat(2, axis=2), V[:, :9].repeat(2, axis=2)
    options = {"is_causal": window is None, "local_window_size": window}
    packed = functools.partial(
        js.dot_product_attention, query_segment_ids=OF_QUERIES, key_value_segment_ids=OF_KEYS,
        query_offset="segments", **options,
    )  # fmt: skip
    out = packed(q, k, v)
    for entry in range(B):
        for segment in np.unique(OF_QUERIES[entry]):
            rows, columns = OF_QUERIES[entry] == segment, OF_KEYS[entry] == segment
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a document of one query
                alone = js.dot_product_attention(
                    q[entry, rows], k[entry, columns], v[entry, columns], **options
                )
            near(out[entry, rows], alone)

    def place(ids):
        return np.array([[list(row[:i]).count(row[i]) for i in range(len(row))] for row in ids])

    distance = place(OF_KEYS)[:, None, :] - place(OF_QUERIES)[:, :, None]
    low, high = (-100, 0) if window is None else (-1, 1)
    seen = (OF_QUERIES[:, :, None] == OF_KEYS[:, None, :]) & (distance >= low) & (distance <= high)
    zeros, ones = np.zeros((B, N, 7, 9)), np.ones(N)

    def dense(q, k, v):
        seen_by_head = np.broadcast_to(seen[:, None], zeros.shape)
        of_heads = ones * H**-0.5, ones, ones * -np.inf
        return oracle.attention(q, k, v, zeros, *of_heads, seen=seen_by_head, cap=np.inf)[0]

    expected = jax.grad(lambda *x: jnp.sin(dense(*x)).sum(), (0, 1, 2))(q, k, v)
    found = jax.grad(lambda *x: jnp.sin(packed(*x, block_q=4, block_k=4)).sum(), (0, 1, 2))(q, k, v)
    for ours, theirs in zip(found, expected, strict=True):
        near(ours, theirs)


def test_the_same_segments_on_both_sides_restart_nowhere():
    ids = np.sort(rng.integers(0, 3, (B, S)))
    options = {"is_causal": True, "query_segment_ids": ids}
    whole = js.dot_product_attention(Q, KEY, V, **options)
    near(js.dot_product_attention(Q, KEY, V, query_offset="segments", **options), whole)


def test_a_single_causal_query_that_is_not_placed_warns():
    """It sees the first key alone, as in `jax.nn`; a place, or one key, does not warn."""
    for function in (
        lambda q, k, **o: js.dot_product_attention(q, k, k, **o),
        js.attention_weights,
    ):
        with pytest.warns(UserWarning, match="sees only the first of 12 keys.*`query_offset`"):
            out = function(Q[:, :1], KEY, is_causal=True)
        assert jnp.array_equal(out, function(Q[:, :1], KEY, is_causal=True, query_offset=0))
        function(Q[:, :1], KEY[:, :1], is_causal=True)
        function(Q[:, :2], KEY, is_causal=True)


MISTAKES = [
    (1.5, TypeError, "integer"),
    (np.ones(B), TypeError, "integers"),
    (np.ones(3, int), ValueError, r"shape \(3,\).*one for each batch entry, of shape \(2,\)"),
    ("segments", ValueError, "with `query_segment_ids`"),
    ("end", ValueError, "'segments'"),
]


@pytest.mark.parametrize(("offset", "kind", "words"), MISTAKES)
def test_offsets_that_are_none_are_answered(offset, kind, words):
    with pytest.raises(kind, match="query_offset.*" + words):
        js.dot_product_attention(Q, KEY, V, is_causal=True, query_offset=offset)


def test_kernels_that_do_not_take_an_offset_say_so():
    ids = np.zeros((B, S), int)
    options = {"is_causal": True, "query_segment_ids": ids, "query_offset": "segments"}
    with pytest.raises(NotImplementedError, match=r"`query_offset`='segments'.*'xla'"):
        js.dot_product_attention(Q, KEY, V, implementation="pallas", **options)
    with pytest.raises(NotImplementedError, match="`query_offset`"):
        js.dot_product_attention(Q, KEY, V, implementation="cudnn", query_offset=1)
