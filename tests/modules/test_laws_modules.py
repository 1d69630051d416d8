"""Every module, in NNX and in Linen, under Flax's transformations, in a file and out of it."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx, serialization

import jsoftmax as js
import jsoftmax.linen
import jsoftmax.nnx

# At optimization level 0 XLA (0.10.2) gets DifferentiatedSoftmax wrong if it is made in the trace.
as_users_compile = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})

KEY = jax.random.key(0)
RNGS = {"params": KEY, "gumbel": jax.random.key(1), "candidates": jax.random.key(2)}
FEATURES = jax.random.normal(KEY, (3, 4), jnp.float32)
LOGITS = jax.random.normal(KEY, (2, 3), jnp.float32)
LABELS = jnp.array([0, 2, 1])


def halving(count):
    """A schedule that pickle finds by its name."""
    return 0.5**count


# Flax's attention with arguments of its own besides.
ATTENTIONS = {
    "AdaptivelySparseAttention": {"alpha", "alpha_range"},
    "ScalableAttention": {"alpha", "delta", "beta", "gamma"},
}


@dataclasses.dataclass(frozen=True)
class Row:
    """Twins at one setting.

    Attributes:
        name: of both classes.
        settings: () → positional and named arguments of both, made anew each time, so that equal
            arguments are not identical.
        inputs: of a call.
        loss: whether there is a loss of features and classes.
        keys: arguments of the NNX module alone.
        noise: whether a call draws: it is given a key then, since lifted modules fold other numbers
            into theirs.
    """

    name: str
    settings: Callable[[], tuple[tuple, dict[str, Any]]]
    inputs: jax.Array = dataclasses.field(default_factory=lambda: FEATURES)
    loss: bool = True
    keys: Callable[[nnx.Rngs], dict[str, Any]] = lambda rngs: {"rngs": rngs}

    noise: bool = False

    def of_nnx(self, seed: Any = 0) -> nnx.Module:
        settings, options = self.settings()
        if self.name in ATTENTIONS:  # Flax's, which has the width besides
            settings = (*settings, 4)
        module = getattr(jsoftmax.nnx, self.name)
        return module(*settings, **options, **self.keys(nnx.Rngs(seed)))

    def of_linen(self, lift: Callable[[Any], Any] = lambda module: module) -> nn.Module:
        settings, options = self.settings()
        return lift(getattr(jsoftmax.linen, self.name))(*settings, **options)

    @property
    def rng(self) -> dict[str, jax.Array]:
        return {"rng": RNGS["gumbel"]} if self.noise else {}

    def answers(self, module: nnx.Module) -> Any:
        loss = module.loss(self.inputs, LABELS) if self.loss else None
        return module(self.inputs), loss

    def applied(self, module: nn.Module, variables: Any) -> Any:
        p, changed = module.apply(variables, self.inputs, **self.rng, mutable=True)
        loss = None
        if self.loss:
            loss = module.apply(variables, self.inputs, LABELS, rngs=RNGS, method="loss")
        return p, loss, changed


def given(*settings: Any, **options: Any) -> Callable[[], tuple[tuple, dict[str, Any]]]:
    """Settings that are copied each time."""
    return lambda: copy.deepcopy((settings, options))


TABLE = {
    "Entmax": Row(
        "Entmax", given(np.array([[1.3], [1.6]]), shape=(2, 1), learn_temperature=True),
        LOGITS, False, lambda rngs: {},
    ),
    "Entmax of constants": Row(
        "Entmax", given(np.array([[1.3], [1.6]]), learn_alpha=False), LOGITS, False,
        lambda rngs: {},
    ),
    "EntmaxReadout": Row("EntmaxReadout", given(4, 3, alpha=2.0)),
    "GumbelSoftmax": Row("GumbelSoftmax", given(halving, hard=True), LOGITS, False, noise=True),
    "AdaptivelySparseAttention": Row(
        "AdaptivelySparseAttention",
        given(2, alpha=np.array([1.3, 1.6]), attention={"is_causal": True}),
        FEATURES[None], False, lambda rngs: {"decode": False, "rngs": rngs},
    ),
    "ScalableAttention": Row(
        "ScalableAttention",
        given(2, delta=np.array([1.0, 0.5]), beta=0.3, attention={"is_causal": True}),
        FEATURES[None], False, lambda rngs: {"decode": False, "rngs": rngs},
    ),
    "LinearSoftmax": Row("LinearSoftmax", given(4, 3)),
    "Router": Row("Router", given(4, 3, 2), loss=False),
    "Router that balances": Row(
        "Router", given(4, 3, 2, score="sigmoid", use_balancing_bias=True, use_bias=True),
        loss=False,
    ),
    "Router of a regularizer": Row(
        "Router", given(4, 4, 3, score="entmax", alpha=2.0, groups=2), loss=False
    ),
    "HierarchicalSoftmax": Row(
        "HierarchicalSoftmax",
        lambda: ((4, js.huffman_tree([3, 2, 1])), {"table_init": nn.initializers.ones}),
    ),
    "SampledSoftmax": Row(
        "SampledSoftmax", lambda: ((4, 3, js.vocabulary.log_uniform_sampler(3), 2), {})
    ),
    "SampledSoftmax without replacement": Row(
        "SampledSoftmax",
        lambda: ((4, 3, js.vocabulary.unigram_sampler([3, 1, 1], replacement=False), 2), {}),
    ),
    "SampledSoftmax of equal classes": Row(
        "SampledSoftmax", lambda: ((4, 3, js.vocabulary.uniform_sampler(3), 2), {})
    ),
    "AdaptiveSoftmax": Row("AdaptiveSoftmax", given(4, 6, [2, 4], use_bias=True)),
    "DifferentiatedSoftmax": Row("DifferentiatedSoftmax", given(4, 6, [2, 4])),
    "DifferentiatedSoftmax of slices": Row(
        "DifferentiatedSoftmax", given(4, 6, [2], widths=[3, 1], use_bias=True)
    ),
}  # fmt: skip
every_module = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())


def test_the_table_has_every_module():
    names = {row.name for row in TABLE.values()}
    assert names == set(jsoftmax.nnx.__all__) == set(jsoftmax.linen.__all__)


def state(module: Any) -> Any:
    """The arrays of an NNX module; keys as their numbers."""
    return jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        nnx.to_pure_dict(nnx.state(module)),
    )


def saved_and_restored(folder: Any, tree: Any, abstract: Any) -> Any:
    """A tree by way of a checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "checkpoint", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "checkpoint", abstract)


