"""Linear losses of arrays on data × model, called outside of `shard_map`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax
from tests.vocabulary.linear.linear_helpers import assert_close

TOKENS, WIDTH, CLASSES = (4, 4), 8, 64
rng = np.random.default_rng(0)
H = jnp.asarray(rng.normal(size=(*TOKENS, WIDTH)))
W = jnp.asarray(rng.normal(size=(WIDTH, CLASSES)))
B = jnp.asarray(rng.normal(size=CLASSES))
PRIOR = jnp.asarray(rng.uniform(0.5, 2.0, size=(4, 1, CLASSES)))
LABELS = jnp.asarray(rng.integers(0, CLASSES, TOKENS))
PAIRS = (
    jnp.asarray(rng.integers(0, CLASSES, (*TOKENS, 2))),
    jnp.asarray(rng.dirichlet([1.0, 1.0], size=TOKENS)),
)
COUNTS = jnp.asarray(rng.uniform(size=TOKENS))
SMALL = {"block_tokens": 4, "block_classes": 8}

TABLES = {
    "over model": P(None, "model"),
    "over data and model": P("data", "model"),
    "over data": P("data", None),
    "whole": P(),
    "features over model": P("model", None),
    "classes over data": P(None, "data"),
    "classes over both": P(None, ("data", "model")),
}
TOKEN_SPECS = {
    "tokens over data": P("data"),
    "tokens whole": P(),
    "tokens over both": P("data", "model"),
}
LOSSES = {
    "per token": lambda h, w, b, q, **axis: jsoftmax.linear_cross_entropy(
        h,
        w,
        LABELS,
        bias=b,
        prior=q,
        label_smoothing=0.1,
        z_loss=0.01,
        ignore_index=3,
        **SMALL,
        **axis,
    ),
    "sum": lambda h, w, b, q, **axis: jsoftmax.linear_cross_entropy_sum(
        h, w, PAIRS, COUNTS, bias=b, prior=q, **SMALL, **axis
    ),
    "terms": lambda h, w, b, q, **axis: sum(
        jsoftmax.linear_cross_entropy_terms(
            h, w, LABELS, bias=b, log_prior=jnp.log(q), **SMALL, **axis
        )
    ),
    "entmax": lambda h, w, b, q, **axis: jsoftmax.linear_entmax_loss(
        h, w, LABELS, bias=b, where=q > 0.6, alpha=jnp.full((4, 4, 1), 1.3), **SMALL, **axis
    ),
    "regularizer": lambda h, w, b, q, **axis: jsoftmax.linear_fenchel_young_loss(
        h,
        w,
        PAIRS,
        jsoftmax.Elastic(jnp.asarray(0.5)),
        bias=b,
        temperature=q[..., :1],
        **SMALL,
        **axis,
    ),
}
BOTH = [pytest.param(t, id=t.name) for t in (AxisType.Explicit, AxisType.Auto)]


def mesh(axis_type):
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(axis_type,) * 2)


def value_and_gradients(loss):
    return jax.value_and_grad(lambda *x: jnp.sum(jnp.sin(loss(*x))), (0, 1, 2, 3))


CASES = [
    pytest.param(
        name,
        table,
        tokens,
        marks=[] if (name, tokens) == ("per token", "tokens over data") else [pytest.mark.slow],
    )
    for name in LOSSES
    for table in TABLES
    for tokens in TOKEN_SPECS
]


@pytest.mark.parametrize(("name", "table", "tokens"), CASES)
def test_explicit_axes_give_the_losses_and_gradients_of_one_device(name, table, tokens):
    """Gradients have the sharding of their arguments."""
    loss = LOSSES[name]
    expected = value_and_gradients(loss)(H, W, B, PRIOR)
    there = mesh(AxisType.Explicit)
    with jax.set_mesh(there):
        h = jax.device_put(H, NamedSharding(there, TOKEN_SPECS[tokens]))
        w = jax.device_put(W, NamedSharding(there, TABLES[table]))
        ours = jax.jit(value_and_gradients(loss))(h, w, B, PRIOR)
        assert_close(ours, expected)
        for gradient, x in zip(ours[1], (h, w), strict=False):
            assert gradient.sharding.is_equivalent_to(x.sharding, x.ndim)
        assert_close(loss(h, w, B, PRIOR), loss(H, W, B, PRIOR))


@pytest.mark.slow
@pytest.mark.parametrize("table", ["over model", "over data and model"])
@pytest.mark.parametrize("name", LOSSES)
def test_auto_axes_give_them_where_the_axis_of_classes_is_named(name, table):
    expected = value_and_gradients(LOSSES[name])(H, W, B, PRIOR)

    def named(*arrays):
        return LOSSES[name](*arrays, axis_name="model")

    there = mesh(AxisType.Auto)
    with jax.set_mesh(there):
        h = jax.device_put(H, NamedSharding(there, P("data")))
        w = jax.device_put(W, NamedSharding(there, TABLES[table]))
        assert_close(jax.jit(value_and_gradients(named))(h, w, B, PRIOR), expected)


def test_tokens_and_classes_need_axes_of_their_own():
    there = mesh(AxisType.Explicit)
    with jax.set_mesh(there):
        h = jax.device_put(H, NamedSharding(there, P("model")))
        with pytest.raises(ValueError, match=r"'model', but the tokens .* are split over that"):
            jsoftmax.linear_cross_entropy(h, W, LABELS, axis_name="model")


def test_an_axis_of_one_device_splits_nothing():
    there = jax.make_mesh((8, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(there):
        loss = jax.jit(lambda h, w: jsoftmax.linear_cross_entropy(h, w, LABELS, axis_name="model"))
        assert_close(loss(H, W), jsoftmax.linear_cross_entropy(H, W, LABELS))


def test_rows_of_a_table_are_classes_too():
    """class_axis=0, as an embedding has it, and forward mode."""

    def loss(h, w):
        return jsoftmax.linear_cross_entropy(h, w, LABELS, class_axis=0, **SMALL)

    expected = jax.jvp(loss, (H, W.T), (jnp.ones_like(H), W.T))
    there = mesh(AxisType.Explicit)
    with jax.set_mesh(there):
        h = jax.device_put(H, NamedSharding(there, P("data")))
        w = jax.device_put(W.T, NamedSharding(there, P("model", "data")))
        assert_close(jax.jit(lambda *x: jax.jvp(loss, x, (jnp.ones_like(h), w)))(h, w), expected)


@pytest.mark.parametrize("axis_type", BOTH)
def test_mistakes_are_found_as_on_one_device(axis_type):
    there = mesh(axis_type)
    with jax.set_mesh(there):
        w = jax.device_put(W, NamedSharding(there, P(None, "model")))
        for function in (jsoftmax.linear_cross_entropy, jsoftmax.linear_cross_entropy_sum):
            with pytest.raises(ValueError, match="label 64 is out of range"):
                function(H[0, 0], w, np.array(64), axis_name="model")
            with pytest.raises(ValueError, match="do not fit"):
                function(H[..., 1:], w, LABELS, axis_name="model")
            with pytest.raises(ValueError, match="one class for each token"):
                function(H, w, LABELS[0], axis_name="model")


def test_a_second_eager_call_compiles_nothing():
    there = mesh(AxisType.Explicit)
    with jax.set_mesh(there):
        h = jax.device_put(H, NamedSharding(there, P("data")))
        w = jax.device_put(W, NamedSharding(there, P(None, "model")))
        jsoftmax.linear_cross_entropy(h, w, LABELS)
        with jax.log_compiles(False), jax.no_tracing(True):
            jsoftmax.linear_cross_entropy(h, w, LABELS)
