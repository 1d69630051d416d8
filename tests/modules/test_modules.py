"""The Flax modules: twins that agree, parameters that stay in range and learn."""

import itertools

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
from jsoftmax import entmax
from jsoftmax.losses import entmax_loss
from jsoftmax.mappings._constraints import Interval
from tests.a_regularizer_of_a_stranger import Blend

KEY = jax.random.key(0)
LOGITS = 2 * jax.random.normal(KEY, (2, 3, 4, 5))  # [batch, heads, queries, keys]
FEATURES = jax.random.normal(KEY, (6, 4))
LABELS = jnp.array([0, 1, 2, 0, 1, 2])
KEEP = jnp.array([True, True, False])

MAPPINGS = {
    "α shared": {},
    "T shared": {"learn_alpha": False, "learn_temperature": True, "temperature": 0.5},
    "α and T per head": {"learn_temperature": True, "shape": (3, 1, 1), "alpha": 1.2},
    "α unbounded": {"alpha": 3.0, "alpha_range": (1.0, np.inf)},
    "α from 1/2": {"alpha": 0.7, "alpha_range": (0.5, 1.0)},
    "other axes": {"axis": (1, 2), "shape": (1, 1, 5)},
    "nothing learned": {"learn_alpha": False, "alpha": 2.0},
    "α given per head": {"learn_alpha": False, "alpha": np.full((3, 1, 1), 1.3)},
}
READOUTS = {
    "as it comes": {},
    "softmax": {"alpha": 1.0},
    "no bias": {"alpha": 2.0, "use_bias": False},
    "in bfloat16": {"dtype": jnp.bfloat16, "precision": "highest"},
    "stored in bfloat16": {"param_dtype": jnp.bfloat16, "bias_init": nn.initializers.ones},
}


def cases(table):
    return pytest.mark.parametrize("options", table.values(), ids=table.keys())


def parameters(module):
    """The parameters of an NNX module as Linen's dictionary."""
    return {"params": nnx.to_pure_dict(nnx.state(module, nnx.Param))}


@cases(MAPPINGS)
def test_mappings_are_twins(options):
    """The parameters of one, put into the other, give the same: the function at their numbers."""
    left, right = jsoftmax.nnx.Entmax(**options), jsoftmax.linen.Entmax(**options)
    start, where = parameters(left), LOGITS > -1
    if start["params"]:
        chex.assert_trees_all_equal(jax.jit(right.init)(KEY, LOGITS), start)
    moved = jax.tree.map(lambda free: free + 0.3, start)
    nnx.update(left, moved["params"])
    alpha, temperature = left.alpha, left.temperature
    chex.assert_trees_all_equal(right.apply(moved, method="current_alpha"), alpha)
    chex.assert_trees_all_equal(right.apply(moved, method="current_temperature"), temperature)

    @jax.jit
    def answers():
        axis = options.get("axis", -1)
        return (
            left(LOGITS, where=where),
            right.apply(moved, LOGITS, where=where),
            entmax(LOGITS, alpha, axis, where=where, temperature=temperature),
        )

    p, twin, function = answers()
    chex.assert_trees_all_equal(p, twin, function)
    assert (p[~where] == 0).all()


@cases(READOUTS)
def test_readouts_are_twins(options):
    """The parameters of one, put into the other, give the same logits, p and loss."""
    left = jsoftmax.nnx.EntmaxReadout(4, 3, rngs=nnx.Rngs(0), **options)
    right = jsoftmax.linen.EntmaxReadout(4, 3, **options)
    variables = parameters(left)
    shapes = jax.eval_shape(right.init, KEY, FEATURES)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)

    def answers(readout):
        loss = readout.loss(FEATURES, LABELS, label_smoothing=0.1)
        return readout.logits(FEATURES), readout(FEATURES), loss

    both = jax.jit(lambda: (answers(left), answers(right.bind(variables))))
    chex.assert_trees_all_equal(*both())


@pytest.mark.parametrize("interval", [Interval(1.0, 2.0), Interval(0.5, 1.7), Interval(1.0)])
@pytest.mark.parametrize("start", [1.001, 1.3, 1.5, 1.69])
def test_learning_starts_at_the_number_given(interval, start):
    """To rounding, in float32 and float64."""
    for dtype in (np.float32, np.float64):
        number = interval.number(interval.free("f", "alpha", start, (), dtype))
        assert number.dtype == dtype
        np.testing.assert_array_max_ulp(np.asarray(number), dtype(start), 2)


