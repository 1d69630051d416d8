"""Attention: queries that see nothing, hidden keys, small floats, shapes, the family."""

import numpy as np

from benchmarks.conformance import oracle
from benchmarks.conformance.functions import attention
from benchmarks.conformance.judge import Near, Refused, Ulps
from benchmarks.conformance.libraries import ATTENDING
from benchmarks.conformance.questions import Section, ask_for, f32, gradient, hessian, value

INF, NAN = np.inf, np.nan
PLACES = ("queries", "keys", "values")
# One batch entry, two queries, three keys, one head.
QUERY = f32([[[1, 0]], [[0, 2]]])
KEY = f32([[[1, 2]], [[0, 1]], [[-1, 0.5]]])
VALUE = f32([[[1, 2]], [[3, 4]], [[5, 7]]])
WEIGHTS = f32([[[1, -1]], [[2, 0.5]]])
BLIND = np.array([[[[True, True, True], [False, False, False]]]])  # the second query sees nothing
HIDDEN = np.array([[[[True, True, False]]]])


def sections():
    """Every section of this file, in the order of the page."""
    for title, questions, convention in (
        ("Attention: a query that sees nothing gets zeros", blind(), True),
        ("Attention: what a mask hides", hidden(), False),
        ("Attention: infinities and NaN that are seen", seen(), False),
        ("Attention: small floats", halves(), False),
        ("Attention: derivatives", derivatives(), False),
        ("Attention: shapes", shapes(), False),
        ("Attention: wrong shapes", mistakes(), False),
        ("Attention: the rest of the family", family(), False),
    ):
        yield Section(title, questions, convention, ATTENDING)


def blind():
    title = "the second of two queries masked whole"
    right = Near(oracle.attention(QUERY, KEY, VALUE, mask=BLIND))
    masked = attention(QUERY, KEY, None, mask=BLIND)
    yield value(title, masked, right, VALUE)
    yield ask_for("checked", f"{title}, jax_debug_nans on", masked, right, VALUE)
    for place, name in enumerate(PLACES):
        yield _gradient(f"gradient in the {name}, {title}", place, mask=BLIND)
    title = "a bias of −inf on every key of the second query"
    bias = np.where(BLIND, 0, -INF).astype(np.float32)
    yield value(title, attention(QUERY, KEY, None, bias), right, VALUE)
    yield _gradient(f"gradient in the queries, {title}", 0, bias=bias)
    none = attention(QUERY, KEY, None, key_value_seq_lengths=np.array([0], np.int32))
    yield value("key_value_seq_lengths = 0", none, Near(np.zeros((1, 2, 1, 2))), VALUE)
    one = attention(QUERY, KEY, None, query_seq_lengths=np.array([1], np.int32))
    right = oracle.attention(QUERY, KEY, VALUE)
    right[:, 1] = 0
    yield value("query_seq_lengths = 1 of 2", one, Near(right), VALUE)


def hidden():
    for behind in (NAN, INF):
        values, keys = VALUE.copy(), KEY.copy()
        values[:, 2] = keys[:, 2] = behind
        right = Near(oracle.attention(QUERY, KEY, VALUE, mask=HIDDEN))
        title = f"{behind:g} in a masked "
        yield value(f"{title}value", attention(QUERY, KEY, None, mask=HIDDEN), right, values)
        yield value(f"{title}key", attention(QUERY, None, VALUE, mask=HIDDEN), right, keys)
        title = f"gradient in the queries, {title}"
        yield _gradient(f"{title}value", 0, values=values, mask=HIDDEN)
        yield _gradient(f"{title}key", 0, keys=keys, mask=HIDDEN)
    values = VALUE.copy()
    values[:, 2] = NAN
    causal = attention(QUERY, KEY, None, is_causal=True)
    right = Near(oracle.attention(QUERY, KEY, VALUE, mask=np.tri(2, 3, dtype=bool)))
    yield value("nan in a value of the future, is_causal", causal, right, values)
    two = attention(QUERY, KEY, None, key_value_seq_lengths=np.array([2], np.int32))
    right = Near(oracle.attention(QUERY, KEY, VALUE, mask=HIDDEN))
    yield value("nan in a value beyond key_value_seq_lengths", two, right, values)


def seen():
    query = QUERY.copy()
    query[:, 0] = NAN
    right = oracle.attention(QUERY, KEY, VALUE)
    right[:, 0] = NAN
    yield value("nan in the first of two queries", attention(None, KEY, VALUE), Near(right), query)
    bias = f32([[[0, 0, -INF]]])
    right = Near(oracle.attention(QUERY, KEY, VALUE, mask=HIDDEN))
    yield value("a bias of −inf on one key", attention(QUERY, KEY, None, bias), right, VALUE)
    bias = f32([[[1e7, 1e7 + 1, 1e7]]])
    right = Near(oracle.attention(0 * QUERY, KEY, VALUE, bias))
    title = "a bias of (1e7, 1e7 + 1, 1e7), queries of 0"
    yield value(title, attention(0 * QUERY, KEY, None, bias), right, VALUE)


