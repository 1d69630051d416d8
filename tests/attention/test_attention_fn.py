"""`attention_fn` in Flax's modules: equal to Flax's at α = 1, with every option at every α."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jsoftmax import ALiBi, attention_fn, attention_weights, dot_product_attention, entmax
from jsoftmax.attention import _attention_fn

pytestmark = pytest.mark.slow  # together some minutes

KEY = jax.random.key(0)
HEADS, LENGTH, FEATURES = 2, 5, 8
X = jax.random.normal(KEY, (3, LENGTH, FEATURES))
OTHER = jax.random.normal(jax.random.key(1), (3, 7, FEATURES))
QUERY, KEYS, VALUES = jax.random.normal(jax.random.key(2), (3, 2, 6, 4, 3))
PER_HEAD = jax.random.bernoulli(KEY, 0.6, (3, HEADS, LENGTH, LENGTH)) | np.eye(LENGTH, dtype=bool)
KINDS = ("nnx", "linen")
kinds = pytest.mark.parametrize("kind", KINDS)


def of_flax(kind, attention, **options):
    """Flax's layer with this attention; always the same parameters for the same options."""
    if attention is not None:
        options["attention_fn"] = attention
    if kind == "nnx":
        return nnx.MultiHeadAttention(
            HEADS, FEATURES, **{"decode": False, **options}, rngs=nnx.Rngs(0)
        )
    layer = nn.MultiHeadDotProductAttention(HEADS, **options)
    start = layer.clone(dropout_rate=0.0, attention_fn=nn.dot_product_attention)
    return layer.bind(jax.jit(start.init)(KEY, X))


# Kinds of calls: (options of the layer, other arrays, options of the call).
CALLS = {
    "on itself, a mask of floats": ({}, (), {"mask": nn.make_causal_mask(X[..., 0])}),
    "on others, values apart": ({"qkv_features": 4, "out_features": 3}, (OTHER, 2 * OTHER), {}),
    "a boolean mask for each head": ({"normalize_qk": True}, (), {"mask": PER_HEAD}),
    "a shared mask of integers": ({}, (), {"mask": PER_HEAD[:1, :1].astype(int)}),
    "deterministic": ({"dropout_rate": 0.5}, (), {"deterministic": True}),
}


@kinds
@pytest.mark.parametrize(("options", "others", "call"), CALLS.values(), ids=CALLS.keys())
def test_gives_what_flax_gives(kind, options, others, call):
    """At α = 1, and so do its derivatives."""
    ours, theirs = (of_flax(kind, attention, **options) for attention in (attention_fn(), None))

    @jax.jit
    def answers(*inputs):
        def answer(layer):
            y, pull_back = jax.vjp(lambda *inputs: layer(*inputs, **call), *inputs)
            return y, pull_back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

        return answer(ours), answer(theirs)

    # Without dropout NNX calls jax.nn, which computes in float32.
    single = kind == "nnx" and "dropout_rate" not in options
    chex.assert_trees_all_close(*answers(X, *others), atol=1e-5 if single else 1e-12)


def test_extra_batch_axes_and_shared_heads_as_in_flax():
    """Of the function itself, since not all modules have them."""
    q, k, v = (x[None, :, None] for x in (QUERY, KEYS, VALUES))
    k, v, mask = k[..., :2, :], v[..., :2, :], jnp.tri(6, dtype=bool)

    @jax.jit
    def answers():
        repeated = (jnp.repeat(x, 2, axis=-2) for x in (k, v))
        return attention_fn()(q, k, v, mask=mask), nn.dot_product_attention(q, *repeated, mask=mask)

    chex.assert_trees_all_close(*answers(), atol=1e-12)


def test_is_the_formula_of_attention():
    """Σ entmax(q·k/√d + b) v, where bias and mask may come with the call."""
    alpha = np.array([0.7, 1.0, 1.5, 2.0])
    bias = jax.random.normal(KEY, (4, 1, 6))
    mask = jnp.tri(6, dtype=bool)

    @jax.jit
    def answers(q, k, v):
        z = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(3) + bias
        p = entmax(z, alpha.reshape(4, 1, 1), where=mask)
        return attention_fn(alpha)(q, k, v, bias, mask), jnp.einsum("bhts,bshd->bthd", p, v)

    chex.assert_trees_all_close(*answers(QUERY, KEYS, VALUES), atol=1e-12)