@pytest.mark.parametrize("interval", [Interval(1.0, 2.0), Interval(0.1, 0.7), Interval(0.0)])
def test_numbers_stay_in_range_whatever_the_free_parameter_is(interval):
    """They rise with it and never pass an end, in any dtype."""
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        free = jnp.concatenate([-jnp.logspace(38, -5, 99), jnp.logspace(-5, 38, 99)]).astype(dtype)
        number = interval.number(free)
        assert number.dtype == jnp.promote_types(dtype, jnp.float32)
        end = jnp.asarray([interval.lower, interval.upper], number.dtype)
        assert (number >= end[0]).all() and (number <= end[1]).all()
        assert (jnp.diff(number) >= 0).all()
        assert jnp.isfinite(jax.vmap(jax.grad(interval.number))(free)).all()


def test_extreme_parameters_give_probabilities_and_finite_gradients():
    """At either end of the ranges the mapping is still a mapping."""
    graph, state = nnx.split(jsoftmax.nnx.Entmax(learn_temperature=True))

    @jax.jit
    def answers(state):
        def energy(state):
            p = nnx.merge(graph, state)(LOGITS)
            return (p**2).sum(), p

        return jax.grad(energy, has_aux=True)(state)

    extremes = (-1e30, -200.0, 0.0, 200.0, 1e30)
    for free_alpha, free_temperature in itertools.product(extremes, repeat=2):
        free = {"free_alpha": free_alpha, "free_temperature": free_temperature}
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.float32, free))
        gradient, p = answers(state)
        chex.assert_trees_all_close(p.sum(-1), jnp.ones((2, 3, 4)), atol=1e-6)
        chex.assert_tree_all_finite(gradient)


def test_gradients_reach_alpha_and_temperature():
    """One number for each head, none of them zero, as the chain rule has it."""
    shape = (3, 1, 1)
    mapping = jsoftmax.nnx.Entmax(
        1.3,
        temperature=0.7,
        alpha_range=(1.0, 4.0),
        learn_temperature=True,
        shape=shape,
        param_dtype=float,
    )
    gradient = nnx.jit(nnx.grad(lambda mapping: (mapping(LOGITS) ** 2).sum()))(mapping)
    numbers = jnp.full(shape, 1.3), jnp.full(shape, 0.7)

    @jax.jit
    def partials(*numbers):
        return jax.grad(
            lambda alpha, t: (entmax(LOGITS, alpha, temperature=t) ** 2).sum(), argnums=(0, 1)
        )(*numbers)

    # α = 1 + 3σ(a) has the slope (α−1)(4−α)/3, T = log(1 + eᵗ) the slope 1 − e⁻ᵀ.
    d_alpha, d_temperature = partials(*numbers)
    expected = d_alpha * 0.3 * 2.7 / 3, d_temperature * -np.expm1(-0.7)
    found = gradient.free_alpha[...], gradient.free_temperature[...]
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    assert d_alpha.shape == shape and (d_alpha != 0).all() and (d_temperature != 0).all()


def test_constants_are_no_parameters():
    """Fixed parameters are neither trained nor counted."""
    assert not nnx.state(jsoftmax.nnx.Entmax(learn_alpha=False))
    assert not jsoftmax.linen.Entmax(learn_alpha=False).init(KEY, LOGITS)
    readout = jsoftmax.nnx.EntmaxReadout(4, 3, rngs=nnx.Rngs(0))
    assert set(parameters(readout)["params"]["linear"]) == {"kernel", "bias"}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32])
def test_mappings_keep_the_dtype_of_the_logits(dtype, param_dtype):
    """Parameters are stored in param_dtype, and do not widen the answer."""
    mapping = jsoftmax.nnx.Entmax(learn_temperature=True, param_dtype=param_dtype)
    assert mapping.free_alpha[...].dtype == mapping.free_temperature[...].dtype == param_dtype
    assert jax.eval_shape(mapping, LOGITS.astype(dtype)).dtype == dtype
    gradient = nnx.eval_shape(nnx.grad(lambda mapping: mapping(LOGITS)[..., 0].sum()), mapping)
    assert gradient.free_alpha.dtype == param_dtype


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "features", "expected"),
    [
        (None, jnp.float32, jnp.float32, jnp.float32),
        (None, jnp.bfloat16, jnp.bfloat16, jnp.bfloat16),
        (None, jnp.bfloat16, jnp.float32, jnp.float32),
        (jnp.bfloat16, jnp.float32, jnp.float32, jnp.bfloat16),
        (jnp.float32, jnp.float32, jnp.int8, jnp.float32),
    ],
)
def test_readouts_treat_dtypes_as_flax_does(dtype, param_dtype, features, expected):
    """Logits and probabilities in `dtype`, losses in float32 at least, parameters as stored."""
    readout = jsoftmax.nnx.EntmaxReadout(
        4, 3, dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0)
    )
    x = FEATURES.astype(features)
    assert readout.linear.kernel[...].dtype == param_dtype
    assert jax.eval_shape(readout.logits, x).dtype == expected
    assert jax.eval_shape(readout, x).dtype == expected
    assert jax.eval_shape(readout.loss, x, LABELS).dtype == jnp.float32