@every_module
def test_an_nnx_module_is_made_inside_a_trace(row):
    """In nnx.eval_shape as in nnx.jit, the same as outside."""
    module = row.of_nnx()
    abstract = nnx.eval_shape(row.of_nnx)
    chex.assert_trees_all_equal_shapes_and_dtypes(nnx.state(abstract), nnx.state(module))
    assert nnx.graphdef(abstract) == nnx.graphdef(module)
    chex.assert_trees_all_close(state(nnx.jit(row.of_nnx)()), state(module), rtol=1e-6)


@every_module
@pytest.mark.slow
def test_an_nnx_module_is_restored(row, tmp_path):
    """By orbax's recipe: abstractly made, with the arrays of a checkpoint."""
    module = row.of_nnx()
    graph, abstract = nnx.split(nnx.eval_shape(lambda: row.of_nnx(1)))
    if not abstract:
        return  # there is nothing to save
    restored = nnx.merge(graph, saved_and_restored(tmp_path, nnx.state(module), abstract))
    chex.assert_trees_all_equal(row.answers(restored), row.answers(module))


@every_module
@pytest.mark.slow
def test_an_nnx_module_is_transformed(row):
    """nnx.jit and nnx.remat change no answer."""
    expected = as_users_compile(lambda: row.answers(row.of_nnx()))()
    for transformed in (nnx.jit(row.answers), nnx.jit(nnx.remat(row.answers))):
        found = transformed(row.of_nnx())
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


@every_module
@pytest.mark.slow
def test_nnx_modules_are_scanned(row):
    """Stacked as layers by nnx.vmap, gone through by nnx.scan: each as by itself."""
    keys = jax.random.split(KEY, 2)
    stacked = nnx.jit(nnx.vmap(row.of_nnx, in_axes=0, out_axes=0))(keys)

    @nnx.jit
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def layers(carry, module):
        return carry, row.answers(module)

    alone = as_users_compile(lambda key: row.answers(row.of_nnx(key)))

    if nnx.state(stacked):
        _, found = layers(jnp.zeros(()), stacked)
        for i in range(2):
            expected = alone(keys[i])
            actual = jax.tree.map(lambda x, i=i: x[i], found)
            chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@every_module
def test_an_nnx_module_is_copied_and_pickled(row):
    """Hashed, too: equal settings make equal graphs, and a copy is the module."""
    module = row.of_nnx()
    graph = nnx.graphdef(module)
    assert graph == nnx.graphdef(row.of_nnx()) and hash(graph) == hash(nnx.graphdef(row.of_nnx()))
    assert isinstance(hash(module), int)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), nnx.clone(module)):
        assert nnx.graphdef(twin) == graph
        chex.assert_trees_all_equal(state(twin), state(module))


@every_module
def test_a_linen_module_is_made_inside_a_trace(row):
    """By jax.eval_shape as by jax.jit, the same as outside."""

    def made():
        return row.of_linen().init(RNGS, row.inputs)

    expected = made()
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(made), expected)
    chex.assert_trees_all_close(jax.jit(made)(), expected, rtol=1e-6)


@every_module
@pytest.mark.slow
def test_the_variables_of_a_linen_module_are_restored(row, tmp_path):
    """By orbax and by Flax's bytes."""
    variables = row.of_linen().init(RNGS, row.inputs)
    assert pickle.loads(pickle.dumps(variables)).keys() == variables.keys()
    abstract = jax.eval_shape(row.of_linen().init, RNGS, row.inputs)
    packed = serialization.from_bytes(variables, serialization.to_bytes(variables))
    chex.assert_trees_all_equal(packed, variables)
    if jax.tree.leaves(variables):
        restored = saved_and_restored(tmp_path, variables, abstract)
        chex.assert_trees_all_equal(restored, variables)