GIVEN_BY_FLAX = {
    "query", "key", "value", "bias", "mask", "dropout_rng", "dropout_rate", "broadcast_dropout",
}  # fmt: skip
OPTIONS = {
    "alpha": 2.0,
    "scale": 0.2,
    "is_causal": True,
    "query_offset": 1,
    "query_seq_lengths": np.array([3, 6]),
    "key_value_seq_lengths": np.array([3, 6]),
    "local_window_size": (1, 2),
    "query_segment_ids": np.array([0, 0, 0, 1, 1, 1]),
    "key_value_segment_ids": np.array([0, 0, 1, 1, 1, 1]),
    "logits_soft_cap": 0.5,
    "sinks": np.array([0.0, 1.0, 2.0, 3.0]),
    "score_fn": ALiBi(0.1),
    "implementation": "no such program",
    "block_q": 4,
    "block_k": 4,
    "axis_name": None,
}


def test_options_are_those_that_flax_does_not_give():
    """Whatever attention learns to do can be asked for here too."""
    names = set(inspect.signature(dot_product_attention).parameters)
    options = {*OPTIONS, "regularizer"}  # which takes the place of `alpha`
    assert set(inspect.signature(attention_fn).parameters) == options
    assert names - GIVEN_BY_FLAX - {"return_residual"} == options


def test_options_are_handed_on(monkeypatch):
    """Each under its name."""
    given = {}
    monkeypatch.setattr(
        _attention_fn, "dot_product_attention", lambda *_, **options: given.update(options)
    )
    attention_fn(**OPTIONS)(QUERY, KEYS, VALUES)
    for name, value in OPTIONS.items():
        assert given[name] is value, name


def test_options_change_answers_and_sown_weights():
    """As they change those of the functions."""
    option = {name: OPTIONS[name] for name in ("scale", "is_causal", "local_window_size", "sinks")}

    class Layer(nnx.Module):
        def __call__(self, attend):
            return attend(QUERY, KEYS, VALUES, module=self)

    @jax.jit
    def answers():
        y, sown = nnx.capture(Layer(), nnx.Intermediate)(attention_fn(**option))
        (weights,) = sown["attention_weights"]
        functions = (
            dot_product_attention(QUERY, KEYS, VALUES, **option),
            attention_weights(QUERY, KEYS, **option),
        )
        return (y, weights), functions, (y - attention_fn()(QUERY, KEYS, VALUES))

    found, expected, difference = answers()
    chex.assert_trees_all_equal(found, expected)
    assert jnp.abs(difference).max() > 0.1


@pytest.mark.parametrize("theirs", [nnx.dot_product_attention, nn.dot_product_attention])
def test_every_keyword_of_flax_is_spelled_out(theirs):
    """Linen drops keywords that the signature does not name, masks among them."""
    ours = inspect.signature(attention_fn()).parameters
    assert set(inspect.signature(theirs).parameters) <= set(ours)
    assert all(x.kind is not x.VAR_KEYWORD for x in ours.values())
    in_order = [name for name, x in ours.items() if x.kind is x.POSITIONAL_OR_KEYWORD]
    assert list(inspect.signature(theirs).parameters)[: len(in_order)] == in_order


def test_calls_may_be_causal():
    """By the keyword, by the option, and by a mask, it is the same."""
    tri = jnp.tri(6, dtype=bool)

    @jax.jit
    def answers():
        return (
            attention_fn()(QUERY, KEYS, VALUES, mask=tri),
            attention_fn()(QUERY, KEYS, VALUES, is_causal=True),
            attention_fn(is_causal=True)(QUERY, KEYS, VALUES, is_causal=False),
        )

    chex.assert_trees_all_close(*answers(), atol=1e-12)