@pytest.mark.parametrize("alpha", [1, np.float32(1.5)])
def test_readouts_are_linear_then_a_mapping_or_its_loss(alpha):
    """z = hW + b, p = entmax(z), L the Fenchel–Young loss, with all that it takes."""
    readout = jsoftmax.nnx.EntmaxReadout(
        4, 3, alpha=alpha, bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0)
    )
    uniform = jnp.full((6, 3), 1 / 3)
    options = {
        "where": KEEP,
        "ignore_index": 2,
        "label_smoothing": 0.1,
        "class_weights": jnp.array([1.0, 2.0, 1.0]),
    }

    @jax.jit
    def answers():
        return (
            readout.logits(FEATURES),
            readout(FEATURES, where=KEEP),
            readout.loss(FEATURES, LABELS, **options),
            readout.loss(FEATURES, uniform),
        )

    @jax.jit
    def expected():
        z = FEATURES @ readout.linear.kernel[...] + readout.linear.bias[...]
        return (
            z,
            entmax(z, float(alpha), where=KEEP),
            entmax_loss(z, LABELS, alpha=float(alpha), **options),
            entmax_loss(z, uniform, alpha=float(alpha)),
        )

    chex.assert_trees_all_close(answers(), expected(), atol=1e-6)


@pytest.mark.parametrize(
    "regularizer",
    [
        pytest.param(jsoftmax.Elastic(jnp.array(2.0)), id="elastic"),
        pytest.param(Blend(1.5), id="a stranger's", marks=pytest.mark.slow),
    ],
)
def test_modules_of_a_fixed_regularizer_are_twins_and_the_functions(regularizer):
    """Nothing is learned of it, and its module can be copied, hashed and compiled."""
    options = {"regularizer": regularizer}
    left, right = jsoftmax.nnx.Entmax(**options), jsoftmax.linen.Entmax(**options)
    assert not nnx.state(left) and not right.init(KEY, LOGITS)
    assert hash(right.copy()) == hash(right) and right.copy() == right
    readout = jsoftmax.nnx.EntmaxReadout(4, 3, **options, rngs=nnx.Rngs(0))
    twin = jsoftmax.linen.EntmaxReadout(4, 3, **options).copy()
    variables = {"params": nnx.to_pure_dict(nnx.state(readout, nnx.Param))}

    @nnx.jit
    def answers(left, readout):
        loss = readout.loss(FEATURES, LABELS)
        return left(LOGITS), readout(FEATURES, where=KEEP), loss

    @jax.jit
    def twins(variables):
        loss = twin.apply(variables, FEATURES, LABELS, method="loss")
        return right.apply({}, LOGITS), twin.apply(variables, FEATURES, where=KEEP), loss

    z = readout.logits(FEATURES)
    expected = (
        jsoftmax.regularized_argmax(LOGITS, regularizer),
        jsoftmax.regularized_argmax(z, regularizer, where=KEEP),
        jsoftmax.fenchel_young_loss(z, LABELS, regularizer),
    )
    chex.assert_trees_all_close(answers(left, readout), expected, atol=1e-6)
    chex.assert_trees_all_close(twins(variables), expected, atol=1e-6)
    for home, made in (("nnx", {"rngs": nnx.Rngs(0)}), ("linen", {})):
        for name, sizes in (("Entmax", ()), ("EntmaxReadout", (4, 3))):
            given = {"alpha": 1.5, **options, **(made if sizes else {})}
            with pytest.raises(ValueError, match=f"{home}.{name}: both `alpha` and `regularizer`"):
                getattr(getattr(jsoftmax, home), name)(*sizes, **given)


def test_a_readout_of_linen_explains_features_of_another_width():
    """Flax would make its table as wide as they are."""
    with pytest.raises(ValueError, match=r"linen.EntmaxReadout: `features` have shape \(6, 4\).*5"):
        jsoftmax.linen.EntmaxReadout(5, 3).init(KEY, FEATURES)


