"""AdaptivelySparseAttention: twins that agree, Flax's attention by an α that stays in range."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jsoftmax.linen
import jsoftmax.nnx
from jsoftmax import attention_fn

pytestmark = pytest.mark.slow  # together some minutes

KEY = jax.random.key(0)
HEADS, LENGTH, FEATURES = 2, 5, 8
X = jax.random.normal(KEY, (3, LENGTH, FEATURES))
OTHER = jax.random.normal(jax.random.key(1), (3, 7, FEATURES))
CAUSAL = nn.make_causal_mask(X[..., 0])

KINDS = {"nnx": jsoftmax.nnx, "linen": jsoftmax.linen}
kinds = pytest.mark.parametrize("kind", KINDS)

# Options of both twins, other arrays, options of the call.
TWINS = {
    "as it comes": ({}, (), {"mask": CAUSAL}),
    "α for each head, of others": ({"alpha": np.array([1.2, 1.8])}, (OTHER,), {}),
    "other sizes and options": (
        {
            "attention": {"is_causal": True, "logits_soft_cap": 2.0, "scale": 1.0},
            "alpha": 3.0,
            "alpha_range": (1.0, np.inf),
            "qkv_features": 4,
            "out_features": 3,
            "use_bias": False,
            "normalize_qk": True,
            "param_dtype": jnp.float64,
        },
        (),
        {},
    ),
}


def twins(**options):
    """The twins and the parameters that both start with."""
    left = jsoftmax.nnx.AdaptivelySparseAttention(
        HEADS, FEATURES, decode=False, rngs=nnx.Rngs(0), **options
    )
    return left, jsoftmax.linen.AdaptivelySparseAttention(HEADS, **options), parameters(left)


def parameters(module):
    """The parameters of an NNX module as Linen's dictionary."""
    return {"params": nnx.to_pure_dict(nnx.state(module, nnx.Param))}


@pytest.mark.parametrize(("options", "others", "call"), TWINS.values(), ids=TWINS.keys())
def test_attentions_are_twins(options, others, call):
    """The parameters of one, put into the other, give the same."""
    left, right, variables = twins(**options)
    shapes = jax.eval_shape(right.init, KEY, X)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)
    start = jax.jit(lambda: right.init(KEY, X)["params"]["free_alpha"])()
    chex.assert_trees_all_equal(start, variables["params"]["free_alpha"])
    chex.assert_trees_all_close(left.alpha, np.full(HEADS, options.get("alpha", 1.5)), rtol=1e-6)
    variables["params"]["free_alpha"] += jnp.array([0.3, -0.2], start.dtype)
    nnx.update(left, variables["params"])
    chex.assert_trees_all_equal(right.apply(variables, method="current_alpha"), left.alpha)

    @jax.jit
    def answers(*inputs):
        return left(*inputs, **call), right.apply(variables, *inputs, **call)

    chex.assert_trees_all_close(*answers(X, *others), atol=1e-12)


def test_at_an_alpha_of_one_it_is_the_attention_of_flax():
    """The lower limit of a learned α; also with heads that share keys."""
    options = {"num_kv_heads": 2, "dtype": jnp.float32, "decode": False}
    ours = jsoftmax.nnx.AdaptivelySparseAttention(4, FEATURES, rngs=nnx.Rngs(0), **options)
    theirs = nnx.MultiHeadAttention(4, FEATURES, rngs=nnx.Rngs(0), **options)
    ours.free_alpha[...] = jnp.full(4, -1e9)
    assert (ours.alpha == 1).all()
    found, expected = jax.jit(lambda: (ours(X, mask=CAUSAL), theirs(X, mask=CAUSAL)))()
    chex.assert_trees_all_close(found, expected, atol=1e-5)