def test_a_query_that_sees_no_key_gets_zeros():
    """And so do the gradients, where Flax gives the mean of all values."""
    mask = jnp.tri(6, k=-1, dtype=bool)

    @jax.jit
    def answers():
        attend = functools.partial(attention_fn(), mask=mask)
        y, pull_back = jax.vjp(attend, QUERY, KEYS, VALUES)
        return y, *pull_back(jnp.cos(y))

    y, *gradients = answers()
    assert (y[:, 0] == 0).all() and (y[:, 1:] != 0).all()
    assert (gradients[0][:, 0] == 0).all()
    chex.assert_tree_all_finite(gradients)


@pytest.mark.parametrize(("kind", "causal"), [("nnx", True), ("linen", False)])
def test_decoding_step_by_step_is_the_whole_sequence_masked(kind, causal):
    """With Flax's cache, also where the layer is causal by itself."""
    attend = attention_fn(1.5, is_causal=causal)
    whole = of_flax(kind, attend)(X, mask=nn.make_causal_mask(X[..., 0]))
    layer = of_flax(kind, attend, decode=True)
    steps = []
    if kind == "nnx":
        layer.init_cache(X.shape, X.dtype)
        step = nnx.jit(lambda layer, x: layer(x))
        steps = [step(layer, X[:, t : t + 1]) for t in range(LENGTH)]
    else:
        layer, variables = layer.unbind()
        step = jax.jit(functools.partial(layer.apply, mutable=["cache"]))
        for t in range(LENGTH):
            y, cache = step(variables, X[:, t : t + 1])
            variables = {**variables, **cache}
            steps.append(y)
    # Flax's caches are of float32 where its parameters are.
    chex.assert_trees_all_close(jnp.concatenate(steps, axis=1), whole, atol=1e-6)


def test_a_window_while_decoding_is_that_of_the_whole_sequence():
    """The query stands at the last key that the mask of the cache shows."""
    attend = attention_fn(1.5, is_causal=True, local_window_size=2)
    whole = of_flax("nnx", attend)(X)
    layer = of_flax("nnx", attend, decode=True)
    layer.init_cache(X.shape, X.dtype)
    step = nnx.jit(lambda layer, x: layer(x))
    steps = [step(layer, X[:, t : t + 1]) for t in range(LENGTH)]
    chex.assert_trees_all_close(jnp.concatenate(steps, axis=1), whole, atol=1e-6)


def test_fewer_causal_queries_than_keys_stand_at_the_end():
    """Of all keys, or of those that the mask shows to each batch entry; unless told otherwise."""
    attend = attention_fn(is_causal=True, local_window_size=2)
    q, k, v = QUERY[:, :2], KEYS, VALUES
    ends = np.array([k.shape[1]] * len(q))
    ends[0] -= 1
    shown = (np.arange(k.shape[1]) < ends[:, None])[:, None, None]
    placed = functools.partial(dot_product_attention, is_causal=True, local_window_size=2)
    chex.assert_trees_all_close(
        attend(q, k, v), placed(q, k, v, query_offset=k.shape[1] - 2), atol=1e-12
    )
    chex.assert_trees_all_close(
        attend(q, k, v, mask=shown), placed(q, k, v, query_offset=ends - 2), atol=1e-12
    )
    at_first = attention_fn(is_causal=True, local_window_size=2, query_offset=0)
    chex.assert_trees_all_close(at_first(q, k, v), placed(q, k, v), atol=1e-12)


