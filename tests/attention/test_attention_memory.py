"""The memory of attention grows with the length of sequences, not with its square."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jsoftmax as js

WIDTH = 8
SHORT, LONG = 2048, 8192


def value(q, k, v, **options):
    return js.dot_product_attention(q, k, v, **options)


def gradient(q, k, v, **options):
    return jax.grad(lambda *qkv: value(*qkv, **options).sum(), (0, 1, 2))(q, k, v)


def tangent(q, k, v, **options):
    return jax.jvp(functools.partial(value, **options), (q, k, v), (q, k, v))


def hessian_vector(q, k, v, **options):
    return jax.jvp(functools.partial(gradient, **options), (q, k, v), (q, k, v))


def temporaries(function, length, alpha, is_causal):
    """Bytes that are neither arguments nor results, for one head in float32."""
    x = jax.ShapeDtypeStruct((length, 1, WIDTH), jnp.float32)
    whole = jax.jit(functools.partial(function, alpha=alpha, is_causal=is_causal))
    return whole.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


CASES = [
    (value, 1.0, False),
    (value, 1.5, False),
    (gradient, 1.0, False),
    pytest.param(gradient, 1.5, True, marks=pytest.mark.slow),
    pytest.param(gradient, 1.25, False, marks=pytest.mark.slow),
    pytest.param(tangent, 1.0, False, marks=pytest.mark.slow),
    pytest.param(tangent, 1.5, False, marks=pytest.mark.slow),
    pytest.param(hessian_vector, 1.0, False, marks=pytest.mark.slow),
    pytest.param(hessian_vector, 1.5, False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("function, alpha, is_causal", CASES)
def test_temporaries_grow_with_the_length_and_not_with_its_square(function, alpha, is_causal):
    """At most in proportion, and half as much again; and far below one array of all scores."""
    short, long = (temporaries(function, n, alpha, is_causal) for n in (SHORT, LONG))
    assert long <= 1.5 * LONG / SHORT * short
    assert long < LONG * LONG  # a quarter of their bytes
