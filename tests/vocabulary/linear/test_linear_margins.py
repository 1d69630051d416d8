"""Cosines and margins in `linear_cross_entropy`: ArcFace, CosFace, and both."""

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

from jsoftmax import cross_entropy, linear_cross_entropy, linear_cross_entropy_sum
from jsoftmax.vocabulary import linear_cross_entropy_terms
from tests.losses import margin_oracle as oracle

rng = np.random.default_rng(0)
N, D, K = 24, 8, 40
H, W, Y = rng.normal(size=(N, D)), rng.normal(size=(D, K)), rng.integers(0, K, N)
SCALE = 16
SMALL = {"block_tokens": 7, "block_classes": 12}
MARGINS = {
    "none": {},
    "additive": {"margin": 0.35},
    "angular": {"angular_margin": 0.5},
    "both, a token": {
        "margin": np.full((N, 1), 0.2),
        "angular_margin": np.linspace(0, 1, N)[:, None],
    },
}


def loss(h, w, y=Y, **options):
    return linear_cross_entropy(h, w, y, normalize=True, temperature=1 / SCALE, **options)


def dense(h, w, y=Y, **options):
    """With normalised copies, as everyone writes it."""
    h, w = (x / jnp.linalg.norm(x, axis=a, keepdims=True) for x, a in ((h, -1), (w, 0)))
    return cross_entropy(h @ w, y, temperature=1 / SCALE, **options)


@pytest.mark.parametrize("sizes", [{}, SMALL], ids=["whole", "blocks"])
@pytest.mark.parametrize("name", MARGINS)
def test_it_is_the_loss_of_angles(name, sizes):
    given = MARGINS[name]
    m = [np.ravel(given.get(n, 0.0)) for n in ("margin", "angular_margin")]
    wide = [x.astype(np.longdouble) for x in (H, W)]
    h, w = (x / np.sqrt((x * x).sum(a, keepdims=True)) for x, a in zip(wide, (-1, 0), strict=True))
    expected = oracle.cross_entropy(SCALE * oracle.lowered(h @ w, Y, *m), Y)
    np.testing.assert_allclose(loss(H, W, **given, **sizes), expected.astype(float), rtol=1e-12)
    turned = loss(H, np.ascontiguousarray(W.T), class_axis=0, **given, **sizes)
    np.testing.assert_allclose(turned, expected.astype(float), rtol=1e-12)


@pytest.mark.parametrize("sizes", [{}, SMALL], ids=["whole", "blocks"])
@pytest.mark.parametrize("name", MARGINS)
def test_gradients_are_those_of_normalised_copies(name, sizes):
    operands = jnp.asarray(H), jnp.asarray(W)
    given = MARGINS[name]
    for f in (jnp.sum, lambda x: jnp.sum(jnp.sin(x))):
        found, expected = (
            jax.grad(lambda h, w, g=g, f=f: f(g(h, w)), (0, 1))(*operands)
            for g in (
                functools.partial(loss, **given, **sizes), functools.partial(dense, **given)
            )
        )  # fmt: skip
        chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


WEIGHTS = rng.uniform(size=N)


def summed(h, w, y=Y, **options):
    return linear_cross_entropy_sum(
        h, w, y, WEIGHTS, normalize=True, temperature=1 / SCALE, **options
    )