@kinds
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_weights_are_sown_as_flax_sows_them(kind, alpha):
    """Before dropout, once for each call, and the answer is the same."""

    def weights(attention):
        options = {"dropout_rate": 0.5, "deterministic": True}
        layer = of_flax(kind, attention, **options)
        mask = nn.make_causal_mask(X[..., 0])
        expected = layer(X, mask=mask)
        if kind == "nnx":
            sowing = nnx.capture(layer, nnx.Intermediate)
            y, found = sowing(X, mask=mask, sow_weights=True)
            found = found["attention_weights"]
        else:
            layer, variables = layer.unbind()
            y, found = layer.apply(
                variables, X, mask=mask, sow_weights=True, mutable=["intermediates"]
            )
            found = found["intermediates"]["attention_weights"]
        chex.assert_trees_all_close(y, expected, atol=1e-12)
        return found

    found = weights(attention_fn(alpha))
    if alpha == 1:
        chex.assert_trees_all_close(found, weights(None), atol=1e-12)
    (p,) = found
    chex.assert_trees_all_close(p.sum(-1), jnp.ones(p.shape[:-1]), atol=1e-12)
    assert (p[..., 0, 1:] == 0).all()


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_drops_weights_and_scales_the_rest(shared):
    """With one pattern for each head and batch entry, or with one for all; 1/(1−rate) are left."""
    eye = jnp.broadcast_to(jnp.eye(6)[:, None], (2, 6, 4, 6))  # mixes to the weights themselves

    @jax.jit
    def mixed(key):
        return attention_fn()(
            QUERY, KEYS, eye, dropout_rng=key, dropout_rate=0.25, broadcast_dropout=shared
        )

    left = jnp.swapaxes(mixed(KEY), -2, -3)
    weights = attention_weights(QUERY, KEYS)
    kept = left != 0
    chex.assert_trees_all_close(left, jnp.where(kept, weights / 0.75, 0), atol=1e-12)
    assert (kept == kept[0, 0]).all() == shared
    # 36 or 288 independent draws: five standard deviations of their mean are 5 √(3/16 / draws).
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(3 / 16 / (36 if shared else kept.size))
    chex.assert_trees_all_equal(mixed(KEY), mixed(KEY))
    assert (mixed(jax.random.key(1)) != mixed(KEY)).any()


@kinds
def test_layers_drop_by_the_keys_that_flax_gives(kind):
    """A new pattern for each call of NNX's layer, and for each key of Linen's."""
    options = {"dropout_rate": 0.5, "deterministic": False}
    attend = attention_fn()
    if kind == "nnx":
        call = nnx.jit(lambda layer: layer(X))
        layer = of_flax(kind, attend, **options)
        first, second = call(layer), call(layer)
        again = call(of_flax(kind, attend, **options))
    else:
        layer, variables = of_flax(kind, attend, **options).unbind()
        call = jax.jit(lambda key: layer.apply(variables, X, rngs={"dropout": key}))
        first, second, again = call(KEY), call(jax.random.key(1)), call(KEY)
    chex.assert_trees_all_equal(first, again)
    assert (first != second).any()


def test_dtypes_are_as_in_flax():
    """Cast first, as `dtype` says or by promotion; computed in float32 and rounded once."""
    q, k, v = (x.astype(jnp.float32) for x in (QUERY, KEYS, VALUES))
    rounded = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    attend = attention_fn()

    @jax.jit
    def answers():
        exact = attend(*rounded, dtype=jnp.float32)
        assert exact.dtype == jnp.float32
        return (
            exact.astype(jnp.bfloat16),
            attend(q, k, v, dtype=jnp.bfloat16),
            attend(*rounded),
            attend(q, k, v, dtype=float, promote_dtype=lambda arrays, dtype: rounded),
        )

    chex.assert_trees_all_equal(*answers())
    mixed = (rounded[0], k, v)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        *(jax.eval_shape(function, *mixed) for function in (attend, nn.dot_product_attention))
    )


@kinds
@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32])
def test_layers_in_bfloat16_come_near_those_of_flax(kind, param_dtype):
    """And have their dtypes. Flax rounds its weights and mixtures to 8 bits, we the mixtures."""
    options = {"dtype": jnp.bfloat16, "param_dtype": param_dtype}
    ours, theirs = (of_flax(kind, attention, **options) for attention in (attention_fn(), None))
    found, expected = jax.jit(lambda: (ours(X), theirs(X)))()
    assert found.dtype == expected.dtype == jnp.bfloat16
    # Scores, weights and mixtures differ by roundings of 2⁻⁹; sums over 8 features add up to 8.
    error = jnp.abs(found.astype(float) - expected.astype(float)).max()
    assert error < 16 * 2**-9 * jnp.abs(expected).max().astype(float)


