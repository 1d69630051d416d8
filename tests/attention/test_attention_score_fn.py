"""Functions of scores and places: as dense attention of their values, in every derivative."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests.attention import attention_oracle as oracle

B, T, N, K, H = 2, 7, 4, 2, 3
rng = np.random.default_rng(0)
Q, KEY, V = (rng.normal(size=(B, T, n, w)) for n, w in ((N, H), (K, H), (K, 2)))
near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-11)
PLACES = np.arange(T)
DISTANCE = PLACES - PLACES[:, None]  # key − query


@functools.partial(jax.tree_util.register_dataclass, data_fields=["table"], meta_fields=["power"])
@dataclasses.dataclass(frozen=True)
class Stranger:
    """A number for each batch entry and head, and a bend of the score by the distance."""

    table: jax.Array
    power: int = 2

    def __call__(self, score, batch, head, query, key):
        near = jnp.exp(-abs(query - key) / 3.0)
        return score * near + self.table[batch, head] * near**self.power


def bucket_of(distance, buckets, bidirectional, most):
    """The bucket of one distance, as Raffel et al. define it, in integers and reals."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
    else:
        distance = min(distance, 0)
    distance, exact = abs(distance), buckets // 2
    if distance < exact:
        return first + distance
    share = np.log(distance / exact) / np.log(most / exact)
    return first + min(exact + int(share * (buckets - exact) + 1e-9), buckets - 1)


def buckets_of_all(buckets, bidirectional, most):
    return np.array([[bucket_of(d, buckets, bidirectional, most) for d in row] for row in DISTANCE])


# Of each function: how it is made of an array, that array, and scores as it makes them of others.
FUNCTIONS = {
    "ALiBi": (
        js.ALiBi, rng.random(N), lambda m, z: z - m[:, None, None] * np.abs(DISTANCE)
    ),
    "ALiBi of all heads": (js.ALiBi, np.array(0.3), lambda m, z: z - m * np.abs(DISTANCE)),
    "a forgetting gate": (
        js.ForgettingGate, -np.cumsum(rng.random((B, T, N)), axis=1),
        lambda c, z: z + jnp.moveaxis(c, 2, 1)[..., :, None] - jnp.moveaxis(c, 2, 1)[..., None, :],
    ),
    "a gate of all heads and entries": (
        js.ForgettingGate, -np.cumsum(rng.random((T, 1)), axis=0),
        lambda c, z: z + c[:, 0][:, None] - c[:, 0],
    ),
    "buckets": (
        functools.partial(js.T5Buckets, max_distance=6), rng.normal(size=(8, N)),
        lambda b, z: z + jnp.moveaxis(b[buckets_of_all(8, True, 6)], 2, 0),
    ),
    "buckets of one side, of all heads": (
        functools.partial(js.T5Buckets, max_distance=5, bidirectional=False),
        rng.normal(size=(5, 1)),
        lambda b, z: z + b[buckets_of_all(5, False, 5)][..., 0],
    ),
    "a stranger": (
        Stranger, rng.normal(size=(B, N)),
        lambda x, z: z * np.exp(-np.abs(DISTANCE) / 3)
        + x[:, :, None, None] * np.exp(-np.abs(DISTANCE) / 3) ** 2,
    ),
    "a closure": (
        lambda x: lambda score, batch, head, query, key: score + x[query] * x[key],
        rng.normal(size=T), lambda x, z: z + x[:, None] * x,
    ),
}  # fmt: skip
each = pytest.mark.parametrize("name", FUNCTIONS)
SEEN = np.broadcast_to((DISTANCE <= 1) & (DISTANCE >= -4), (B, N, T, T))
WINDOW = {"local_window_size": (4, 1)}


