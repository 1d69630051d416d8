"""Contrastive losses against an oracle and dense scores, split over meshes, and in memory."""

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
from tests.vocabulary.contrastive import contrastive_oracle as oracle

rng = np.random.default_rng(0)
B, D = 24, 8
Q, K = rng.normal(size=(B, D)), rng.normal(size=(B, D))
MORE = rng.normal(size=(40, D))
T, BIAS = jnp.asarray(0.3), jnp.asarray(-2.0)
MASK = rng.random(B) < 0.7

# name → the loss of (queries, keys, T, b) with options that blocks and meshes add.
LOSSES = {
    "CLIP": lambda q, k, t, b, **o: js.contrastive_loss(q, k, temperature=t, **o),
    "InfoNCE": lambda q, k, t, b, **o: js.contrastive_loss(
        q, k, temperature=t, symmetric=False, **o
    ),
    "α": lambda q, k, t, b, **o: js.contrastive_loss(q, k, temperature=t, alpha=1.5, **o),
    "cosines of a regularizer": lambda q, k, t, b, **o: js.contrastive_loss(
        q, k, temperature=t, regularizer=js.Elastic(1 - b), normalize=True, **o
    ),
    "SigLIP": lambda q, k, t, b, **o: js.sigmoid_contrastive_loss(q, k, temperature=t, bias=b, **o),
}
BLOCKS = {name: {"block_queries": 5, "block_keys": 7} for name in LOSSES}
BLOCKS["SigLIP"] = {"block_keys": 7}
by_name = pytest.mark.parametrize("name", LOSSES)


