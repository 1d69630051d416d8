"""Experts, weights and statistics against an oracle, at edges, split over a mesh, and wrong use."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from jsoftmax.routing import route, update_bias
from tests.routing import routing_oracle as oracle

EXPERTS = 16
OPTIONS = {
    "softmax": {},
    "softmax before the choice": {"normalize": False},
    "sigmoid": {"score": "sigmoid"},
    "sigmoid as it is": {"score": "sigmoid", "normalize": False},
    "entmax": {"score": "entmax"},
    "entmax before the choice": {"score": "entmax", "normalize": False, "alpha": 2.0},
    "groups": {"groups": 4, "kept": 2, "score": "sigmoid"},
    "groups judged by their best": {"groups": 8, "kept": 3, "best": 1},
    "bias": {"score": "sigmoid", "bias": np.linspace(-0.3, 0.3, EXPERTS)},
    "bias and groups": {"bias": np.linspace(-0.3, 0.3, EXPERTS), "groups": 4, "kept": 2},
}
CAPACITIES = {
    "softmax": {"capacity": 1.5},
    "in proportion": {"capacity": 1.5, "alpha": 1.0},
    "sigmoid": {"capacity": 1.2, "alpha": 2.0, "score": "sigmoid"},
    "entmax": {"capacity": 2.0, "score": "entmax"},
}


def logits(*tokens, seed=0):
    return 2 * np.random.default_rng(seed).standard_normal((*tokens, EXPERTS))


def routed(z, k, **options):
    names = {"kept": "groups_kept", "best": "group_best"}
    return route(z, k, **{names.get(name, name): x for name, x in options.items()})


def assert_is_that_of_the_oracle(z, k, options, rtol=1e-12):
    found = routed(jnp.asarray(z), k, **options)
    experts, weights, sums = oracle.route(z, k, **options)
    np.testing.assert_array_equal(found.experts, experts)
    np.testing.assert_allclose(found.weights, weights, rtol=rtol, atol=1e-14)
    for name, value in sums.items():
        np.testing.assert_allclose(getattr(found.statistics, name), value, rtol=rtol)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_that_of_the_oracle(name):
    assert_is_that_of_the_oracle(logits(10_000), 4, OPTIONS[name])


@pytest.mark.parametrize("name", CAPACITIES)
def test_a_capacity_is_that_of_the_oracle(name):
    """Some experts are above it, and others are below."""
    z = logits(40)
    options = CAPACITIES[name]
    assert_is_that_of_the_oracle(z, 4, options, rtol=1e-11)
    free = routed(z, 4, **{n: x for n, x in options.items() if n != "capacity"})
    mass, limited = by_expert(free), by_expert(routed(z, 4, **options))
    assert (mass > options["capacity"]).any() and (mass < options["capacity"]).any()
    np.testing.assert_allclose(limited, np.minimum(mass, options["capacity"]), rtol=1e-12)


def by_expert(routing):
    return np.bincount(np.ravel(routing.experts), np.ravel(routing.weights), minlength=EXPERTS + 1)[
        :EXPERTS
    ]


def test_masked_experts_and_tokens_count_for_nothing():
    z = logits(50)
    mask = np.random.default_rng(1).random(z.shape) < 0.2
    mask[:3] = False
    for options in (*OPTIONS.values(), {"capacity": 1.0}):
        found = routed(np.where(mask, z, np.nan), 4, where=mask, **options)
        experts, weights, sums = oracle.route(np.where(mask, z, -np.inf), 4, **options)
        np.testing.assert_array_equal(found.experts, experts)
        np.testing.assert_allclose(found.weights, weights, rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(found.statistics.importance, sums["importance"], rtol=1e-12)
        assert found.statistics.tokens == sums["tokens"] < 50
    whole = route(z, 4, where=np.zeros((50, 1), bool))
    assert whole.statistics.balance_loss == whole.statistics.z_loss == 0
    assert (whole.experts == EXPERTS).all() and (whole.weights == 0).all()


def test_the_losses_are_those_of_their_formulas():
    """Switch: E Σ f_i P_i; ST-MoE: the mean of (log Σ exp z)²."""
    z = logits(100)
    statistics = route(z, 2).statistics
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    top = np.argsort(-z, -1)[:, :2]
    f = np.bincount(top.ravel(), minlength=EXPERTS) / 200
    assert statistics.balance_loss == pytest.approx(EXPERTS * (f * p.mean(0)).sum(), rel=1e-12)
    level = np.log(np.exp(z).sum(-1))
    assert statistics.z_loss == pytest.approx((level**2).mean(), rel=1e-12)
    even = route(np.log(np.eye(EXPERTS) + 0.5), 1).statistics
    assert even.balance_loss == pytest.approx(1, rel=1e-12)


def test_one_token_alone_is_routed():
    z = logits()
    for capacity in (None, 0.2):
        alone = route(z, 3, capacity=capacity)
        chex.assert_trees_all_equal(
            (alone.experts[None], alone.weights[None]), route(z[None], 3, capacity=capacity)[:2]
        )


def test_ties_are_broken_by_the_lowest_number():
    for score in ("softmax", "sigmoid", "entmax"):
        assert route(np.zeros(EXPERTS), 3, score=score).experts.tolist() == [0, 1, 2]
        signed = jnp.where(jnp.arange(EXPERTS) % 2, 0.0, -0.0)
        assert jax.jit(lambda z, s=score: route(z, 3, score=s).experts)(signed).tolist() == [
            0, 1, 2,
        ]  # fmt: skip
    # σ is 1 for both; the logits tell them apart.
    assert route(np.array([50.0, 60.0, 0.0]), 1, score="sigmoid").experts.tolist() == [1]


def test_weights_of_far_logits_do_not_underflow():
    z = jnp.asarray([-200.0, -201.0, -300.0], jnp.float32)
    w = route(z, 2, score="sigmoid").weights
    np.testing.assert_allclose(w, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-6)


def test_infinite_and_undefined_logits():
    z = jnp.array([[np.inf, 1.0, -np.inf], [np.nan, 0.0, 1.0], [0.0, 0.0, 2.0]])
    routing = route(z, 2)
    assert routing.weights[0].tolist() == [1, 0] and routing.weights[2, 0] > 0.8
    assert jnp.isnan(routing.weights[1]).any()
    assert route(z[:1, 1:], 2).experts.tolist() == [[0, 2]]
    assert route(z[:0], 2).weights.shape == (0, 2)
    assert route(z[:0], 2).statistics.balance_loss == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_logits_are_computed_in_float32(dtype):
    z = jnp.asarray(logits(100), dtype)
    found, wide = route(z, 4), route(z.astype(jnp.float64), 4)
    assert found.weights.dtype == dtype and found.statistics.importance.dtype == jnp.float32
    chex.assert_trees_all_equal(found.experts, wide.experts)
    eps = jnp.finfo(dtype).eps  # of the last rounding; float32 has a few before it
    near = 4 * eps if dtype == jnp.float32 else eps
    chex.assert_trees_all_close(found.weights, wide.weights.astype(dtype), rtol=near)
    assert route(jnp.arange(6), 2).weights.dtype == jnp.float64


def results(z, k=3, **options):
    """All that is differentiable, as one tree."""
    found = routed(z, k, **options)
    return found.weights, found.statistics.balance_loss, found.statistics.z_loss


@pytest.mark.parametrize(
    "options",
    [*OPTIONS.values(), {"capacity": 1.2}, {"capacity": 1.2, "alpha": 1.0, "score": "sigmoid"}],
    ids=[*OPTIONS, "capacity", "capacity in proportion"],
)
def test_derivatives(options):
    check_grads(functools.partial(results, **options), (jnp.asarray(logits(9)),), 2, eps=1e-6)


def test_derivatives_in_alpha_and_capacity():
    z = jnp.asarray(logits(9))

    def weights(alpha, capacity):
        return route(z, 3, score="entmax", alpha=alpha, capacity=capacity).weights

    check_grads(weights, (jnp.asarray(1.4), jnp.asarray(1.1)), 1, eps=1e-6)


def test_a_traced_number_out_of_range_gives_nan():
    z = logits(9)
    assert jnp.isnan(route(z, 3, capacity=jnp.asarray(-1.0)).weights).all()
    assert jnp.isnan(route(z, 3, score="entmax", alpha=jnp.asarray(-1.0)).weights).all()


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "entmax"])
def test_statistics_and_capacity_are_those_of_all_parts(name):
    """Tokens over both axes of 2 × 4, in `shard_map` that checks types, and on Explicit axes."""
    options = {**CAPACITIES[name], "where": np.random.default_rng(2).random((8, 5, 1)) < 0.9}
    z = jnp.asarray(logits(8, 5))

    def loss(found):
        return jnp.sum(jnp.sin(found[0])) + found[1] + found[2]

    def whole(z):
        found = results(z, **options)
        return loss(found), found

    both = functools.partial(jax.value_and_grad, has_aux=True)
    expected = both(whole)(z)
    mask = options.pop("where")

    def parts(z, mask):
        return results(z, where=mask, axis_name=("data", "model"), **options)

    tokens = P(("data", "model"))
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    mapped = jax.shard_map(
        parts, mesh=mesh, in_specs=(tokens, tokens), out_specs=(tokens, P(), P())
    )
    found = jax.jit(both(lambda z: (loss(mapped(z, mask)), mapped(z, mask))))(z)
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)
    explicit = jax.make_mesh((2, 4), ("data", "model"))
    for spec in (tokens, P("data"), P(None, None, "model")):
        with jax.set_mesh(explicit):
            there = jax.device_put(z, NamedSharding(explicit, spec))
            found = jax.jit(both(lambda z: whole_with(z, mask, options, loss)))(there)
        chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


def whole_with(z, mask, options, loss):
    found = results(z, where=mask, **options)
    return loss(found), found


def test_gradients_within_a_mapped_function_are_those_of_all_tokens():
    """With checked types the psum of statistics does not multiply gradients."""
    z = jnp.asarray(logits(8))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(z, **axis):
        return route(z, 2, **axis).statistics.balance_loss

    inner = jax.shard_map(
        jax.grad(functools.partial(loss, axis_name="data")),
        mesh=mesh, in_specs=P("data"), out_specs=P("data"),
    )  # fmt: skip
    chex.assert_trees_all_close(inner(z), jax.grad(loss)(z), rtol=1e-12)


def test_the_bias_balances_without_a_loss():
    """Experts that everyone prefers lose tokens until all have about as many."""
    z = jnp.asarray(logits(512) + np.linspace(0, 3, EXPERTS))

    @jax.jit
    def step(bias, _):
        load = route(z, 2, score="sigmoid", bias=bias).statistics.load
        return update_bias(bias, load, 2e-3), load

    _, loads = jax.lax.scan(step, jnp.zeros(EXPERTS), None, length=600)
    first, last = (x.max() / x.mean() for x in (loads[0], loads[-1]))
    assert first > 2 and last < 1.15


def test_the_bias_moves_by_the_sign():
    assert update_bias(jnp.zeros(4), jnp.array([3, 3, 3, 3]), 0.1).tolist() == [0, 0, 0, 0]
    moved = update_bias(jnp.ones((2, 3), jnp.bfloat16), np.array([[0, 1, 5], [3, 3, 0]]), 0.5)
    assert moved.dtype == jnp.bfloat16
    assert moved.tolist() == [[1.5, 1.5, 0.5], [0.5, 0.5, 1.5]]


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("error", "words", "k", "options"),
    [
        (ValueError, ("`k` must be from 1 to 6", "7"), 7, {}),
        (ValueError, ("`k` must be from 1 to 2",), 3, {"groups": 3, "groups_kept": 1}),
        (TypeError, ("`k` must be an integer", "2.0"), 2.0, {}),
        (TypeError, ("`k` must be an integer", "True"), True, {}),
        (ValueError, ("`groups`", "4 does not divide 6"), 2, {"groups": 4}),
        (ValueError, ("`groups_kept` must be from 1 to 3",), 2, {"groups": 3, "groups_kept": 4}),
        (ValueError, ("`group_best` must be from 1",), 2, {"group_best": 0}),
        (ValueError, ("`score` is 'tanh'", "'softmax', 'sigmoid', 'entmax'"), 2, {"score": "tanh"}),
        (ValueError, ("`bias`", "(4,)", "(5, 6)"), 2, {"bias": np.zeros(4)}),
        (ValueError, ("`capacity` must be positive",), 2, {"capacity": 0}),
        (ValueError, ("`capacity` has shape (5,)", "6 experts"), 2, {"capacity": np.ones(5)}),
        (ValueError, ("`alpha` must be positive",), 2, {"alpha": -1}),
        (TypeError, ("`regularizer` is 1.5",), 2, {"regularizer": 1.5}),
        (TypeError, ("`where` has dtype float64",), 2, {"where": np.ones((5, 6))}),
    ],
)
def test_a_mistake_is_answered_with_argument_and_remedy(error, words, k, options, unchecked):
    pattern = ".*".join(re.escape(w) for w in ("jsoftmax.route: ", *words))
    with pytest.raises(error, match=pattern):
        route(np.ones((5, 6)), k, **options)


def test_a_wrong_update_is_answered(unchecked):
    with pytest.raises(ValueError, match=r"`bias` has shape \(3,\) and `load` \(4,\)"):
        update_bias(np.zeros(3), np.zeros(4))
