"""Pairs with labels: several positives of a query, false negatives, queries that are keys."""

import functools

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jsoftmax as js
from tests.marks import some
from tests.vocabulary.contrastive import contrastive_oracle as oracle

rng = np.random.default_rng(0)
B, D = 24, 8
Q, K = rng.normal(size=(B, D)), rng.normal(size=(B, D))
MORE = rng.normal(size=(16, D))
LABELS = np.array([0, 0, 0, 1, 1, 2, -1, -1, *rng.integers(3, 9, B - 8)], np.int32)
MASK = rng.random(B) < 0.7
T, BIAS = jnp.asarray(0.7), jnp.asarray(-1.0)
MODES = {
    "positive": {},
    "ignore": {"same_label": "ignore"},
    "not itself": {"exclude_self": True},
}
LOSSES = {
    "CLIP": lambda q, k, t, b, **o: js.contrastive_loss(q, k, temperature=t, **o),
    "InfoNCE": lambda q, k, t, b, **o: js.contrastive_loss(
        q, k, temperature=t, symmetric=False, **o
    ),
    "α": lambda q, k, t, b, **o: js.contrastive_loss(q, k, temperature=t, alpha=1.5, **o),
    "SigLIP": lambda q, k, t, b, **o: js.sigmoid_contrastive_loss(q, k, temperature=t, bias=b, **o),
}
BLOCKS = {name: {"block_queries": 5, "block_keys": 7} for name in LOSSES}
BLOCKS["SigLIP"] = {"block_keys": 7}
by_name = pytest.mark.parametrize("name", LOSSES)
some_names = pytest.mark.parametrize("name", some(LOSSES, {"InfoNCE", "SigLIP"}))
by_mode = pytest.mark.parametrize("mode", MODES)
by_sizes = pytest.mark.parametrize("sizes", ["whole", "blocks"])


def options_of_oracle(mode):
    return {"same": "ignore" if mode == "ignore" else "positive"} | (
        {"exclude_self": True} if mode == "not itself" else {}
    )


@by_sizes
@by_mode
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 0.7])
def test_it_is_that_of_the_oracle(alpha, mode, sizes):
    """With and without pairs that take no part."""
    blocks = BLOCKS["α"] if sizes == "blocks" else {}
    z = oracle.scores(Q, K, 0.7)
    more = options_of_oracle(mode)
    for mask in (None, MASK):
        given = {"labels": LABELS, "temperature": 0.7, "alpha": alpha, **MODES[mode], **blocks}
        one, other = (
            oracle.labelled(x, LABELS, alpha=alpha, counted=mask, **more) for x in (z, z.T)
        )
        found = js.contrastive_loss(Q, K, where=mask, **given)
        np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-11, atol=1e-12)
        found = js.contrastive_loss(Q, K, where=mask, symmetric=False, **given)
        np.testing.assert_allclose(found, one, rtol=1e-11, atol=1e-12)


@by_sizes
@by_mode
def test_the_pairwise_loss_is_that_of_the_oracle(mode, sizes):
    blocks = BLOCKS["SigLIP"] if sizes == "blocks" else {}
    z = oracle.scores(Q, K, 0.7) - 1
    for mask in (None, MASK):
        found = js.sigmoid_contrastive_loss(
            Q, K, labels=LABELS, temperature=0.7, bias=-1.0, where=mask, **MODES[mode], **blocks
        )
        expected = oracle.labelled_sigmoid(z, LABELS, counted=mask, **options_of_oracle(mode))
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@by_mode
def test_keys_that_follow_may_have_labels(mode):
    keys = np.concatenate([K, MORE])
    z = oracle.scores(Q, keys)
    of_more = rng.integers(0, 9, len(MORE)).astype(np.int32)
    for labels, known in (
        (LABELS, np.concatenate([LABELS, np.full(len(MORE), -1)])),
        (np.concatenate([LABELS, of_more]),) * 2,
    ):
        options = options_of_oracle(mode)
        found = js.contrastive_loss(
            Q, keys, labels=labels, symmetric=False, **MODES[mode], **BLOCKS["α"]
        )
        np.testing.assert_allclose(found, oracle.labelled(z, known, **options), rtol=1e-11)
        found = js.sigmoid_contrastive_loss(Q, keys, labels=labels, **MODES[mode])
        np.testing.assert_allclose(found, oracle.labelled_sigmoid(z, known, **options), rtol=1e-11)