def halves():
    rng = np.random.default_rng(0)
    for dtype in ("bfloat16", "float16"):
        query, key, values = (rng.normal(0, 2, (1, n, 1, 8)).astype(dtype) for n in (4, 256, 256))
        values = np.abs(values)
        right = Ulps(oracle.attention(query, key, values), dtype)
        functions = attention(*(x.astype(np.float32) for x in (query, key)), None)
        yield value(f"mixtures of 256 positive {dtype} values", functions, right, values)
    query, key = 300 * np.ones((1, 1, 1, 4)), f32([[[300] * 4], [[299] * 4]])
    values = f32([[[1] * 4], [[3] * 4]]).astype(np.float16)
    right = Near(oracle.attention(query, key, values))
    title = "float16, scores beyond its largest number"
    yield value(title, attention(query, key, None), right, values)


def derivatives():
    for place, name in enumerate(PLACES):
        yield _gradient(f"gradient in the {name}", place)
    functions = attention(None, KEY, VALUE)
    right = Near(oracle.hessian_by_differences(_of_queries, QUERY, WEIGHTS), 1e-3, 1e-4)
    yield hessian(
        "Hessian of Σ w·attention in the queries (1e-3)", functions, right, QUERY, WEIGHTS
    )
    tangent = f32([[[1, 0]], [[0, 1]]])
    ahead, behind = (_of_queries(QUERY + np.float64(d) * tangent) for d in (1e-4, -1e-4))
    right = (ahead - behind) / 2e-4
    yield ask_for("pushed", "jvp in the queries", functions, Near(right), QUERY, tangent)
    twice = np.stack([QUERY, 2 * QUERY])
    right = Near(np.stack([_of_queries(x) for x in twice]))
    yield ask_for("vmapped", "vmap over queries", functions, right, twice)


def shapes():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    for title, query, key, values in (
        ("two query heads for one of the keys", (1, 2, 2, 2), (1, 3, 1, 2), (1, 3, 1, 2)),
        ("values wider than keys", (1, 2, 1, 2), (1, 3, 1, 2), (1, 3, 1, 4)),
        ("no batch axis", (2, 1, 2), (3, 1, 2), (3, 1, 2)),
        ("two batch axes", (2, 1, 2, 1, 2), (2, 1, 3, 1, 2), (2, 1, 3, 1, 2)),
    ):
        query, key, values = normal(*query), normal(*key), normal(*values)
        right = Near(oracle.attention(query, key, values))
        yield value(title, attention(query, key, None), right, values)


def mistakes():
    for title, mask in (
        ("a mask of 2 keys for 3", np.ones((1, 1, 2, 2), bool)),
        ("a mask of more dimensions than the scores", np.ones((2, 1, 1, 2, 3), bool)),
    ):
        yield value(title, attention(QUERY, KEY, None, mask=mask), Refused(), VALUE)
    three, two = np.repeat(QUERY, 3, -2), np.repeat(KEY, 2, -2)
    title = "3 query heads for 2 of the keys"
    yield value(title, attention(three, two, None), Refused(), np.repeat(VALUE, 2, -2))
    yield value("2 values for 3 keys", attention(QUERY, KEY, None), Refused(), VALUE[:, :2])


def family():
    for name, alpha in (("entmax 1.5", 1.5), ("sparsemax", 2.0), ("arg max (α = ∞)", INF)):
        right = Near(oracle.attention(QUERY, KEY, VALUE, alpha=alpha))
        yield value(f"weights by {name}", attention(QUERY, KEY, None, alpha=alpha), right, VALUE)
    capped = attention(QUERY, KEY, None, logits_soft_cap=1.0)
    right = Near(oracle.attention(QUERY, KEY, VALUE, cap=1.0))
    yield value("scores capped softly at 1", capped, right, VALUE)
    # A sink of score 0 is one more key with value zero.
    keys, values = (np.concatenate([x, 0 * x[:, :1]], axis=1) for x in (KEY, VALUE))
    right = Near(oracle.attention(QUERY, keys, values))
    yield value("a sink of score 0", attention(QUERY, KEY, None, sinks=0.0), right, VALUE)
    segments = {"query_segment_ids": [[0, 1]], "key_value_segment_ids": [[0, 1, 1]]}
    segments = {name: np.array(ids, np.int32) for name, ids in segments.items()}
    mask = np.array([[True, False, False], [False, True, True]])
    right = Near(oracle.attention(QUERY, KEY, VALUE, mask=mask))
    yield value("two segments", attention(QUERY, KEY, None, **segments), right, VALUE)


def _of_queries(query: np.ndarray) -> np.ndarray:
    return oracle.attention(query, KEY, VALUE)


def _gradient(title: str, place: int, *, keys=KEY, values=VALUE, **seen):
    """The gradient of Σ w·attention in its input at that place."""
    inputs = [QUERY, keys, values]
    x = inputs[place]

    def with_input(x):
        return oracle.attention(*inputs[:place], x, *inputs[place + 1 :], **seen)

    right = Near(oracle.by_differences(with_input, x, WEIGHTS))
    inputs_left = [None if i == place else each for i, each in enumerate(inputs)]
    return gradient(title, attention(*inputs_left, **seen), right, x, WEIGHTS)