@pytest.mark.parametrize("sizes", [{}, SMALL], ids=["whole", "blocks"])
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("name", MARGINS)
def test_the_sum_and_its_gradients_formed_forward(name, axis, sizes):
    """Those of the weighted sum of losses; and the Hessian, in the length of the table too."""
    given = {**MARGINS[name], **sizes}
    h, w = jnp.asarray(H), jnp.asarray(W if axis else W.T)
    found = jax.jit(
        jax.value_and_grad(functools.partial(summed, class_axis=axis, **given), (0, 1))
    )(h, w)
    value, (dh, dw) = jax.value_and_grad(
        lambda h, w: jnp.sum(WEIGHTS * dense(h, w, **MARGINS[name])), (0, 1)
    )(h, jnp.asarray(W))
    expected = value, (dh, dw if axis else dw.T)
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)
    curves = [
        jax.jvp(jax.grad(f), (w,), (jnp.cos(w),))[1]
        for f in (
            lambda w: summed(h, w, class_axis=axis, **given),
            lambda w: jnp.sum(WEIGHTS * loss(h, w, class_axis=axis, **given)),
        )
    ]
    chex.assert_trees_all_close(*curves, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", [{}, SMALL], ids=["whole", "blocks"])
@pytest.mark.parametrize("name", MARGINS)
def test_statistics_are_those_of_scores_after_the_margin(name, sizes):
    given = MARGINS[name]
    m = [np.ravel(given.get(n, 0.0)) for n in ("margin", "angular_margin")]
    h, w = H / np.linalg.norm(H, axis=-1, keepdims=True), W / np.linalg.norm(W, axis=0)
    z = SCALE * oracle.lowered(h @ w, Y, *m).astype(float)
    log_partition = np.log(np.exp(z).sum(-1))
    p = np.exp(z - log_partition[:, None])
    options = {"normalize": True, "temperature": 1 / SCALE, **given, **sizes}
    found = linear_cross_entropy_terms(H, W, Y, **options)
    np.testing.assert_allclose(found.loss, log_partition - z[np.arange(N), Y], rtol=1e-10)
    np.testing.assert_allclose(found.log_partition, log_partition, rtol=1e-12)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), rtol=1e-10)
    check_grads(
        lambda h, w: linear_cross_entropy_terms(h, w, Y[:5], **{**options, **few(given)}),
        (jnp.asarray(H[:5]), jnp.asarray(W)), 1, eps=1e-6, rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def few(given):
    """Margins of the first five tokens."""
    return {name: x[:5] if np.ndim(x) else x for name, x in given.items()}


def test_derivatives_of_both_modes_and_orders():
    given = {"margin": 0.1, "angular_margin": 0.4, "z_loss": 0.01, "label_smoothing": 0.1}
    h, w = jnp.asarray(H[:5]), jnp.asarray(W)
    check_grads(
        lambda h, w, t: linear_cross_entropy(
            h, w, Y[:5], normalize=True, temperature=t, **given, **SMALL
        ),
        (h, w, jnp.asarray(0.2)), 2, eps=1e-5, rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_other_options():
    mask = rng.random(K) < 0.8
    for options in (
        {"where": mask},
        {"class_weights": rng.uniform(size=K), "label_smoothing": 0.1},
        {"prior": rng.uniform(size=K), "z_loss": 0.1},
    ):
        found = loss(
            H, np.where(mask, W, np.nan) if "where" in options else W, **options, margin=0.2
        )
        chex.assert_trees_all_close(found, dense(H, W, **options, margin=0.2), rtol=1e-10)
    bare = linear_cross_entropy(H, W, Y, margin=0.7, bias=W[0], logits_soft_cap=3.0)
    chex.assert_trees_all_close(
        bare, cross_entropy(H @ W + W[0], Y, margin=0.7, logits_soft_cap=3.0), rtol=1e-12
    )


def test_lengths_of_zero_and_of_any_size():
    h, w = H.copy(), W.copy()
    h[0], w[:, 1] = 0, 0
    found = loss(h, w, angular_margin=0.5)
    assert jnp.isfinite(found).all()
    np.testing.assert_allclose(
        linear_cross_entropy(h, w, Y, normalize=True)[0], np.log(K), rtol=1e-12
    )
    slopes = jax.grad(lambda h, w: loss(h, w, angular_margin=0.5).sum(), (0, 1))(h, w)
    chex.assert_tree_all_finite(slopes)
    assert (slopes[0][0] == 0).all()
    scaled = loss(jnp.asarray(H * 1e30, jnp.float32), jnp.asarray(W * 1e-30, jnp.float32))
    chex.assert_trees_all_close(scaled, loss(H, W).astype(jnp.float32), rtol=2e-5)


def entropy(h, w, **options):
    return linear_cross_entropy_terms(
        h, w, Y, normalize=True, temperature=1 / SCALE, **options
    ).entropy


@pytest.mark.parametrize("function", [loss, summed, entropy])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_on_a_mesh_it_is_that_of_one_device(kind, function):
    """Tokens over data and classes over model, under `jit`."""
    given = {"margin": jnp.full((N, 1), 0.2), "angular_margin": 0.4}
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    both = jax.value_and_grad(lambda h, w, **o: function(h, w, **given, **o).sum(), (0, 1))
    expected = both(jnp.asarray(H), jnp.asarray(W))
    specs = P("data"), P(None, "model")
    axis = {"axis_name": "model"} if kind is AxisType.Auto else {}
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip((H, W), specs, strict=True)
        ]
        found = jax.jit(functools.partial(both, **axis))(*placed)
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


def test_in_shard_map_it_is_that_of_one_device():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    mapped = jax.shard_map(
        lambda h, w, y: loss(h, w, y, angular_margin=0.4, axis_name="model"),
        mesh=mesh, in_specs=(P("data"), P(None, "model"), P("data")), out_specs=P("data"),
    )  # fmt: skip
    found, expected = (
        jax.jit(jax.value_and_grad(lambda h, w, f=f: f(h, w, jnp.asarray(Y)).sum(), (0, 1)))(H, W)
        for f in (mapped, functools.partial(loss, angular_margin=0.4))
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


def test_no_normalised_table_is_held():
    """Forward fewer temporaries than half a table; backward none beyond those without lengths."""
    tokens, width, classes = 16, 64, 16_384

    def temporaries(function, *more, **options):
        shapes = [
            jax.ShapeDtypeStruct(s, d)
            for s, d in (
                ((tokens, width), jnp.float32), ((width, classes), jnp.float32),
                ((tokens,), jnp.int32),
            )
        ]  # fmt: skip
        given = functools.partial(
            linear_cross_entropy, block_tokens=4, block_classes=512, **options
        )
        compiled = jax.jit(function(given)).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def slopes(f):
        return jax.grad(lambda h, w, y: f(h, w, y).sum(), (0, 1))

    table = 4 * width * classes
    given = {"normalize": True, "angular_margin": 0.5, "temperature": 1 / 64}
    assert temporaries(lambda f: f, **given) < table / 2
    # The gradient of lengths is added to the table's; one array for it is allowed.
    assert temporaries(slopes, **given) < temporaries(slopes) + 1.1 * table


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_mistakes(unchecked):
    with pytest.raises(ValueError, match="`angular_margin` needs scores that are cosines"):
        linear_cross_entropy(H, W, Y, angular_margin=0.5)
    with pytest.raises(ValueError, match="neither `bias` nor `logits_soft_cap`"):
        linear_cross_entropy(H, W, Y, angular_margin=0.5, normalize=True, bias=W[0])
    with pytest.raises(ValueError, match="need one class per token"):
        pairs = np.stack([Y, Y], -1), np.full((N, 2), 0.5)
        linear_cross_entropy(H, W, pairs, margin=0.5)
    with pytest.raises(TypeError, match="`normalize` must be a bool"):
        linear_cross_entropy(H, W, Y, normalize=1)
    for given, words in (
        ({"margin": 0.1}, "a `margin` or an `angular_margin`"), ({"normalize": True}, "`normalize`")
    ):  # fmt: skip
        for function in (linear_cross_entropy, linear_cross_entropy_sum):
            name = f"jsoftmax.{function.__name__}: implementation='pallas' does not take {words}"
            with pytest.raises(NotImplementedError, match=f"{name}.*let implementation='xla'"):
                function(
                    jnp.asarray(H, jnp.float32), jnp.asarray(W, jnp.float32), Y,
                    implementation="pallas", **given,
                )  # fmt: skip
    for function in (linear_cross_entropy_sum, linear_cross_entropy_terms):
        name = f"jsoftmax.{function.__name__}: `angular_margin` needs scores that are cosines"
        with pytest.raises(ValueError, match=name):
            function(H, W, Y, angular_margin=0.5)