@every_module
@pytest.mark.slow
def test_a_linen_module_is_transformed(row):
    """nn.jit and nn.remat change no answer, nor the shapes of variables."""
    variables = jax.jit(row.of_linen().init)(RNGS, row.inputs)
    applied = jax.jit(row.applied, static_argnums=0)
    expected = applied(row.of_linen(), variables)
    for lift in (nn.jit, nn.remat):
        module = row.of_linen(lift)
        made = jax.eval_shape(module.init, RNGS, row.inputs)
        chex.assert_trees_all_equal_shapes_and_dtypes(made, variables)
        found = applied(module, variables)
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


class Layer(nn.Module):
    """A step of a scan."""

    module: nn.Module

    def __call__(self, carry, inputs, rng):
        return carry, self.module(inputs, **rng)


@every_module
@pytest.mark.slow
def test_linen_modules_are_scanned(row):
    """As layers of nn.scan, each with variables of its own."""
    axes = {"params": 0, "annealing": 0, "tree": 0, "sampler": 0, "balance": 0}
    layers = nn.scan(
        Layer, variable_axes=axes, in_axes=nn.broadcast, length=2,
        split_rngs={"params": True, "gumbel": False},
    )(row.of_linen())  # fmt: skip
    variables = jax.jit(layers.init)(RNGS, 0.0, row.inputs, row.rng)

    @partial(jax.jit, static_argnums=0)
    def called(layer, variables):
        return layer.apply(variables, 0.0, row.inputs, row.rng, mutable=True)[0][1]

    found = called(layers, variables)
    for i in range(2):
        one = {
            name: jax.tree.map(lambda x, i=i: x[i], arrays["module"])
            for name, arrays in variables.items()
        }
        one = {name: {"module": arrays} for name, arrays in one.items()}
        expected = called(Layer(row.of_linen()), one)
        actual = jax.tree.map(lambda x, i=i: x[i], found)
        chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@every_module
def test_a_linen_module_is_hashed_copied_pickled_and_shown(row):
    """Equal settings make equal modules, and a copy is equal; so `jit` may take one as static."""
    module = row.of_linen()
    assert module == row.of_linen() and hash(module) == hash(row.of_linen())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.clone()):
        assert twin == module and hash(twin) == hash(module)
    assert row.name in repr(module)
    assert row.name in module.tabulate(RNGS, row.inputs)


def test_modules_of_other_trees_and_samplers_differ():
    """By their contents, though shapes are the same: `nn.jit` compares modules by hash alone."""
    left, right = ([1, 2, 3], [3, 2, 1])
    for name, make in {
        "HierarchicalSoftmax": lambda counts: (4, js.huffman_tree(counts)),
        "SampledSoftmax": lambda counts: (4, 3, js.vocabulary.unigram_sampler(counts), 2),
    }.items():
        one, other = (getattr(jsoftmax.linen, name)(*make(counts)) for counts in (left, right))
        assert one != other and hash(one) != hash(other)
    twins = [
        nn.jit(jsoftmax.linen.HierarchicalSoftmax)(4, js.huffman_tree(counts))
        for counts in (left, right)
    ]
    trees = [twin.init(KEY, FEATURES)["tree"]["tree"] for twin in twins]
    assert trees[0] == js.huffman_tree(left) and trees[1] == js.huffman_tree(right)


# Flax's own differences between NNX and Linen: keys are rngs in one, and a key in the other.
KEYS = {"rngs", "rng"}


def _initialiser(function: Any) -> Any:
    # The call of an NNX class is its metaclass's.
    is_nnx = inspect.isclass(function) and issubclass(function, nnx.Module)
    return function.__init__ if is_nnx else function


def signature(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of arguments, but those that give keys or name a Linen module."""
    return [
        (name, argument.kind, argument.default)
        for name, argument in inspect.signature(_initialiser(function)).parameters.items()
        if name not in {"self", "parent", "name", *KEYS}
    ]


@pytest.mark.parametrize("name", jsoftmax.nnx.__all__)
def test_twins_have_one_signature(name):
    """Made and called with the same arguments, by the same methods."""
    left, right = getattr(jsoftmax.nnx, name), getattr(jsoftmax.linen, name)
    if name in ATTENTIONS:  # the rest is as Flax's own modules have it
        own = ATTENTIONS[name]
        mine, theirs = ([x for x in signature(module) if x[0] in own] for module in (left, right))
        assert len(mine) == len(own)
    else:
        mine, theirs = signature(left), signature(right)
    assert mine == theirs
    public = {"embed", "log_softmax", "logits", "loss", "sample", "topk", "update_bias", "__call__"}
    for method in public & set(vars(left)) | public & set(vars(right)):
        assert signature(vars(left)[method]) == signature(vars(right)[method]), method
