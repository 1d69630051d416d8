"""The memory of attention grows with the length of sequences, not with its square."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jsoftmax as js

WIDTH = 8
SHORT, LONG = 2048, 8192


def total(q, k, v, alpha, is_causal):
    return js.dot_product_attention(q, k, v, alpha=alpha, is_causal=is_causal).sum()


def gradient(q, k, v, alpha, is_causal):
    return jax.grad(total, (0, 1, 2))(q, k, v, alpha, is_causal)


def tangent(q, k, v, alpha, is_causal):
    return jax.jvp(lambda *qkv: js.dot_product_attention(*qkv, alpha=alpha), (q, k, v), (q, k, v))


def hessian_vector(q, k, v, alpha, is_causal):
    return jax.jvp(lambda *qkv: gradient(*qkv, alpha, is_causal), (q, k, v), (q, k, v))


def value(q, k, v, alpha, is_causal):
    return js.dot_product_attention(q, k, v, alpha=alpha, is_causal=is_causal)


def temporaries(function, length, alpha, is_causal):
    """Bytes that are neither arguments nor results, for one head in float32."""
    x = jax.ShapeDtypeStruct((length, 1, WIDTH), jnp.float32)
    whole = jax.jit(functools.partial(function, alpha=alpha, is_causal=is_causal))
    return whole.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


CASES = [
    (value, 1.0, False),
    (value, 1.5, False),
    (gradient, 1.0, False),
    (gradient, 1.5, True),
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
    assert long < LONG * LONG * 4 / 4
