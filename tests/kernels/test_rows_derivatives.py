"""Derivatives of functions of rows by kernels, both modes, and under transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests.kernels.rows_helpers import (
    LOSSES,
    MAPPINGS,
    interpreted,
    same,
    scores,
)

pytestmark = pytest.mark.kernels
KERNEL = {"implementation": "pallas"}


def pulled(function, cotangent, **named):
    """Cotangents of the arguments."""
    return lambda *xs: jax.vjp(functools.partial(function, **named), *xs)[1](cotangent)


CASES = [("tpu", name) for name in MAPPINGS]
CASES += [("gpu", name) for name in ("softmax", "entmax")]


@pytest.mark.parametrize(("chip", "name"), CASES)
def test_cotangents_and_tangents_are_those_of_xla(name, chip):
    z, d_z = scores(9, 21), scores(9, 21, seed=1)
    function = MAPPINGS[name]
    out = jax.eval_shape(function, z)
    cotangent = scores(9, 21, seed=2)[:, 0] if out.ndim == 1 else scores(9, 21, seed=2)
    with interpreted(chip):
        (found,) = jax.jit(pulled(function, cotangent, **KERNEL))(z)
        push = functools.partial(function, **KERNEL)
        moved = jax.jit(lambda z: jax.jvp(push, (z,), (d_z,)))(z)[1]
    same(found, jax.jit(pulled(function, cotangent))(z)[0], atol=4e-6)
    same(moved, jax.jit(lambda z: jax.jvp(function, (z,), (d_z,)))(z)[1], atol=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses_are_those_of_xla(name):
    z, y = scores(9, 21), jnp.arange(9)
    targets = js.softmax(scores(9, 21, seed=1))
    weights = scores(9, 1, seed=2)[:, 0]
    for t in (y, targets):
        found = jax.jit(lambda z, t=t: pulled(lambda z: LOSSES[name](z, t, **KERNEL), weights)(z))(
            z
        )
        same(found[0], pulled(lambda z, t=t: LOSSES[name](z, t), weights)(z)[0], atol=4e-6)
    found = pulled(lambda y: LOSSES[name](z, y, **KERNEL), weights)(targets)[0]
    same(found, pulled(lambda y: LOSSES[name](z, y), weights)(targets)[0], atol=4e-5)


def test_numbers_of_rows_and_shared_arrays_move_too():
    """α, T and a prior, each of rows or shared."""
    z, cotangent = scores(6, 11), scores(6, 11, seed=2)
    alpha = jnp.linspace(1.2, 2.6, 6, dtype=np.float32)[:, None]
    prior = jnp.linspace(0.5, 2, 11, dtype=np.float32)
    for a in (alpha, jnp.float32(1.4)):
        arguments = z, a, prior, jnp.float32(0.7)

        def function(z, a, q, t, **named):
            return js.entmax(z, a, prior=q, temperature=t, **named)

        found = jax.jit(pulled(function, cotangent, **KERNEL))(*arguments)
        expected = jax.jit(pulled(function, cotangent))(*arguments)
        for x, y in zip(found, expected, strict=True):
            same(x, y, atol=2e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "entmax"])
def test_second_derivatives_and_both_modes(name):
    """Numerically, in float32."""
    z = scores(2, 5, 1.0)
    function = jax.jit(functools.partial(MAPPINGS[name], **KERNEL))
    check_grads(function, (z,), order=2, modes=("fwd", "rev"), atol=3e-2, rtol=3e-2, eps=3e-3)


def test_hessians_are_those_of_xla():
    z = scores(1, 6)[0]
    for function in (js.entmax,):

        def cubes(z, function=function, **named):
            return jnp.sum(function(z, **named) ** 3)

        found = jax.hessian(functools.partial(cubes, **KERNEL))(z)
        same(found, jax.hessian(cubes)(z), atol=4e-6)


def test_rows_are_added_by_vmap():
    """Over scores, over α, over both; and of gradients."""
    z = jnp.stack([scores(4, 7, seed=i) for i in range(3)])
    a = jnp.asarray([1.2, 1.5, 2.2], np.float32)
    kernel = functools.partial(js.entmax, **KERNEL)
    for axes in ((None, 0), (0, 0)):
        arguments = z if axes[0] == 0 else z[0], a if axes[1] == 0 else a[0]
        found = jax.jit(jax.vmap(kernel, in_axes=axes))(*arguments)
        same(found, jax.vmap(js.entmax, in_axes=axes)(*arguments))
    mask = jnp.asarray(np.random.default_rng(0).random((3, 7)) < 0.7)
    found = jax.vmap(lambda z, m: kernel(z, where=m))(z, mask)
    same(found, jax.vmap(lambda z, m: js.entmax(z, where=m))(z, mask))
    gradient = jax.vmap(jax.grad(lambda z, f: jnp.sum(f(z) ** 2), argnums=0), in_axes=(0, None))
    same(gradient(z, jax.tree_util.Partial(kernel)), gradient(z, jax.tree_util.Partial(js.entmax)))


def test_a_cotangent_of_a_row_with_infinity_is_zero():
    z = jnp.asarray([[1, np.inf, 0], [-np.inf, 1, 0.5], [-np.inf] * 3], np.float32)
    (found,) = jax.jit(
        pulled(js.entmax, jnp.ones_like(z) * jnp.arange(3.0, dtype=z.dtype), **KERNEL)
    )(z)
    same(found, pulled(js.entmax, jnp.ones_like(z) * jnp.arange(3.0, dtype=z.dtype))(z)[0])
    assert (found[0] == 0).all() and found[1, 0] == 0 and (found[2] == 0).all()


def test_a_cotangent_has_the_dtype_of_its_scores():
    z = scores(4, 9, dtype=jnp.bfloat16)
    cotangent = scores(4, 9, seed=1, dtype=jnp.bfloat16)
    (found,) = pulled(js.softmax, cotangent, **KERNEL)(z)
    same(found, pulled(js.softmax, cotangent)(z)[0], atol=2e-3)


def test_values_and_gradients_at_once():
    """In float32, though 64-bit numbers are on."""
    z, y = scores(5, 9), jnp.arange(5)
    loss = jax.value_and_grad(lambda z: js.entmax_loss(z, y, **KERNEL).sum())
    plain = jax.value_and_grad(lambda z: js.entmax_loss(z, y).sum())
    for x, y_ in zip(loss(z), plain(z), strict=True):
        same(x, y_)