def test_modules_survive_jit_and_split():
    """As any NNX module: through nnx.jit, and through split, jit and merge."""
    mapping = jsoftmax.nnx.Entmax(
        1.0, learn_alpha=False, learn_temperature=True, shape=(3, 1, 1)
    )  # softmax, because it compiles fast
    readout = jsoftmax.nnx.EntmaxReadout(4, 3, alpha=1.0, rngs=nnx.Rngs(0))
    for module, x in ((mapping, LOGITS), (readout, FEATURES)):
        p = nnx.jit(lambda module, x: module(x))(module, x)
        graph, state = nnx.split(module)
        merged = jax.jit(lambda graph, state, x: nnx.merge(graph, state)(x), static_argnums=0)
        chex.assert_trees_all_close(merged(graph, state, x), p, atol=1e-6)
        chex.assert_trees_all_close(p.sum(-1), jnp.ones(x.shape[:-1]), atol=1e-6)


def test_linen_modules_nest_and_jit():
    """As any Linen module: inside another, with the parameters where one expects them."""

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jsoftmax.linen.Entmax(name="gate")(nn.Dense(8)(x))
            return jsoftmax.linen.EntmaxReadout(8, 3, alpha=1.0, name="readout")(x)

    variables = jax.jit(Classifier().init)(KEY, FEATURES)
    assert set(variables["params"]) == {"Dense_0", "gate", "readout"}
    p = jax.jit(Classifier().apply)(variables, FEATURES)
    chex.assert_trees_all_close(p.sum(-1), jnp.ones(6), atol=1e-6)


class Gated(nnx.Module):
    """Enough of a network to train everything at once."""

    def __init__(self, rngs):
        self.scores = nnx.Linear(4, 8, rngs=rngs)
        self.gate = jsoftmax.nnx.Entmax(learn_temperature=True)
        self.readout = jsoftmax.nnx.EntmaxReadout(8, 3, alpha=1.0, rngs=rngs)

    def loss(self, features, labels):
        return self.readout.loss(8 * self.gate(self.scores(features)), labels).mean()


def test_training_lowers_the_loss():
    """A few optax steps; α and T move with the rest."""
    model = Gated(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradient = nnx.value_and_grad(lambda model: model.loss(FEATURES, LABELS))(model)
        optimizer.update(model, gradient)
        return loss

    losses = [step(model, optimizer) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert model.gate.alpha != 1.5 and model.gate.temperature != 1


MISTAKES = {
    "α at an end": ({"alpha": 1.0}, ValueError, "strictly between"),
    "α outside": ({"alpha": 2.5}, ValueError, "widen its range"),
    "α not a number": ({"alpha": float("nan")}, ValueError, "strictly between"),
    "T not positive": (
        {"learn_temperature": True, "temperature": 0.0},
        ValueError,
        "learn_temperature=False",
    ),
    "an empty range": ({"alpha_range": (2.0, 1.0)}, ValueError, "lower end"),
    "a negative range": ({"alpha_range": (-1.0, 2.0)}, ValueError, "at least 0"),
    "α of another shape": ({"alpha": np.full(2, 1.5), "shape": (3, 1, 1)}, ValueError, "`shape`"),
}


@pytest.mark.parametrize(("options", "error", "remedy"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_in_a_mapping_are_explained(options, error, remedy):
    """When the module is made (for Linen, when its parameters are)."""
    with pytest.raises(error, match=remedy):
        jsoftmax.nnx.Entmax(**options)
    with pytest.raises(error, match=remedy):
        jsoftmax.linen.Entmax(**options).init(KEY, LOGITS)


def test_a_shape_that_does_not_fit_the_logits_is_explained():
    """By the function that meets them."""
    with pytest.raises(ValueError, match="`alpha` has shape"):
        jsoftmax.nnx.Entmax(shape=(2, 1, 1))(LOGITS)
    with pytest.raises(ValueError, match="size 1 along the class"):
        jsoftmax.nnx.Entmax(shape=(5,))(LOGITS)


@pytest.mark.parametrize(
    ("alpha", "error", "reason"),
    [
        (0.0, ValueError, "positive"),
        (float("nan"), ValueError, "positive"),
        (jnp.array(1.5), TypeError, "falls with its own α"),
    ],
)
def test_a_readout_explains_that_its_alpha_is_a_positive_number(alpha, error, reason):
    """A learned α would run away under the loss of that α."""
    with pytest.raises(error, match=reason):
        jsoftmax.nnx.EntmaxReadout(4, 3, alpha=alpha, rngs=nnx.Rngs(0))
    with pytest.raises(error, match=reason):
        jsoftmax.linen.EntmaxReadout(4, 3, alpha=alpha)