@pytest.mark.slow
def test_gradients_reach_the_alpha_of_each_head():
    """As the chain rule has it, from finite differences of Flax's module with `attention_fn`."""
    left, right, variables = twins(param_dtype=jnp.float64)
    gradient = nnx.jit(nnx.grad(lambda layer: (layer(X) ** 2).sum()))(left)
    twin = jax.jit(jax.grad(lambda v: (right.apply(v, X) ** 2).sum()))(variables)
    found = gradient.free_alpha[...]
    chex.assert_trees_all_close(found, twin["params"]["free_alpha"], rtol=1e-10)

    @jax.jit
    def energy(alpha):
        flax = nn.MultiHeadDotProductAttention(
            HEADS, attention_fn=attention_fn(alpha), param_dtype=jnp.float64
        )
        params = {k: v for k, v in variables["params"].items() if k != "free_alpha"}
        return (flax.apply({"params": params}, X) ** 2).sum()

    # α = 1 + σ(a) has the slope (α−1)(2−α), 1/4 at 1.5. Away from kinks, central differences err by
    # a step squared, 1e-8.
    step = 1e-4 * np.eye(HEADS)
    differences = np.array([(energy(1.5 + h) - energy(1.5 - h)) / 2e-4 for h in step])
    chex.assert_trees_all_close(found, differences / 4, rtol=1e-5)
    assert (jnp.abs(found) > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize("alpha_range", [(1.0, 2.0), (1.0, np.inf)])
def test_training_lowers_the_loss_and_alpha_stays_in_range(alpha_range):
    """Also at steps that are far too long for α, in both twins alike."""
    left, right, variables = twins(alpha_range=alpha_range)
    target = jnp.roll(X, 1, axis=1)
    adam = optax.adam(0.03)
    optimizer = nnx.Optimizer(left, adam, wrt=nnx.Param)

    @nnx.jit
    def nnx_step(layer, optimizer):
        loss, gradient = nnx.value_and_grad(lambda x: optax.l2_loss(x(X), target).mean())(layer)
        optimizer.update(layer, gradient)
        return loss

    state = adam.init(variables)

    @jax.jit
    def linen_step(variables, state):
        loss, gradient = jax.value_and_grad(
            lambda v: optax.l2_loss(right.apply(v, X), target).mean()
        )(variables)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(variables, updates), state, loss

    losses = []
    for _ in range(20):
        loss = nnx_step(left, optimizer)
        variables, state, twin = linen_step(variables, state)
        chex.assert_trees_all_close(loss, twin, rtol=1e-3)
        losses.append(loss)
    assert losses[-1] < 0.8 * losses[0]
    assert (left.alpha != 1.5).all()
    lower, upper = alpha_range
    for away in (-1e4, 1e4):
        left.free_alpha[...] = jnp.full(HEADS, away, jnp.float32)
        loss = nnx_step(left, optimizer)
        assert jnp.isfinite(loss)
        assert (left.alpha >= lower).all() and (left.alpha <= upper).all()


@pytest.mark.slow
def test_decoding_step_by_step_is_the_whole_sequence_masked():
    """With the caches of both of Flax's modules, though the layer is causal by itself."""
    left, right, variables = twins(attention={"is_causal": True})
    whole = nnx.jit(lambda layer: layer(X))(left)
    left.init_cache(X.shape, X.dtype)
    nnx_step = nnx.jit(lambda layer, x: layer(x, decode=True))
    right = right.clone(decode=True)
    cache = jax.eval_shape(right.init, KEY, X)["cache"]
    cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), cache)
    linen_step = jax.jit(functools.partial(right.apply, mutable=["cache"]))
    for t in range(LENGTH):
        x = X[:, t : t + 1]
        twin, rest = linen_step({**variables, "cache": cache}, x)
        cache = rest["cache"]
        chex.assert_trees_all_close(nnx_step(left, x), twin, whole[:, t : t + 1], atol=1e-12)


