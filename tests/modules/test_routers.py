"""Routers: twins that apply `route` to a linear gate, and a bias updated on demand."""

import functools

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import errors, nnx
from flax import linen as nn

import jsoftmax
import jsoftmax.linen
import jsoftmax.nnx
from jsoftmax.nnx._router import BalancingBias
from jsoftmax.routing import route, update_bias

KEY = jax.random.key(0)
TOKENS, WIDTH, EXPERTS, K = 40, 8, 12, 3
H = jax.random.normal(KEY, (TOKENS, WIDTH))
MASK = np.random.default_rng(0).random((TOKENS, EXPERTS)) < 0.8
RATE = 0.02

OPTIONS = {
    "softmax": {},
    "softmax before the choice": {"normalize": False, "use_bias": True},
    "sigmoid of groups": {"score": "sigmoid", "groups": 4, "groups_kept": 2, "group_best": 1},
    "entmax": {"score": "entmax", "alpha": 2.0},
    "a regularizer": {"score": "entmax", "regularizer": jsoftmax.Elastic(0.5)},
    "balanced": {"score": "sigmoid", "use_balancing_bias": True},
}
by_name = pytest.mark.parametrize("name", OPTIONS)


def made(name, **more):
    options = {**OPTIONS[name], "param_dtype": jnp.float64, "bias_init": nn.initializers.ones}
    return jsoftmax.nnx.Router(WIDTH, EXPERTS, K, **options, **more, rngs=nnx.Rngs(0))


def variables_of(router):
    """The arrays of an NNX router as Linen's dictionary."""
    found = {"params": nnx.to_pure_dict(nnx.state(router, nnx.Param))}
    if router.balancing_bias is not None:
        found["balance"] = nnx.to_pure_dict(nnx.state(router, BalancingBias))
    return found


@by_name
def test_routers_are_twins_and_route_of_a_gate(name):
    """With all that a call takes, before and after the bias has moved."""
    left = made(name)
    options = {**OPTIONS[name], "param_dtype": jnp.float64, "bias_init": nn.initializers.ones}
    right = jsoftmax.linen.Router(WIDTH, EXPERTS, K, **options)
    variables = variables_of(left)
    chex.assert_trees_all_equal_shapes_and_dtypes(right.init(KEY, H), variables)
    names = ("score", "normalize", "groups", "groups_kept", "group_best", "alpha", "regularizer")
    given = {n: x for n, x in options.items() if n in names}
    z = H @ left.kernel[...] + (1 if "use_bias" in options else 0)
    calls = [{}, {"where": MASK}, {"capacity": 2.0, "where": MASK[:, :1]}]
    bias = jnp.zeros(EXPERTS) if "use_balancing_bias" in options else None
    for more in calls:
        expected = route(z, K, bias=bias, **given, **more)
        moves = {} if bias is None else {"bias_rate": RATE}
        chex.assert_trees_all_close(left(H, **more, **moves), expected, rtol=1e-12)
        found, state = right.apply(variables, H, **more, **moves, mutable=["balance"])
        chex.assert_trees_all_close(found, expected, rtol=1e-12)
        if bias is not None:
            bias = update_bias(bias, expected.statistics.load, RATE)
            variables = {**variables, **state}
            chex.assert_trees_all_equal(state["balance"], variables_of(left)["balance"])
            chex.assert_trees_all_close(left.balancing_bias[...], bias.astype(jnp.float32))


def test_the_bias_moves_by_the_load_of_several_calls():
    """By the sum of both; not when it is not asked to."""
    router = made("balanced")
    loads = [router(h).statistics.load for h in (H[:15], H[15:])]
    assert (router.balancing_bias[...] == 0).all()
    router.update_bias(loads[0] + loads[1], RATE)
    expected = update_bias(jnp.zeros(EXPERTS, jnp.float32), router_load(made("balanced")), RATE)
    chex.assert_trees_all_equal(router.balancing_bias[...], expected)
    twin = jsoftmax.linen.Router(WIDTH, EXPERTS, K, score="sigmoid", use_balancing_bias=True)
    variables = variables_of(made("balanced"))
    _, state = twin.apply(
        variables, loads[0] + loads[1], RATE, method="update_bias", mutable=["balance"]
    )
    chex.assert_trees_all_equal(state["balance"]["balancing_bias"], expected)
    with pytest.raises(errors.ModifyScopeVariableError):
        twin.apply(variables, H, bias_rate=RATE)