def dense(name, alpha, q, k, v, x):
    """By the formula of the scores, in one array."""
    k, v = (jnp.repeat(y, N // K, axis=-2) for y in (k, v))
    z = H**-0.5 * jnp.einsum("btnh,bsnh->bnts", q, k)
    z = jnp.where(SEEN, FUNCTIONS[name][2](x, z), -jnp.inf)
    p, _ = oracle.entmax(z, jnp.full((N, 1, 1), alpha))
    return jnp.einsum("bnts,bsnh->btnh", p, v)


def ours(name, alpha, q, k, v, x, **options):
    score_fn = FUNCTIONS[name][0](x)
    return js.dot_product_attention(q, k, v, alpha=alpha, score_fn=score_fn, **WINDOW, **options)


@each
@pytest.mark.parametrize(
    "blocks",
    [
        {"block_q": 2, "block_k": 4},
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=["blocks", "whole"],
)
def test_scores_are_those_of_the_function_with_all_gradients(name, blocks):
    """Whole and in blocks that do not divide the sizes, at α = 1 and 1.5."""
    x = FUNCTIONS[name][1]
    for alpha in (1.0, 1.5):
        mine = jax.jit(functools.partial(ours, name, alpha, **blocks))
        theirs = functools.partial(dense, name, alpha)
        near(mine(Q, KEY, V, x), theirs(Q, KEY, V, x))
        slopes = [
            jax.jit(jax.grad(lambda *y, f=f: jnp.sin(f(*y)).sum(), (0, 1, 2, 3)))(Q, KEY, V, x)
            for f in (mine, theirs)
        ]
        for a, b in zip(*slopes, strict=True):
            near(a, b)


@each
@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_derivatives_of_both_modes_and_of_second_order(name, alpha):
    """In queries and in the arrays of the function together."""

    def function(q, x):
        return ours(name, alpha, q, KEY, V, x, block_q=4, block_k=4)

    x = FUNCTIONS[name][1]
    check_grads(jax.jit(function), (Q, x), 2, ["fwd", "rev"], atol=1e-4, rtol=1e-4)


@each
def test_the_call_of_a_function_is_its_definition(name):
    """Score by score, mapped over all places; and the weights of attention are of these scores."""
    make, x, definition = FUNCTIONS[name]
    z = rng.normal(size=(B, N, T, T))
    call = make(jnp.asarray(x))
    for i, axes in enumerate([(0, None, None, None, 0), (0, None, None, 0, None),
                              (0, None, 0, None, None), (0, 0, None, None, None)]):  # fmt: skip
        call = jax.vmap(call, axes)
        del i
    found = call(z, jnp.arange(B), jnp.arange(N), jnp.arange(T), jnp.arange(T))
    near(found, np.broadcast_to(definition(x, z), z.shape))


@each
def test_chunks_of_queries_are_those_of_the_whole(name):
    """Functions are told places, which start at the offset, also where it is traced."""
    make, x, _ = FUNCTIONS[name]
    attend = functools.partial(
        js.dot_product_attention, score_fn=make(jnp.asarray(x)), is_causal=True
    )
    whole = attend(Q, KEY, V)
    near(attend(Q[:, 3:6], KEY, V, query_offset=3), whole[:, 3:6])
    near(jax.jit(lambda o: attend(Q[:, 3:6], KEY, V, query_offset=o))(3), whole[:, 3:6])
    chunk = np.stack([Q[0, 1:3], Q[1, 4:6]])
    out = attend(chunk, KEY, V, query_offset=np.array([1, 4]))
    near(out, np.stack([whole[0, 1:3], whole[1, 4:6]]))


def test_long_sequences_in_windows_and_stripes():
    """Where keys are left out, places are counted alike; with the weights as a check."""
    q, k = (rng.normal(size=(n, 2, 4)) for n in (300, 300))
    table = rng.normal(size=(32, 2))
    gate = -np.cumsum(rng.random((300, 2)), axis=0)
    for score_fn in (js.ALiBi(np.array([0.1, 0.2])), js.T5Buckets(table), js.ForgettingGate(gate)):
        for options in ({"is_causal": True}, {"local_window_size": (9, 4)}):
            options = options | {"alpha": 1.5, "score_fn": score_fn}
            p = js.attention_weights(q, k, **options)
            out = js.dot_product_attention(q, k, k, block_q=32, block_k=64, **options)
            near(out, np.einsum("hqk,khd->qhd", p, k))


def test_buckets_begin_where_the_definition_says():
    for buckets, bidirectional, most in ((32, True, 128), (32, False, 128), (10, True, 50)):
        sized = js.T5Buckets(np.empty((buckets, 1)), bidirectional, most)
        distances = np.arange(-300, 301)
        expected = [bucket_of(d, buckets, bidirectional, most) for d in distances]
        np.testing.assert_array_equal(sized.bucket(distances), expected)


def test_a_plain_function_is_compiled_once(caplog):
    """Though its arrays are taken from it anew each time."""

    def score_fn(score, batch, head, query, key):
        return score + 0.1 * head

    attend = jax.jit(functools.partial(js.dot_product_attention, score_fn=score_fn))
    out = attend(Q, KEY, V)
    with jax.log_compiles():
        js.dot_product_attention(Q, KEY, V, score_fn=score_fn)
        before = len(caplog.records)
        again = js.dot_product_attention(Q, KEY, V, score_fn=score_fn)
    assert not any("computed" in x.message for x in caplog.records[before:])
    near(out, again)


MISTAKES = [
    (np.ones((N, T, T)), TypeError, "function of \\(score, batch, head, query, key\\).*`bias`"),
    (js.ALiBi(np.ones(3)), ValueError, r"`slopes` of ALiBi has shape \(3,\).*4 heads"),
    (js.ForgettingGate(np.ones((B, 3, N))), ValueError, "`cumulative` of ForgettingGate"),
    (js.T5Buckets(np.ones((32, 3))), ValueError, "`table` of T5Buckets.*4 heads"),
    (lambda score, b, h, q, k: score * jnp.ones(2), ValueError, "must return a scalar"),
    (lambda score, b, h, q, k: q, TypeError, "real number"),
]


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("score_fn", "kind", "words"), MISTAKES)
def test_mistakes_are_answered(score_fn, kind, words):
    with pytest.raises(kind, match="dot_product_attention: .*" + words):
        js.dot_product_attention(Q, KEY, V, score_fn=score_fn)


def test_what_is_not_taken_is_refused_with_a_remedy():
    alibi, ids = js.ALiBi(0.1), np.zeros((B, T), int)
    for implementation in ("pallas", "cudnn"):
        with pytest.raises(NotImplementedError, match=r"`score_fn`.*'xla'"):
            js.dot_product_attention(Q, KEY, V, score_fn=alibi, implementation=implementation)
    buckets = js.T5Buckets(np.ones((32, 1)))
    with pytest.raises(NotImplementedError, match=r"'segments'.*batch entry"):
        js.dot_product_attention(
            Q, KEY, V, score_fn=buckets, query_segment_ids=ids, query_offset="segments"
        )
    with pytest.raises(ValueError, match="among the 7 keys, but their positions are 6 to 12"):
        js.dot_product_attention(
            Q, KEY, V, score_fn=js.ForgettingGate(np.ones((T, 1))), query_offset=6
        )
    with pytest.raises(ValueError, match=r"\(buckets, heads\)"):
        js.T5Buckets(np.ones(32))
    with pytest.raises(ValueError, match="leave 0 for single distances"):
        js.T5Buckets(np.ones((2, 1)))


LONG = 4096


def sloped(slope):
    return lambda score, batch, head, query, key: score + slope * abs(query - key)


TERMS = {
    "ALiBi": lambda x: js.ALiBi(x[0, 0, :1]),
    "buckets": lambda x: js.T5Buckets(x[:32, 0, :1]),
    "a forgetting gate": lambda x: js.ForgettingGate(x[..., 0]),
    "a stranger": lambda x: sloped(x[0, 0, 0]),
}


@functools.cache
def _temporaries(name, is_gradient, alpha):
    def value(q, k, v, x):
        score_fn = None if name is None else TERMS[name](x)
        return js.dot_product_attention(q, k, v, alpha=alpha, is_causal=True, score_fn=score_fn)

    def gradient(*given):
        return jax.grad(lambda *y: value(*y).sum(), (0, 1, 2, 3))(*given)

    x = jax.ShapeDtypeStruct((LONG, 1, 64), jnp.float32)
    compiled = jax.jit(gradient if is_gradient else value).lower(x, x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("is_gradient", [False, True], ids=["value", "gradient"])
@pytest.mark.parametrize("name", TERMS)
def test_memory_is_that_of_attention_without_a_function(name, is_gradient, alpha):
    """At most 1.3 times, at T = 4096."""
    without = _temporaries(None, is_gradient, alpha)
    assert _temporaries(name, is_gradient, alpha) <= 1.3 * without
