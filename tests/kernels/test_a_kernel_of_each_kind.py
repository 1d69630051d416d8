"""One kernel of each kind, for every run of the tests; `make kernels` has the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.laws.test_laws_eager import COMPILED

Z = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
LABELS = np.arange(5)
Q = np.random.default_rng(1).normal(size=(2, 1, 20, 2, 8)).astype(np.float32)
KINDS = {
    "mapping": lambda z, **how: js.entmax(z, **how),
    "loss": lambda z, **how: js.cross_entropy(z, LABELS, **how),
    "attention": lambda z, **how: js.dot_product_attention(
        Q[0] * z[0, 0], Q[1], Q[1], alpha=1.5, is_causal=True, **how
    ),
    "linear loss": lambda z, **how: js.linear_cross_entropy(z, Z.T @ Z / 50, LABELS, **how),
}


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_those_of_xla(kind):
    """A kernel is interpreted on a CPU.

    The gradient in z[0, 0] is a sum of 320 float32 products, −46. Measured against float64 each way
    is wrong by up to 3 units in its last place, and both together by 4: rtol is 8 eps.
    """

    def found(implementation):
        def total(z):
            return jnp.sum(jnp.sin(KINDS[kind](z, implementation=implementation)))

        return jax.jit(jax.value_and_grad(total))(Z)

    for x, y in zip(found("pallas"), found("xla"), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_eager_call_and_its_gradient_compile_nothing(kind):
    """Other values of the same shapes."""

    def total(z):
        return jnp.sum(KINDS[kind](z, implementation="pallas"))

    first, second = jnp.asarray(Z), jnp.asarray(Z + 1)
    jax.block_until_ready((total(first), jax.grad(total)(first)))
    COMPILED.clear()
    jax.block_until_ready((total(second), jax.grad(total)(second)))
    assert COMPILED == []


@pytest.mark.parametrize("kind", ["mapping", "attention"])
def test_arrays_split_over_an_explicit_mesh_are_refused_with_the_remedy(kind):
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    split = jax.NamedSharding(mesh, jax.P("data", None, "model"))
    x = jax.device_put(jnp.ones((2, 6, 4, 8), jnp.float32), split)
    attend = js.dot_product_attention
    call = js.entmax if kind == "mapping" else lambda x, **how: attend(x, x, x, **how)
    with jax.set_mesh(mesh), pytest.raises(NotImplementedError, match=r"Explicit.*shard_map"):
        call(x, implementation="pallas")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_implementation_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=r"jsoftmax\.\w+: `implementation`.*'cuda'"):
        KINDS[kind](Z, implementation="cuda")