def test_it_is_the_supervised_contrastive_loss_and_that_of_simclr():
    """As they are written by hand: views against all others of the batch."""
    h = Q / np.linalg.norm(Q, axis=-1, keepdims=True)
    z = h @ h.T / 0.5
    np.fill_diagonal(z, -np.inf)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    views = np.tile(np.arange(B // 2), 2)
    options = {"temperature": 0.5, "normalize": True, "exclude_self": True, "symmetric": False}
    found = js.contrastive_loss(Q, Q, labels=views, **options)
    np.testing.assert_allclose(found, -log_p[np.arange(B), (np.arange(B) + B // 2) % B], rtol=1e-12)
    classes = rng.integers(0, 3, B)
    same = (classes[:, None] == classes) & ~np.eye(B, dtype=bool)
    expected = -np.where(same, log_p, 0).sum(-1) / same.sum(-1)
    found = js.contrastive_loss(Q, Q, labels=classes, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@by_name
def test_labels_that_all_differ_change_nothing(name):
    loss = LOSSES[name]
    for mode in ("positive", "ignore"):
        for labels in (np.arange(B), np.full(B, -1), np.arange(B, dtype=np.uint8)):
            found = loss(Q, K, T, BIAS, labels=labels, **MODES[mode])
            chex.assert_trees_all_close(found, loss(Q, K, T, BIAS), rtol=1e-12)


def test_a_query_without_positives_has_loss_0_and_spoils_nothing():
    """Every label once, and itself excluded."""
    for alpha in (1.0, 1.5):
        value, slope = jax.value_and_grad(
            lambda q, a=alpha: js.contrastive_loss(
                q, K, labels=np.arange(B), exclude_self=True, alpha=a
            ).sum()
        )(jnp.asarray(Q))
        assert value == 0 and (slope == 0).all()


@pytest.mark.parametrize("options", [{}, *({"labels": LABELS, **m} for m in MODES.values())])
def test_strict_promotion_narrow_features_and_an_empty_batch(options):
    q, k = (jnp.asarray(x, jnp.bfloat16) for x in (Q, K))
    wide = [x.astype(jnp.float32) for x in (q, k)]
    for loss in (js.contrastive_loss, js.sigmoid_contrastive_loss):
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            found = loss(q, k, where=MASK, **options)
            slope = jax.grad(lambda q, f=loss: f(q, k, where=MASK, **options).sum())(q)
        assert found.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
        chex.assert_trees_all_close(found, loss(*wide, where=MASK, **options), rtol=1e-5, atol=1e-6)
        none = {**options, "labels": LABELS[:0]} if options else {}
        assert loss(Q[:0], K[:0], **none).shape == (0,)


@by_sizes
@by_mode
@some_names
def test_derivatives_of_both_modes_and_orders(name, mode, sizes):
    more = BLOCKS[name] if sizes == "blocks" else {}
    loss = functools.partial(LOSSES[name], labels=LABELS[:9], **MODES[mode], **more)
    given = (*(jnp.asarray(x[:9]) for x in (Q, K)), T, BIAS)
    check_grads(loss, given, 2, eps=1e-6, rtol=1e-5, atol=1e-5)


def in_shard_map(mesh, spec, axis, loss, blocks, q, k, t, b, *, labels, where):
    mapped = jax.shard_map(
        lambda q, k, t, b, y, m: loss(q, k, t, b, labels=y, where=m, axis_name=axis, **blocks),
        mesh=mesh, in_specs=(spec, spec, P(), P(), spec, spec), out_specs=spec,
    )  # fmt: skip
    return mapped(q, k, t, b, labels, where)


@pytest.mark.parametrize("way", ["shard_map", "Explicit", "Auto"])
@by_mode
@some_names
def test_on_a_mesh_it_is_that_of_one_device(name, mode, way):
    """Labels are equal on different devices; values and gradients of a masked batch."""
    labels, mask = jnp.asarray(LABELS), jnp.asarray(MASK)
    given = (jnp.asarray(Q), jnp.asarray(K), T, BIAS)
    loss = functools.partial(LOSSES[name], **MODES[mode])

    def slopes(loss):
        def total(q, k, t, b, labels, mask):
            found = loss(q, k, t, b, labels=labels, where=mask)
            return jnp.sum(jnp.sin(found)), found

        return jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True)

    expected = jax.jit(slopes(loss))(*given, labels, mask)
    kind = AxisType.Explicit if way == "Explicit" else AxisType.Auto
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    for spec, axis in ((P("data"), "data"), (P(("data", "model")), ("data", "model"))):
        part = loss
        if way == "Auto":
            part = functools.partial(loss, axis_name=axis)
        elif way == "shard_map":
            part = functools.partial(in_shard_map, mesh, spec, axis, loss, BLOCKS[name])
        rows = NamedSharding(mesh, spec)
        q, k, y, m = (jax.device_put(x, rows) for x in (*given[:2], labels, mask))
        with jax.set_mesh(mesh):
            found = jax.jit(slopes(part))(q, k, T, BIAS, y, m)
        chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-12)


@by_mode
@by_name
def test_no_array_of_all_pairs_is_held(name, mode):
    n, d = 4096, 16
    sizes = {"block_queries": 64, "block_keys": 256} if name != "SigLIP" else {"block_keys": 256}

    def slopes(q, k, labels):
        def total(q, k):
            return LOSSES[name](q, k, 0.3, 0.1, labels=labels, **MODES[mode], **sizes).sum()

        return jax.grad(total, (0, 1))(q, k)

    shapes = (
        *(jax.ShapeDtypeStruct((n, d), jnp.float32) for _ in range(2)),
        jax.ShapeDtypeStruct((n,), jnp.int32),
    )
    compiled = jax.jit(slopes).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * n / 2


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_mistakes(unchecked):
    for name in ("contrastive_loss", "sigmoid_contrastive_loss"):
        loss = getattr(js, name)
        for error, words, options in (
            (TypeError, "`labels` have dtype float64", {"labels": np.ones(B)}),
            (TypeError, "`labels` have dtype uint32", {"labels": np.ones(B, np.uint32)}),
            (ValueError, r"`labels` have shape \(3,\).*24 pairs", {"labels": np.arange(3)}),
            (ValueError, "`same_label` is 'other'; .*'ignore'", {"same_label": "other"}),
            (TypeError, "`exclude_self` must be a bool", {"labels": LABELS, "exclude_self": 1}),
            (ValueError, "Give `labels`, and same_label='positive'", {"exclude_self": True}),
            (
                ValueError, "Give `labels`, and same_label='positive'",
                {"exclude_self": True, "labels": LABELS, "same_label": "ignore"},
            ),
        ):  # fmt: skip
            with pytest.raises(error, match=f"jsoftmax.{name}: .*{words}"):
                loss(Q, K, **options)
