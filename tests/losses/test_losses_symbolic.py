"""Losses exported for batches and classes of any size."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jsoftmax import cross_entropy, topk_entmax_loss
from tests.losses.loss_helpers import LABELLED
from tests.marks import some

WAYS = {
    **{name: lambda z, y, loss=loss: loss(z, y) for name, loss in LABELLED.items()},
    **{
        f"{name} of distributions": lambda z, y, loss=loss: loss(z, jax.nn.softmax(z[:, ::-1]))
        for name, loss in LABELLED.items()
    },
    **{
        f"{name} with options": lambda z, y, loss=loss: loss(
            z, y, where=z > -2, ignore_index=0, label_smoothing=0.1, class_weights=jnp.exp(z[0])
        )
        for name, loss in LABELLED.items()
    },
    "cross_entropy of all axes": lambda z, y: cross_entropy(z, y[0], axis=(1, 0)),
    "topk_entmax_loss": lambda z, y: topk_entmax_loss(z, jnp.stack([y, (y + 1) % 3], -1)),
    "gradient of cross_entropy": jax.grad(lambda z, y: cross_entropy(z, y).sum()),
}
ALWAYS = ["cross_entropy", "cross_entropy of all axes"]


@pytest.fixture(autouse=True)
def unchecked():
    """Without the check of annotations: to it a symbol is no int."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def exported(function):
    batch, classes = jax.export.symbolic_shape("batch, classes")
    z = jax.ShapeDtypeStruct((batch, classes), jnp.float32)
    return jax.export.export(jax.jit(function))(z, jax.ShapeDtypeStruct((batch,), jnp.int32))


@pytest.mark.parametrize("name", sorted(set(WAYS) - set(ALWAYS)))
def test_it_exports_with_symbolic_sizes(name):
    assert exported(WAYS[name]).nr_devices == 1


@pytest.mark.parametrize("name", some(WAYS, ALWAYS))
def test_the_exported_program_is_the_direct_one_at_every_size(name):
    program, rng = exported(WAYS[name]), np.random.default_rng(0)
    for shape in ((1, 3), (4, 7), (2, 2101)):
        z = rng.standard_normal(shape).astype(np.float32)
        y = rng.integers(0, 3, shape[0]).astype(np.int32)
        np.testing.assert_allclose(program.call(z, y), WAYS[name](z, y), rtol=2e-5, atol=1e-5)
