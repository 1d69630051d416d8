"""JAX's transformations: export, tracing once, NaN debugging, strictness, rematerialisation."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from tests.marks import some

FUNCTIONS = {
    "softmax": jsoftmax.softmax,
    "log_softmax": jsoftmax.log_softmax,
    "logsumexp": jsoftmax.logsumexp,
    "sparsemax": jsoftmax.sparsemax,
    "entmax 1.2": lambda z: jsoftmax.entmax(z, 1.2),
    "entmax 3": lambda z: jsoftmax.entmax(z, 3.0),
    "entmax 0.5": lambda z: jsoftmax.entmax(z, 0.5),
    "normmax": jsoftmax.normmax,
    "topk_entmax": lambda z: jsoftmax.topk_entmax(z, 2),
    "topk_sigmoid": lambda z: jsoftmax.topk_sigmoid(z, 2),
    "capped_entmax": lambda z: jsoftmax.capped_entmax(z, 0.6),
    "cross_entropy": lambda z: jsoftmax.cross_entropy(z, jnp.zeros(z.shape[:-1], int)),
    "entmax_loss": lambda z: jsoftmax.entmax_loss(z, jnp.zeros(z.shape[:-1], int)),
}
QUICK = ["softmax", "entmax 1.2", "topk_entmax", "cross_entropy"]
Z = np.random.default_rng(0).standard_normal((3, 6))
EDGES = np.array(
    [[1.0, -np.inf, 0.5, 3.0, 0.0, 2.0], [-np.inf] * 6, [5.0] * 6, [1e30, 0, 1, 2, 3, 4]]
)


def total(function):
    return lambda z: function(z).sum()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_function_and_gradient_is_exported_for_every_platform(platform):
    for function in FUNCTIONS.values():
        whole = jax.jit(jax.grad(total(function)))
        exported = jax.export.export(whole, platforms=[platform])(jnp.asarray(Z, jnp.float32))
        assert exported.platforms == (platform,)


def test_equal_shapes_are_traced_once():
    traces = []

    @jax.jit
    def counted(z, alpha, temperature):
        traces.append(z.shape)
        return jsoftmax.entmax(z, alpha, temperature=temperature)

    for alpha in (1.0, 1.5, 2.5):
        counted(jnp.asarray(Z), jnp.asarray([alpha]), jnp.asarray([alpha]))
    assert len(traces) == 1


@pytest.mark.parametrize("name", some(FUNCTIONS, QUICK))
@pytest.mark.parametrize("jitted", some([False, True], [True]))
def test_no_nan_is_formed_on_the_way(name, jitted):
    """Rows with −∞, of −∞ alone, of ties and of huge gaps, under jax_debug_nans."""
    function = FUNCTIONS[name]
    z = jnp.asarray(EDGES[[0, 2, 3]] if "topk" in name or "capped" in name else EDGES)
    gradient = jax.grad(lambda z: jnp.where(jnp.isfinite(y := function(z)), y, 0).sum())
    with jax.debug_nans(True):
        for compute in (function, gradient):
            out = (jax.jit(compute) if jitted else compute)(z)
            assert not jnp.isnan(out).any()


@pytest.mark.parametrize("temperature", [0.0, jnp.inf, -1.0])
def test_no_nan_is_formed_at_the_limits_of_temperature(temperature):
    z = jnp.asarray(EDGES)
    t = jnp.full((1, 1), temperature)
    with jax.debug_nans(True):
        for alpha in (1.0, 1.5, 2.0, 3.0):
            p, pull = jax.vjp(lambda z, t, a=alpha: jsoftmax.entmax(z, a, temperature=t), z, t)
            assert not any(jnp.isnan(x).any() for x in (p, *pull(jnp.ones_like(p))))


@pytest.mark.parametrize("name", some(FUNCTIONS, QUICK))
def test_strict_promotion_of_dtypes_and_ranks_finds_nothing(name):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.grad(total(FUNCTIONS[name]))(jnp.asarray(Z, jnp.float32))
        jsoftmax.entmax(
            jnp.asarray(Z, jnp.float32),
            jnp.asarray([1.5], jnp.float32),
            where=jnp.asarray([True] * 6),
            temperature=jnp.asarray([2.0], jnp.float32),
        )


@pytest.mark.parametrize("name", some(FUNCTIONS, ["softmax", "entmax 1.2", "topk_entmax"]))
def test_nothing_leaks_and_rematerialising_changes_nothing(name):
    function = FUNCTIONS[name]
    with jax.checking_leaks():
        plain = jax.jit(jax.grad(total(function)))(jnp.asarray(Z))
    again = jax.grad(total(jax.checkpoint(function)))(jnp.asarray(Z))
    np.testing.assert_allclose(again, plain, atol=1e-14)


@pytest.mark.parametrize("name", some(FUNCTIONS, QUICK))
def test_vmap_is_a_batch(name):
    function = FUNCTIONS[name]
    np.testing.assert_allclose(
        jax.vmap(function)(jnp.asarray(Z)), function(jnp.asarray(Z)), atol=1e-14
    )


def test_vmap_maps_over_every_argument():
    z = jnp.asarray(Z)
    alpha, temperature = jnp.array([1.0, 1.5, 2.0]), jnp.array([0.5, 1.0, 0.0])
    mask = jnp.asarray(Z) > -1
    rows = jax.vmap(lambda z, a, t, m: jsoftmax.entmax(z, a, temperature=t, where=m))(
        z, alpha, temperature, mask
    )
    batch = jsoftmax.entmax(z, alpha[:, None], temperature=temperature[:, None], where=mask)
    np.testing.assert_allclose(rows, batch, atol=1e-14)
