"""Programs for batches and classes of any size, exported once."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jsoftmax as js
from tests.mappings.mapping_helpers import ARGUMENTS, values
from tests.marks import some

WAYS = {
    **{name: lambda z, name=name: values(name, z) for name in ARGUMENTS},
    "entmax at 3": lambda z: js.entmax(z, 3.0),
    "entmax at a traced 1.3": lambda z: js.entmax(z, jnp.asarray(1.3, z.dtype)),
    "soft_argmax of all axes": lambda z: js.soft_argmax(z, axis=None),
    "softmax of all axes": lambda z: js.softmax(z, axis=None),
    "softmax of some": lambda z: js.softmax(z, where=z > 0, temperature=1 + z[:, :1] ** 2),
    "PartialLogSumExp": lambda z: js.PartialLogSumExp.of(z).value(),
    "gradient of entmax": jax.grad(lambda z: (js.entmax(z) ** 2).sum()),
    "gradient of log_softmax": jax.grad(lambda z: js.log_softmax(z)[:, 0].sum()),
}
ALWAYS = ["softmax", "softmax of some"]


@pytest.fixture(autouse=True)
def unchecked():
    """Without the check of annotations: to it a symbol is no int."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def exported(function):
    batch, classes = jax.export.symbolic_shape("batch, classes")
    stand_in = jax.ShapeDtypeStruct((batch, classes), jnp.float32)
    return jax.export.export(jax.jit(function))(stand_in)


@pytest.mark.parametrize("name", sorted(set(WAYS) - set(ALWAYS)))
def test_it_exports_with_symbolic_sizes(name):
    assert exported(WAYS[name]).nr_devices == 1


@pytest.mark.parametrize("name", some(WAYS, ALWAYS))
def test_the_exported_program_is_the_direct_one_at_every_size(name):
    program = exported(WAYS[name])
    for shape in ((1, 3), (4, 7), (2, 2101)):
        z = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(program.call(z), WAYS[name](z), rtol=2e-5, atol=1e-6)