PRECISIONS = {
    "none": (None, None),
    "a name": ("highest", "HIGHEST"),
    "a Precision": (jax.lax.Precision.HIGH, "HIGH"),
    "two that agree": (("high", "high"), "HIGH"),
    "another name": ("float32", "HIGHEST"),
    "an algorithm": (jax.lax.DotAlgorithmPreset.BF16_BF16_F32, "algorithm"),
    "the name of an algorithm": ("BF16_BF16_F32", "algorithm"),
}


@pytest.mark.parametrize(("precision", "expected"), PRECISIONS.values(), ids=PRECISIONS.keys())
def test_precision_reaches_every_product(precision, expected):
    """Those of the derivative too, also where it is found after the call, as under remat."""
    # Enough queries for matrix products; few queries would use sums.
    arrays = [jnp.tile(x, (1, 4, 1, 1)).astype(jnp.float32) for x in (QUERY, KEYS, VALUES)]

    @jax.checkpoint
    def energy(*arrays):
        return attention_fn()(*arrays, precision=precision).sum()

    program = jax.jit(jax.grad(energy, argnums=(0, 1, 2))).lower(*arrays).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert products
    for line in products:
        assert ("precision = [DEFAULT, DEFAULT]" in line or "algorithm" in line) == (
            expected in (None, "algorithm")
        )
        assert expected is None or expected in line


REFUSED = {
    "einsum_dot_general": jax.lax.dot_general,
    "qk_attn_weights_einsum": jnp.einsum,
    "attn_weights_value_einsum": jnp.einsum,
}


@pytest.mark.parametrize("name", REFUSED)
def test_products_cannot_be_replaced(name):
    """They are refused by name rather than ignored."""
    with pytest.raises(NotImplementedError, match=f"`{name}`"):
        attention_fn()(QUERY, KEYS, VALUES, **{name: REFUSED[name]})


def test_products_cannot_be_replaced_by_a_layer():
    """As Linen's module would."""
    layer = of_flax(
        "linen",
        attention_fn(),
        qk_attn_weights_einsum_cls=lambda: jnp.einsum,
        attn_weights_value_einsum_cls=lambda: jnp.einsum,
    )
    with pytest.raises(NotImplementedError, match="`qk_attn_weights_einsum`"):
        layer(X)


@pytest.mark.parametrize("precision", ["exactly", ("high", "highest"), 7])
def test_precisions_that_cannot_be_obeyed_are_refused(precision):
    """One for all products, or an error."""
    with pytest.raises(ValueError, match="not a precision for all products"):
        attention_fn()(QUERY, KEYS, VALUES, precision=precision)
    with pytest.raises(NotImplementedError, match="precision of its own"):
        attention_fn(implementation="cudnn")(QUERY, KEYS, VALUES, precision=precision)


@pytest.mark.slow
def test_layers_of_both_kinds_train():
    """A few steps of optax lower the loss."""
    attend = attention_fn(1.5)
    target = jnp.roll(X, 1, axis=1)

    def loss_of(answer):
        return optax.l2_loss(answer, target).mean()

    layer = of_flax("nnx", attend)
    optimizer = nnx.Optimizer(layer, optax.adam(0.03), wrt=nnx.Param)

    @nnx.jit
    def nnx_step(layer, optimizer):
        loss, gradient = nnx.value_and_grad(lambda layer: loss_of(layer(X)))(layer)
        optimizer.update(layer, gradient)
        return loss

    losses = [nnx_step(layer, optimizer) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]

    layer, variables = of_flax("linen", attend).unbind()
    adam = optax.adam(0.03)
    state = adam.init(variables)

    @jax.jit
    def linen_step(variables, state):
        loss, gradient = jax.value_and_grad(lambda v: loss_of(layer.apply(v, X)))(variables)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(variables, updates), state, loss

    losses = []
    for _ in range(20):
        variables, state, loss = linen_step(variables, state)
        losses.append(loss)
    assert losses[-1] < 0.8 * losses[0]