@pytest.mark.parametrize("sizes", ["whole", "blocks"])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 0.7])
def test_it_is_that_of_the_oracle(alpha, sizes):
    more = BLOCKS["α"] if sizes == "blocks" else {}
    for options in ({}, {"symmetric": False}, {"normalize": True, "temperature": 0.2}):
        found = js.contrastive_loss(Q, K, alpha=alpha, **options, **more)
        expected = oracle.contrastive(Q, K, alpha, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", ["whole", "blocks"])
def test_the_pairwise_loss_is_that_of_the_oracle(sizes):
    more = BLOCKS["SigLIP"] if sizes == "blocks" else {}
    for options in ({}, {"bias": -3.0, "temperature": 0.4}, {"normalize": True}):
        found = js.sigmoid_contrastive_loss(Q, K, **options, **more)
        np.testing.assert_allclose(found, oracle.sigmoid(Q, K, **options), rtol=1e-12)


def test_in_float32_it_is_right_to_1e_6():
    q, k = (x[rng.integers(0, B, 2000)] + rng.normal(size=(2000, D)) for x in (Q, K))
    q, k = q.astype(np.float32), k.astype(np.float32)
    for found, expected in (
        (js.contrastive_loss(q, k), oracle.contrastive(q, k)),
        (js.contrastive_loss(q, k, alpha=1.5), oracle.contrastive(q, k, 1.5)),
        (js.sigmoid_contrastive_loss(q, k, bias=-9), oracle.sigmoid(q, k, -9)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_pair_that_leads_has_a_precise_loss():
    q = np.eye(4, dtype=np.float32) * np.sqrt(np.float32(40))
    np.testing.assert_allclose(js.contrastive_loss(q, q), 3 * np.exp(-40.0), rtol=1e-5)
    found = js.sigmoid_contrastive_loss(q, q, bias=-20.0)
    np.testing.assert_allclose(found, 4 * np.exp(-20.0), rtol=1e-5)


@pytest.mark.parametrize("sizes", ["whole", "blocks"])
@by_name
def test_derivatives_of_both_modes_and_orders(name, sizes):
    more = BLOCKS[name] if sizes == "blocks" else {}
    loss = functools.partial(LOSSES[name], **more)
    given = (*(jnp.asarray(x[:9]) for x in (Q, K)), T, BIAS)
    check_grads(loss, given, 2, eps=1e-6, rtol=1e-5, atol=1e-5)


def test_more_keys_are_counterexamples_for_all():
    keys = np.concatenate([K, MORE])
    z = oracle.scores(Q, keys)
    found = js.contrastive_loss(Q, keys, symmetric=False, **BLOCKS["α"])
    np.testing.assert_allclose(found, oracle.one_way(z, 1).astype(float), rtol=1e-12)
    many = js.sigmoid_contrastive_loss(Q, keys)
    alone = js.sigmoid_contrastive_loss(Q, K)
    extra = np.logaddexp(0, z[:, B:]).sum(-1).astype(float)
    np.testing.assert_allclose(many, alone + extra, rtol=1e-12)


@by_name
def test_pairs_that_take_no_part_are_nowhere(name):
    q, k = (np.where(MASK[:, None], x, np.nan) for x in (Q, K))
    loss = LOSSES[name]
    for more in ({}, BLOCKS[name]):
        found, pull = jax.vjp(lambda q, k, o=more: loss(q, k, T, BIAS, where=MASK, **o), q, k)
        chex.assert_trees_all_close(found[MASK], loss(Q[MASK], K[MASK], T, BIAS), rtol=1e-10)
        assert (found[~MASK] == 0).all()
        for slope in pull(jnp.ones(B)):
            assert (slope[~MASK] == 0).all() and jnp.isfinite(slope).all()


def meshes():
    yield (2, 4), ("data", "model"), P("data"), "data"
    yield (8,), ("data",), P("data"), "data"
    yield (2, 4), ("data", "model"), P(("data", "model")), ("data", "model")


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "some"])
@pytest.mark.parametrize("way", ["shard_map", "Explicit", "Auto"])
@by_name
def test_on_a_mesh_it_is_that_of_one_device(name, way, mask):
    """Values, and gradients in queries, keys, T and b, which every device has."""
    given = (jnp.asarray(Q), jnp.asarray(K), T, BIAS)

    def total(*operands, loss):
        found = loss(*operands)
        return jnp.sum(jnp.sin(found)), found

    def slopes(loss):
        return jax.value_and_grad(functools.partial(total, loss=loss), (0, 1, 2, 3), has_aux=True)

    loss = (
        LOSSES[name] if mask is None else functools.partial(LOSSES[name], where=jnp.asarray(mask))
    )
    expected = jax.jit(slopes(loss))(*given)
    for sizes, names, spec, axis in meshes():
        kind = AxisType.Explicit if way == "Explicit" else AxisType.Auto
        mesh = jax.make_mesh(sizes, names, axis_types=(kind,) * len(names))
        split = [jax.device_put(x, NamedSharding(mesh, spec)) for x in given[:2]]
        part = loss
        if way == "Auto":
            part = functools.partial(loss, axis_name=axis)
        elif way == "shard_map":
            masks = () if mask is None else (jnp.asarray(mask),)
            mapped = jax.shard_map(
                lambda q, k, t, b, *m, a=axis: LOSSES[name](
                    q, k, t, b, axis_name=a, **({"where": m[0]} if m else {}), **BLOCKS[name]
                ),
                mesh=mesh, in_specs=(spec, spec, P(), P(), *(spec for _ in masks)), out_specs=spec,
            )  # fmt: skip

            def part(*x, mapped=mapped, masks=masks):
                return mapped(*x, *masks)

        with jax.set_mesh(mesh):
            found = jax.jit(slopes(part))(*split, *given[2:])
        chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-12)
        if way == "Explicit":
            assert found[0][1].sharding.spec == spec
            assert found[1][1].sharding.is_equivalent_to(split[1].sharding, 2)


