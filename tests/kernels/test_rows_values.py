"""Mappings and losses by kernels equal those by XLA, and those of an oracle."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from jsoftmax.kernels.rows._pieces import Rows
from jsoftmax.kernels.rows._row_call import RowCall
from jsoftmax.kernels.rows._tpu_kernel import tpu_kernel
from tests import oracles_by_bisection as oracles
from tests.a_regularizer_of_a_stranger import Blend
from tests.kernels.rows_helpers import KERNELS, LOSSES, MAPPINGS, by_kernel, same, scores

pytestmark = pytest.mark.kernels
INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0, "by row"])
def test_ten_thousand_rows_are_right(alpha):
    """Against bisection in float64, spreads from 0.1 to 100."""
    z = scores(10_000, 33, 1.0) * jnp.logspace(-1, 2, 10_000, dtype=np.float32)[:, None]
    order = np.linspace(0.5, 4, 10_000, dtype=np.float32)[:, None] if alpha == "by row" else alpha
    if alpha == "by row":
        p = by_kernel(js.entmax)(z, jnp.asarray(order))
    else:
        p = by_kernel(functools.partial(js.entmax, alpha=alpha))(z)
    expected = oracles.entmax(z, np.asarray(order, np.float64))
    # A score is rounded to an eps of itself, and p moves by its slope times that.
    slope = np.where(
        expected > 0, np.where(expected > 0, expected, 1) ** (2 - np.asarray(order)), 0
    )
    eps = float(np.finfo(np.float32).eps)
    allowed = 8 * eps * (expected + np.minimum(slope, 1) * (1 + np.abs(z).max(-1, keepdims=True)))
    assert (np.abs(p - expected) <= np.maximum(allowed, 1e-6)).all()
    np.testing.assert_allclose(np.asarray(p, float).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "chip"),
    [(name, "tpu") for name in MAPPINGS] + [(name, "gpu") for name in ("softmax", "entmax 3")],
)
def test_mappings_are_those_of_xla(name, chip):
    """For a ragged number of rows and classes."""
    z = scores(9, 21)
    same(by_kernel(MAPPINGS[name], chip)(z), jax.jit(MAPPINGS[name])(z))


@pytest.mark.parametrize("chip", KERNELS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 1), (2, 7), (130, 50), (130, 128), (200, 129), (5, 1000)]
)
def test_any_number_of_rows_and_classes(shape, chip):
    z = scores(*shape)
    for function in (js.softmax, js.entmax):
        same(by_kernel(function, chip)(z), function(z))
    labels = jnp.arange(shape[0]) % shape[1]
    same(by_kernel(js.cross_entropy, chip)(z, labels), js.cross_entropy(z, labels))


@pytest.mark.parametrize("chip", KERNELS)
@pytest.mark.parametrize("shape", [(2, 20_011)])
def test_long_rows_are_walked_through_in_pieces(shape, chip):
    z = scores(*shape)
    a = jnp.full((shape[0], 1), 1.7, np.float32)
    same(by_kernel(js.entmax, chip)(z), js.entmax(z))
    same(by_kernel(js.entmax, chip)(z, a), js.entmax(z, a))
    labels = jnp.arange(shape[0])
    same(by_kernel(js.entmax_loss, chip)(z, labels), js.entmax_loss(z, labels))


def test_reductions_that_do_not_need_one_another_are_one_turn(monkeypatch):
    """Also where the numbers made of one stand between them."""
    turns, sweep = [], Rows.sweep
    monkeypatch.setattr(Rows, "sweep", lambda *given: turns.append(1) or sweep(*given))

    def function(x, _):
        top = jnp.max(x, axis=1, keepdims=True) + 1
        total = jnp.sum(x, axis=1, keepdims=True) * 2
        squares = jnp.sum(x * x, axis=1, keepdims=True)
        return (jnp.sum(x * squares, axis=1, keepdims=True) + total + top,)

    x = scores(3, 20_480)
    call = RowCall(function, x.shape[1], (True,), ((False, jnp.float32),))
    (found,) = tpu_kernel(call, x, interpret=True)
    same(found, function(x, None)[0], rtol=1e-4)
    assert len(turns) == 2


def pairs():
    """Every pair of values of two options, in few settings."""
    options = {
        "function": ["entmax", "softmax", "log_softmax"],
        "where": [None, "shared", "full", "rows"],
        "prior": [None, "shared", "full"],
        "temperature": [1.0, 0.5, -2.0, "rows", 0.0],
        "dtype": [np.float32, jnp.bfloat16, np.float16],
        "alpha": [1.5, "rows"],
    }
    wanted = {
        (n, a, m, b)
        for (n, xs), (m, ys) in itertools.combinations(options.items(), 2)
        for a in xs
        for b in ys
    }
    rng = np.random.default_rng(0)
    while wanted:
        tries = [{n: xs[rng.integers(len(xs))] for n, xs in options.items()} for _ in range(200)]

        gains = [{w for w in wanted if x[w[0]] is w[1] and x[w[2]] is w[3]} for x in tries]
        best, gained = max(zip(tries, gains, strict=True), key=lambda pair: len(pair[1]))
        if not gained:
            continue
        wanted -= gained
        yield best


@pytest.mark.parametrize(("number", "options"), list(enumerate(pairs())))
def test_pairs_of_options(number, options):
    """Masks, priors, temperatures, dtypes and orders, each with each."""
    z = scores(6, 11, dtype=options["dtype"])
    given = {}
    if options["where"]:
        shape = {"shared": (11,), "full": (6, 11), "rows": (6, 1)}[options["where"]]
        given["where"] = jax.random.bernoulli(jax.random.key(1), 0.7, shape)
    if options["prior"]:
        shape = {"shared": (11,), "full": (6, 11)}[options["prior"]]
        given["prior"] = jax.random.uniform(jax.random.key(2), shape, np.float32, 0, 2)
    rows = jnp.linspace(-1, 2, 6, dtype=np.float32)[:, None]
    given["temperature"] = rows if options["temperature"] == "rows" else options["temperature"]
    static = {} if options["temperature"] == "rows" else {"temperature": given.pop("temperature")}
    function = functools.partial(getattr(js, options["function"]), **static)
    if options["function"] == "entmax":
        if options["alpha"] == "rows":
            given["alpha"] = jnp.linspace(0.7, 3, 6, dtype=np.float32)[:, None]
        else:
            function = functools.partial(function, alpha=1.5)
    found = by_kernel(function, ("tpu", "gpu")[number % 2])(z, **given)
    eps = float(jnp.finfo(options["dtype"]).eps)
    same(found, function(z, **given), rtol=max(1e-5, eps), atol=max(2e-6, eps / 4))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["labels", "distributions", "shared distribution", "options"])
def test_losses_are_those_of_xla(name, kind):
    z, given = scores(9, 21), {}
    if kind in ("labels", "options"):
        y = jnp.arange(9, dtype=np.int32) * 2
    else:
        y = js.softmax(scores(1 if "shared" in kind else 9, 21, seed=1))
    if kind == "options":
        given = {"where": jnp.arange(21) != 5, "class_weights": jnp.linspace(0.5, 2, 21)}
        given = jax.tree.map(lambda x: x.astype(np.float32) if x.dtype != bool else x, given)
    static = {"label_smoothing": 0.1, "ignore_index": 4} if kind == "options" else {}
    function = functools.partial(LOSSES[name], **static)
    same(by_kernel(function)(z, y, **given), function(z, y, **given), atol=4e-6)


EDGES = np.array(
    [
        [1, 0.5, -INF, 0, 2],
        [1, INF, 2, INF, -INF],
        [INF, 0, 0, 0, 0],
        [-INF, -INF, -INF, -INF, -INF],
        [1, NAN, 0, 0, 0],
        [NAN, INF, 0, -INF, 0],
        [3e38, -3e38, 3e38, 0, 0],
        [1, 1, 1, 1, 1],
        [-3e38, -INF, -3e38, -3e38, -3e38],
        [1e-38, 0, 0, 1e30, 1e30],
    ],
    np.float32,
)


EDGY = ("softmax", "log_softmax", "sparsemax", "entmax", "entmax 3", "Fermi–Dirac", "logsumexp")


@pytest.mark.parametrize(
    ("name", "chip"), [(name, "tpu") for name in EDGY] + [("entmax", "gpu"), ("softmax", "gpu")]
)
def test_edges_are_those_of_xla(name, chip):
    """Infinite, equal, empty and spoiled rows; a NaN stays in its row."""
    function = MAPPINGS[name]
    same(by_kernel(function, chip)(EDGES), jax.jit(function)(EDGES))
    mask = jnp.asarray(np.arange(5) != 1)
    found = by_kernel(function, chip)(EDGES, where=mask)
    same(found, jax.jit(function)(EDGES, where=mask))


@pytest.mark.parametrize("name", ["cross_entropy", "entmax_loss"])
def test_losses_at_the_edges_are_those_of_xla(name):
    """And labels that are no class give NaN."""
    function = LOSSES[name]
    for labels in ([0] * 10, [2] * 10, [1, 7, -1] + [4] * 7):
        labels = jnp.asarray(labels, np.int32)
        same(by_kernel(function)(EDGES, labels), jax.jit(function)(EDGES, labels))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "int8", "bool"])
def test_dtypes_are_those_of_xla(dtype):
    z = scores(4, 9).astype(dtype)
    if dtype in ("int8", "bool"):
        with jax.enable_x64(False):
            found, expected = by_kernel(js.entmax)(z), js.entmax(z)
    else:
        found, expected = by_kernel(js.entmax)(z), js.entmax(z)
    same(found, expected, rtol=0, atol=float(jnp.finfo(expected.dtype).eps))


def test_axes_and_leading_axes():
    z = jnp.asarray(np.random.default_rng(0).normal(0, 2, (3, 5, 4)), np.float32)
    for axis in (0, -2):
        function = functools.partial(js.entmax, axis=axis)
        same(by_kernel(function)(z), function(z))
        mean = functools.partial(js.logsumexp, axis=axis)
        same(by_kernel(mean)(z), mean(z))
        keeping = functools.partial(mean, keepdims=True)
        same(by_kernel(keeping)(z), keeping(z))
    same(by_kernel(js.softmax)(z[0, 0]), js.softmax(z[0, 0]))
    assert by_kernel(js.softmax)(z[:0]).shape == (0, 5, 4)


def test_alpha_of_a_group_of_rows():
    """A number that broadcasts to rows."""
    z = jnp.asarray(np.random.default_rng(0).normal(0, 2, (3, 5, 4)), np.float32)
    a = jnp.asarray([[[1.2]], [[1.7]], [[2.5]]], np.float32)
    same(by_kernel(js.entmax)(z, a), js.entmax(z, a))
    same(by_kernel(js.entmax)(z, jnp.float32(1.3)), js.entmax(z, jnp.float32(1.3)))


@pytest.mark.parametrize(
    ("shape", "chip"), [((9, 21), "tpu"), ((9, 21), "gpu"), ((130, 200), "tpu")]
)
def test_a_regularizer_of_a_stranger_is_as_good_as_ours(shape, chip):
    """One that gives no link, which is solved in every piece."""
    z = scores(*shape)
    strength = jnp.linspace(0.5, 2, shape[0], dtype=np.float32)[:, None]
    for regularizer in (Blend(), Blend(strength)):
        function = functools.partial(js.regularized_argmax, regularizer=regularizer)
        same(by_kernel(function, chip)(z), function(z), atol=4e-6)
