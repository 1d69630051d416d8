"""The modules that choose: twins that agree, keys from streams, temperatures that are annealed."""

import functools

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jsoftmax as js
import jsoftmax.linen
import jsoftmax.nnx

KEY = jax.random.key(3)
LOGITS = 2 * jax.random.normal(KEY, (3, 5))
WHERE = jnp.array([True, True, False, True, True])
HALVING = optax.exponential_decay(1.0, 1, 0.5, end_value=0.2)

SETTINGS = {
    "as it comes": {},
    "annealed": {"temperature": HALVING},
    "hard": {"temperature": HALVING, "hard": True},
    "sparse": {"alpha": 2.0, "axis": 0, "temperature": 0.7},
    "sparse and hard": {"alpha": 1.5, "hard": True, "temperature": 0.7},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.slow
def test_twins_agree_with_each_other_and_with_the_functions(options):
    """With a key and without, value and gradient, before and after a step of the schedule."""
    left, right = jsoftmax.nnx.GumbelSoftmax(**options), jsoftmax.linen.GumbelSoftmax(**options)
    alpha, axis = options.get("alpha", 1.0), options.get("axis", -1)
    where = WHERE if axis == -1 else None

    def both(choose):
        """Return the results of `choose`, and the gradient of a function of the sample."""

        def weighed(z):
            x, *rest = choose(z)
            return (x * jnp.arange(15.0).reshape(3, 5)).sum(), (x, *rest)

        gradient, (x, *rest) = jax.grad(weighed, has_aux=True)(LOGITS)
        return x, gradient, *rest

    def function(quiet, count, z):
        t = options.get("temperature", 1.0)
        t = t(count) if callable(t) else t
        ask = {"where": where, "temperature": t}
        hard = {"where": where, "temperature": 0.0}
        if quiet:
            soft, one_hot = js.entmax(z, alpha, axis, **ask), js.entmax(z, 1.0, axis, **hard)
        else:
            soft = js.gumbel_entmax(KEY, z, axis=axis, alpha=alpha, **ask)
            one_hot = js.gumbel_entmax(KEY, z, axis=axis, alpha=1.0, **hard)
        return (js.straight_through(one_hot, soft) if options.get("hard") else soft,)

    variables = right.init(KEY, LOGITS)
    graph, state = nnx.split(left)

    @functools.partial(jax.jit, static_argnums=0)
    def answers(quiet, state, variables, count):
        model = nnx.merge(graph, state)

        def linen(z):
            return right.apply(
                variables, z, where=where, deterministic=quiet, rng=KEY, mutable=["annealing"]
            )

        x, gradient, updated = both(linen)
        x_too = model(LOGITS, where=where, deterministic=quiet, rngs=KEY)
        expected = both(functools.partial(function, quiet, count))
        return (
            (x, gradient),
            (x_too, gradient),
            expected,
            {**variables, **updated},
            nnx.state(model),
        )

    for count in range(2):
        for quiet in (True, False):
            left_answer, right_answer, expected, variables, state = answers(
                quiet, state, variables, count
            )
            chex.assert_trees_all_close(left_answer, right_answer, expected, atol=1e-12)
    counts = [2] if callable(options.get("temperature")) else []
    assert jax.tree.leaves(variables) == jax.tree.leaves(state) == counts


def test_each_call_draws_from_its_stream_and_anneals():
    """In nnx.jit too; without end below the floor; not in evaluation."""
    model = jsoftmax.nnx.GumbelSoftmax(HALVING, rngs=nnx.Rngs(gumbel=0))
    again = jsoftmax.nnx.GumbelSoftmax(HALVING, rngs=nnx.Rngs(gumbel=0))
    step = nnx.jit(lambda model, z: model(z))
    temperatures, samples = [], []
    for _ in range(4):
        temperatures.append(float(model.temperature))
        samples.append(step(model, LOGITS))
        chex.assert_trees_all_close(again(LOGITS), samples[-1], atol=1e-12)
    np.testing.assert_allclose(temperatures, [1, 0.5, 0.25, 0.2], rtol=1e-6)
    assert (samples[0] != samples[1]).any()
    model.eval()
    before = nnx.state(model)
    np.testing.assert_allclose(
        model(LOGITS), js.softmax(LOGITS, temperature=float(model.temperature)), rtol=1e-6
    )
    chex.assert_trees_all_equal(jax.tree.leaves(before), jax.tree.leaves(nnx.state(model)))
    model.train()
    assert (model(LOGITS) != step(model, LOGITS)).any()


def test_streams_are_named():
    """Another name, another stream; and a module of its own for each stream given."""
    rngs = nnx.Rngs(0, gumbel=1, other=2)
    first = jsoftmax.nnx.GumbelSoftmax(rngs=rngs)
    second = jsoftmax.nnx.GumbelSoftmax(rngs=rngs, rng_collection="other")
    assert (first(LOGITS) != second(LOGITS)).any()
    by_call = jsoftmax.nnx.GumbelSoftmax()
    chex.assert_trees_all_close(
        by_call(LOGITS, rngs=nnx.Rngs(gumbel=1)), by_call(LOGITS, rngs=nnx.Rngs(gumbel=1).gumbel)
    )
    twin = jsoftmax.linen.GumbelSoftmax(rng_collection="other")
    x = twin.apply({}, LOGITS, rngs={"other": KEY})
    assert (x != twin.apply({}, LOGITS, rngs={"other": jax.random.key(4)})).any()
    with pytest.raises(flax.errors.InvalidRngError, match="other"):
        twin.apply({}, LOGITS, rngs={"gumbel": KEY})


def test_there_is_state_only_where_there_is_a_schedule():
    """And no parameter anywhere."""
    assert not jsoftmax.linen.GumbelSoftmax().init(KEY, LOGITS)
    variables = jsoftmax.linen.GumbelSoftmax(HALVING).init(KEY, LOGITS)
    chex.assert_trees_all_equal(variables, {"annealing": {"count": jnp.int32(0)}})
    assert not nnx.state(jsoftmax.nnx.GumbelSoftmax())
    assert not nnx.state(jsoftmax.nnx.GumbelSoftmax(HALVING), nnx.Param)
    count = jsoftmax.nnx.GumbelSoftmax(HALVING, rngs=nnx.Rngs(0)).count
    assert isinstance(count, nnx.Variable) and count[...] == 0 and count[...].dtype == jnp.int32


def test_mistakes_are_explained():
    """No keys, and a schedule that could not advance."""
    model = jsoftmax.nnx.GumbelSoftmax()
    with pytest.raises(TypeError, match=r"jsoftmax.nnx.GumbelSoftmax: `rngs` is None.*nnx.Rngs"):
        model(LOGITS)
    assert model(LOGITS, deterministic=True).shape == LOGITS.shape
    twin = jsoftmax.linen.GumbelSoftmax(HALVING)
    with pytest.raises(flax.errors.ModifyScopeVariableError, match="count"):
        twin.apply(twin.init(KEY, LOGITS), LOGITS, rngs={"gumbel": KEY})
    assert twin.apply(twin.init(KEY, LOGITS), LOGITS, deterministic=True).shape == LOGITS.shape


@pytest.mark.slow
def test_a_choice_is_learned_through_one_hot_samples():
    """Which of five arms costs least, by gradients through hard samples; in a Linen module."""
    costs = jnp.array([1.0, 0.3, 0.8, 0.1, 0.5])

    class Arms(nn.Module):
        @nn.compact
        def __call__(self, deterministic=False):
            logits = self.param("logits", nn.initializers.zeros, (32, 5))
            choose = jsoftmax.linen.GumbelSoftmax(HALVING, hard=True, name="choose")
            return choose(logits, deterministic=deterministic) @ costs

    model, optimizer = Arms(), optax.adam(0.2)
    variables = model.init(KEY)
    parameters, annealing = variables["params"], variables["annealing"]

    @jax.jit
    def step(carry, key):
        parameters, annealing, moments = carry

        def cost(parameters):
            rngs, mutable = {"gumbel": key}, ["annealing"]
            variables = {"params": parameters, "annealing": annealing}
            cost, updated = model.apply(variables, rngs=rngs, mutable=mutable)
            return cost.mean(), updated["annealing"]

        gradient, annealing = jax.grad(cost, has_aux=True)(parameters)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(parameters, updates), annealing, moments), None

    start = parameters, annealing, optimizer.init(parameters)
    (parameters, annealing, _), _ = jax.lax.scan(step, start, jax.random.split(KEY, 100))
    assert annealing["choose"]["count"] == 100
    chosen = model.apply({"params": parameters, "annealing": annealing}, deterministic=True)
    assert (chosen == costs.min()).mean() > 0.8