@by_name
def test_gradients_within_a_mapped_function_are_those_of_the_whole_batch(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def mean(q, k, t, b, axis_name=None):
        loss = LOSSES[name](q, k, t, b, axis_name=axis_name).mean()
        return loss if axis_name is None else jax.lax.pmean(loss, axis_name)

    inner = jax.shard_map(
        jax.grad(functools.partial(mean, axis_name="data"), (0, 1, 2, 3)),
        mesh=mesh, in_specs=(P("data"), P("data"), P(), P()),
        out_specs=(P("data"), P("data"), P(), P()),
    )  # fmt: skip
    given = (jnp.asarray(Q), jnp.asarray(K), T, BIAS)
    chex.assert_trees_all_close(inner(*given), jax.grad(mean, (0, 1, 2, 3))(*given), rtol=1e-10)


def temporaries(function, *shapes, in_shardings=None):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    options = {} if in_shardings is None else {"in_shardings": in_shardings}
    compiled = jax.jit(function, **options).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@by_name
def test_no_array_of_all_scores_is_held(name):
    """With its gradient: of 4096 pairs in blocks of 64 × 256, and 2048 over eight devices."""
    n, d = 4096, 16
    sizes = {"block_queries": 64, "block_keys": 256} if name != "SigLIP" else {"block_keys": 256}

    def slopes(q, k, **axis):
        return jax.grad(lambda q, k: LOSSES[name](q, k, 0.3, 0.1, **sizes, **axis).sum(), (0, 1))(
            q, k
        )

    assert temporaries(slopes, (n, d), (n, d)) < 4 * n * n / 2
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        here = temporaries(
            lambda q, k: slopes(q, k, axis_name="data"), (2048, d), (2048, d),
            in_shardings=(rows, rows),
        )  # fmt: skip
    assert here < 4 * 2048 * 2048 / 2


def test_narrow_features_and_an_empty_batch():
    q, k = (jnp.asarray(x, jnp.bfloat16) for x in (Q, K))
    wide = [x.astype(jnp.float32) for x in (q, k)]
    for loss in (js.contrastive_loss, js.sigmoid_contrastive_loss):
        found = loss(q, k)
        assert found.dtype == jnp.float32
        chex.assert_trees_all_close(found, loss(*wide), rtol=1e-5)
        assert loss(np.ones((3, 2), int), np.eye(3, 2, dtype=int)).dtype == jnp.float64
        assert jnp.isnan(loss(Q, K, temperature=jnp.asarray(-1.0))).all()


def test_lengths_of_zero_stay():
    q = Q.copy()
    q[0] = 0
    for loss in (js.contrastive_loss, js.sigmoid_contrastive_loss):
        slopes = jax.grad(lambda q, k, f=loss: f(q, k, normalize=True).sum(), (0, 1))(q, K)
        chex.assert_tree_all_finite(slopes)


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_mistakes(unchecked):
    for name in ("contrastive_loss", "sigmoid_contrastive_loss"):
        loss = getattr(js, name)
        for error, words, given, options in (
            (ValueError, r"\(24, 8\) and `keys` \(24, 7\)", (Q, K[:, :7]), {}),
            (ValueError, "shape \\[batch, d\\]", (Q[0], K[0]), {}),
            (ValueError, "24 `queries` and 20 `keys`", (Q, K[:20]), {}),
            (ValueError, "`temperature` must be positive", (Q, K), {"temperature": 0}),
            (ValueError, "`temperature` has shape", (Q, K), {"temperature": jnp.ones(3)}),
            (TypeError, "`where` has dtype float64", (Q, K), {"where": np.ones(B)}),
            (ValueError, r"`where` has shape \(3,\)", (Q, K), {"where": np.ones(3, bool)}),
            (TypeError, "`normalize` must be a bool", (Q, K), {"normalize": 1}),
            (TypeError, "`queries` has dtype complex", (Q * 1j, K), {}),
        ):
            with pytest.raises(error, match=f"jsoftmax.{name}: .*{words}"):
                loss(*given, **options)
    with pytest.raises(ValueError, match="differ in number"):
        js.contrastive_loss(Q, np.concatenate([K, MORE]))
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        js.contrastive_loss(Q, K, alpha=0)
    with pytest.raises(ValueError, match=r"`bias` has shape \(2,\)"):
        js.sigmoid_contrastive_loss(Q, K, bias=np.ones(2))
    with pytest.raises(ValueError, match="`block_keys` must be at least 1"):
        js.sigmoid_contrastive_loss(Q, K, block_keys=0)