def router_load(router):
    return router(H).statistics.load


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_gate_of_narrow_features_is_in_float32(dtype):
    """Logits are those of a product in float64 to a few eps of float32, not of the features."""
    h = H.astype(dtype)
    for param_dtype in (jnp.float32, jnp.bfloat16):
        router = jsoftmax.nnx.Router(
            WIDTH, EXPERTS, K, param_dtype=param_dtype, use_balancing_bias=True, rngs=nnx.Rngs(0)
        )
        z, routing = router.logits(h), router(h)
        exact = h.astype(jnp.float64) @ router.kernel[...].astype(jnp.float64)
        assert z.dtype == routing.weights.dtype == jnp.float32
        assert routing.statistics.importance.dtype == router.balancing_bias[...].dtype
        assert router.balancing_bias[...].dtype == jnp.float32
        np.testing.assert_allclose(z, exact, atol=2e-6)
    narrow = jsoftmax.nnx.Router(WIDTH, EXPERTS, K, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert narrow(h).weights.dtype == jnp.bfloat16
    # The product keeps its precision on hardware with a lower default.
    text = jax.jit(narrow.logits).lower(H).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in text


def test_strict_promotion():
    """Of ranks and dtypes, with a bias of the gate and one of the choice."""
    router = jsoftmax.nnx.Router(
        WIDTH, EXPERTS, K, use_bias=True, use_balancing_bias=True, rngs=nnx.Rngs(0)
    )
    h = H.astype(jnp.bfloat16).reshape(4, 10, WIDTH)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        routing = router(h, bias_rate=RATE, where=MASK.reshape(4, 10, EXPERTS))
    assert routing.weights.shape == (4, 10, K) and routing.weights.dtype == jnp.float32


def test_training_balances_and_leaves_the_bias_to_itself():
    """Gradients reach the gate alone; optimizers of parameters do not see the bias."""
    skew = jnp.zeros(EXPERTS).at[:2].set(2.0)
    router = jsoftmax.nnx.Router(
        WIDTH, EXPERTS, K, score="sigmoid", use_balancing_bias=True, use_bias=True,
        bias_init=lambda key, shape, dtype: skew, rngs=nnx.Rngs(0),
    )  # fmt: skip
    optimizer = nnx.Optimizer(router, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(router, optimizer):
        def loss(router):
            routing = router(H, bias_rate=RATE)
            return jnp.square(routing.weights).sum(-1).mean(), routing.statistics.load

        (_, load), gradient = nnx.value_and_grad(loss, has_aux=True)(router)
        optimizer.update(router, gradient)
        return load, gradient

    load, gradient = step(router, optimizer)
    assert set(nnx.to_pure_dict(gradient)) == {"kernel", "bias"}
    assert load.max() > 0.8 * TOKENS
    for _ in range(100):
        load, _ = step(router, optimizer)
    assert load.max() < TOKENS / 2 and router.balancing_bias[0] < 0


def test_a_bias_that_has_moved_is_restored(tmp_path):
    """With orbax, into a router that is made abstractly."""
    router = made("balanced")
    router(H, bias_rate=RATE)
    graph, abstract = nnx.split(nnx.eval_shape(functools.partial(made, "balanced")))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", nnx.state(router))
        checkpointer.wait_until_finished()
        state = checkpointer.restore(tmp_path / "checkpoint", abstract)
    restored = nnx.merge(graph, state)
    assert (restored.balancing_bias[...] != 0).any()
    chex.assert_trees_all_equal(restored(H), router(H))


def test_a_router_in_shard_map_follows_the_load_of_all_devices():
    """Tokens over both axes of 2 × 4; types say that state and statistics are the same on all."""
    P = jax.sharding.PartitionSpec
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=kinds)
    router = made("balanced")
    graph, state = nnx.split(router)
    state = nnx.to_pure_dict(state)

    def step(state, h, axis_name=None):
        module = nnx.merge(graph, state)
        routing = module(h, axis_name=axis_name, bias_rate=RATE)
        return routing, nnx.to_pure_dict(nnx.state(module))

    rows = P(("data", "model"))
    out = jsoftmax.routing.Routing(rows, rows, P()), P()
    mapped = jax.shard_map(
        functools.partial(step, axis_name=("data", "model")),
        mesh=mesh, in_specs=(P(), rows), out_specs=out,
    )  # fmt: skip
    found, expected = jax.jit(mapped)(state, H), step(state, H)
    chex.assert_trees_all_close(found, expected, rtol=1e-12)


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_mistakes_are_explained(unchecked):
    plain = jsoftmax.nnx.Router(WIDTH, EXPERTS, K, rngs=nnx.Rngs(0))
    twin = jsoftmax.linen.Router(WIDTH, EXPERTS, K)
    variables = twin.init(KEY, H)
    for home, call in (("nnx", plain), ("linen", functools.partial(twin.apply, variables))):
        with pytest.raises(ValueError, match=rf"{home}.Router: `features` have shape \(40, 7\).*8"):
            call(H[:, :7])
        with pytest.raises(TypeError, match=f"{home}.Router: `features` has dtype complex"):
            call(H * 1j)
        with pytest.raises(ValueError, match=f"{home}.Router: .*use_balancing_bias=True"):
            call(H, bias_rate=RATE)
    for make in (functools.partial(jsoftmax.nnx.Router, rngs=nnx.Rngs(0)), jsoftmax.linen.Router):
        with pytest.raises(ValueError, match="Router: both `alpha` and `regularizer`"):
            make(WIDTH, EXPERTS, K, alpha=1.5, regularizer=jsoftmax.Elastic(1.0))
        with pytest.raises(ValueError, match="Router: `alpha` must be positive"):
            make(WIDTH, EXPERTS, K, alpha=0.0)
    with pytest.raises(ValueError, match="`k` must be from 1 to 12"):
        jsoftmax.nnx.Router(WIDTH, EXPERTS, 13, rngs=nnx.Rngs(0))(H)