@kinds
def test_dropout_is_that_of_flax(kind):
    """Drawn from its rngs. Weights are sown before, and with a large α most of them are 0."""
    left, right, variables = twins(
        dropout_rate=0.5, deterministic=False, alpha=1.9, attention={"scale": 4.0}
    )

    graph, state = nnx.split(left)

    @jax.jit
    def answers(key):
        if kind == "nnx":
            sowing = nnx.capture(nnx.merge(graph, state), nnx.Intermediate)
            y, sown = sowing(X, rngs=nnx.Rngs(dropout=key), sow_weights=True)
        else:
            rngs = {"dropout": key}
            y, sown = right.apply(
                variables, X, rngs=rngs, sow_weights=True, mutable=["intermediates"]
            )
            sown = sown["intermediates"]
        return y, sown["attention_weights"]

    y, (weights,) = answers(KEY)
    other, (same,) = answers(jax.random.key(1))
    chex.assert_trees_all_equal(y, answers(KEY)[0])
    chex.assert_trees_all_equal(weights, same)
    assert (y != other).any()
    chex.assert_trees_all_close(weights.sum(-1), jnp.ones((3, HEADS, LENGTH)), atol=1e-6)
    assert 0.5 < (weights == 0).mean() < 0.8


@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_as_in_flax(param_dtype):
    """Computed in `dtype`, stored in `param_dtype`, α among the rest."""
    left, right, variables = twins(dtype=jnp.bfloat16, param_dtype=param_dtype)
    chex.assert_trees_all_equal_dtypes(*jax.tree.leaves(variables), jnp.zeros((), param_dtype))
    assert left.alpha.dtype == jnp.float32
    assert jax.eval_shape(left, X).dtype == jnp.bfloat16
    assert jax.eval_shape(right.apply, variables, X).dtype == jnp.bfloat16


def test_modules_survive_jit_split_and_clone():
    """As any NNX module, a change of α included."""
    left, _, _ = twins()
    call = nnx.jit(lambda layer: layer(X))
    y = call(left)
    graph, state = nnx.split(left)
    chex.assert_trees_all_equal(call(nnx.merge(graph, state)), y)
    copy = nnx.clone(left)
    chex.assert_trees_all_equal(call(copy), y)
    copy.free_alpha[...] += 1
    assert (call(copy) != y).any() and (copy.alpha > left.alpha).all()
    assert set(parameters(left)["params"]) == {"query", "key", "value", "out", "free_alpha"}


def test_linen_modules_nest():
    """Inside others, under remat and scan, each layer with an α of its own."""

    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
            )
            return layers(name="layers")(x, None)[0]

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + jsoftmax.linen.AdaptivelySparseAttention(HEADS, name="mix")(x), None

    variables = jax.eval_shape(Tower().init, KEY, X)
    assert variables["params"]["layers"]["mix"]["free_alpha"].shape == (2, HEADS)
    assert jax.eval_shape(Tower().apply, variables, X).shape == X.shape


MISTAKES = {
    "α at an end": ({"alpha": 1.0}, ValueError, r"take flax.*with attention_fn\(alpha\)"),
    "α outside": ({"alpha": np.array([1.5, 2.5])}, ValueError, "strictly between"),
    "α for other heads": ({"alpha": np.full(3, 1.5)}, ValueError, r"does not broadcast to .* \(2,"),
    "an attention of one's own": ({"attention_fn": attention_fn()}, TypeError, "attention_fn"),
    "unknown options": ({"attention": {"heads": 2}}, TypeError, "heads"),
    "α twice": ({"attention": {"alpha": 2.0}}, TypeError, "alpha"),
}


@kinds
@pytest.mark.parametrize(("options", "error", "reason"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_explained(kind, options, error, reason):
    """When the module is made or first called."""
    with pytest.raises(error, match=reason):
        if kind == "nnx":
            layer = jsoftmax.nnx.AdaptivelySparseAttention(
                HEADS, FEATURES, decode=False, rngs=nnx.Rngs(0), **options
            )
            jax.eval_shape(layer, X)
        else:
            jax.eval_shape(jsoftmax.linen.AdaptivelySparseAttention(HEADS, **options).init, KEY, X)
