"""Linear losses, top-k and draws with the classes split over a mesh, and with tokens split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jsoftmax import (
    gumbel_argmax,
    linear_categorical,
    linear_cross_entropy,
    linear_cross_entropy_sum,
    linear_entmax_loss,
    linear_topk,
)
from tests.vocabulary.linear.linear_helpers import assert_close

pytestmark = pytest.mark.slow

AXIS = "parts"
PARTS, TOKENS, WIDTH, CLASSES = 4, 10, 3, 72
rng = np.random.default_rng(0)
H = jnp.asarray(rng.normal(size=(TOKENS, WIDTH)))
W = jnp.asarray(rng.normal(size=(WIDTH, CLASSES)))
B = jnp.asarray(rng.normal(size=CLASSES))
COUNTS = jnp.asarray(rng.normal(size=TOKENS))
LABELS = jnp.asarray(rng.integers(0, CLASSES, TOKENS))
BLOCKS = {"block_tokens": 3, "block_classes": 7}
MESHES = [pytest.param(t, id=t.name) for t in (AxisType.Auto, AxisType.Explicit)]
SPLIT = (PartitionSpec(), PartitionSpec(None, AXIS), PartitionSpec(AXIS))


def losses(h, w, b, axis_name=None):
    """A number for each of the three forms."""
    options = {"bias": b, "axis_name": axis_name, "label_smoothing": 0.1}
    return (
        COUNTS @ linear_cross_entropy(h, w, LABELS, z_loss=0.01, **options, **BLOCKS),
        COUNTS @ linear_entmax_loss(h, w, LABELS, **options, **BLOCKS),
        linear_cross_entropy_sum(h, w, LABELS, COUNTS, block_tokens=3, **options),
    )


def mesh(axis_type=AxisType.Auto):
    return jax.make_mesh((PARTS,), (AXIS,), axis_types=(axis_type,))


def over_parts(function, out):
    return jax.shard_map(function, mesh=mesh(), in_specs=SPLIT, out_specs=out)


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_split_classes_give_the_losses_and_gradients_of_whole_rows(place):
    """Differentiated outside of the mapped function, and inside it."""

    def split(h, w, b):
        return losses(h, w, b, AXIS)

    jacobian = jax.jacrev(losses, (0, 1, 2))(H, W, B)
    if place == "outside":
        mapped = over_parts(split, (PartitionSpec(),) * 3)
        ours = jax.jit(lambda *x: (mapped(*x), jax.jacrev(mapped, (0, 1, 2))(*x)))(H, W, B)
    else:
        out = ((PartitionSpec(),) * 3, (SPLIT,) * 3)
        both = [jax.value_and_grad(lambda *x, i=i: split(*x)[i], (0, 1, 2)) for i in range(3)]
        mapped = over_parts(lambda *x: tuple(zip(*(f(*x) for f in both), strict=True)), out)
        ours = jax.jit(mapped)(H, W, B)
    assert_close(ours, (losses(H, W, B), jacobian))


def test_split_classes_give_the_hessian_of_whole_rows():
    def hessian(losses):
        return jax.jacfwd(jax.grad(lambda h: losses(h)[0]))

    def ours(h):
        return over_parts(lambda h, w, b: losses(h, w, b, AXIS), (PartitionSpec(),) * 3)(h, W, B)

    assert_close(jax.jit(hessian(ours))(H), jax.jit(hessian(lambda h: losses(h, W, B)))(H))


def test_a_vmapped_axis_is_as_good_as_a_mesh():
    parts = jnp.moveaxis(W.reshape(WIDTH, PARTS, -1), 1, 0)
    mapped = jax.vmap(lambda w, b: losses(H, w, b, AXIS), axis_name=AXIS)
    ours = jax.jit(mapped)(parts, B.reshape(PARTS, -1))
    assert_close(tuple(x[0] for x in ours), losses(H, W, B))


def test_a_sum_has_its_gradient_where_nothing_is_checked():
    """Under `vmap` and with check_vma=False: sums over parts are transposed as sums."""

    def total(w, axis_name=AXIS):
        return linear_cross_entropy_sum(H, w, LABELS, axis_name=axis_name)

    expected = jax.grad(lambda w: total(w, None))(W)
    parts = jnp.moveaxis(W.reshape(WIDTH, PARTS, -1), 1, 0)
    unchecked = jax.shard_map(
        total, mesh=mesh(), in_specs=SPLIT[1], out_specs=SPLIT[0], check_vma=False
    )
    assert_close(jax.grad(unchecked)(W), expected)
    ours = jax.grad(lambda w: jax.vmap(total, axis_name=AXIS)(w)[0])(parts)
    assert_close(jnp.moveaxis(ours, 0, 1).reshape(WIDTH, CLASSES), expected)


def test_split_classes_give_the_top_k_and_the_draws_of_whole_rows():
    """Parts of 18 classes, which begin within blocks of noise."""
    key = jax.random.key(1)

    def split(h, w, b):
        values, classes = linear_topk(h, w, 5, bias=b, axis_name=AXIS, block_tokens=3)
        drawn = linear_categorical(key, h, w, bias=b, axis_name=AXIS, block_classes=7)
        return jnp.stack([x[None] for x in (values, classes)]), drawn[None]

    # Equal on every part, which the mapped function need not prove.
    every = (PartitionSpec(None, AXIS), PartitionSpec(AXIS))
    (values, classes), drawn = jax.jit(over_parts(split, every))(H, W, B)
    whole = linear_topk(H, W, 5, bias=B)
    for part in range(PARTS):
        assert_close(values[part], whole.values)
        np.testing.assert_array_equal(classes[part], whole.classes)
        np.testing.assert_array_equal(drawn[part], gumbel_argmax(key, H @ W + B))


@pytest.mark.parametrize("axis_type", MESHES)
def test_tokens_split_over_devices_are_not_gathered(axis_type):
    """Blocks take every n-th token, so the compiler moves numbers of the table only."""
    tokens = 64
    h = jnp.asarray(rng.normal(size=(tokens, WIDTH)))
    labels = jnp.asarray(rng.integers(0, CLASSES, tokens))

    def loss(h, w, labels):
        return linear_cross_entropy(h, w, labels, block_tokens=16, block_classes=18).sum()

    gradient = jax.value_and_grad(loss, (0, 1))
    with jax.set_mesh(mesh(axis_type)):
        place = NamedSharding(mesh(axis_type), PartitionSpec(AXIS))
        split = jax.device_put(h, place), W, jax.device_put(labels, place)
        ready = jax.jit(gradient).lower(*split).compile()
        ours = ready(*split)
    assert_close(jax.device_get(ours), jax.device_get(gradient(h, W, labels)))
    assert "all-gather" not in ready.as_text()
