"""Attention against torch's scaled_dot_product_attention, and against the entmax package on torch.

Values and gradients in float64, `make peers`. torch is not installed for the other tests.
"""

import functools

import entmax
import jax
import numpy as np
import pytest
import torch

import jsoftmax as js

jax.config.update("jax_enable_x64", True)

B, T, S, N, H, HV = 2, 7, 9, 4, 3, 5
near = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def arrays(key_heads=N):
    """Queries, keys, values, a bias for each head, and a cotangent."""
    rng = np.random.default_rng(0)
    shapes = [(B, T, N, H), (B, S, key_heads, H), (B, S, key_heads, HV), (N, T, S), (B, T, N, HV)]
    return [rng.normal(size=shape) for shape in shapes]


def ours(function, inputs, cotangent):
    """(value, gradients of ⟨cotangent, value⟩), by JAX."""

    @jax.jit
    def both(*inputs):
        out, pull = jax.vjp(function, *inputs)
        return out, pull(cotangent)

    return both(*inputs)


def theirs(function, inputs, cotangent):
    """The same by torch, which has heads before places."""
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    heads_first = [x.transpose(1, 2) if x.ndim == 4 else x for x in tensors]
    out = function(*heads_first).transpose(1, 2)
    gradients = torch.autograd.grad(out, tensors, torch.tensor(cotangent))
    return out.detach(), gradients


def compare(one, other, inputs, cotangent):
    (out, slopes), (right, right_slopes) = (
        ours(one, inputs, cotangent),
        theirs(other, inputs, cotangent),
    )
    near(out, right)
    for slope, right_slope in zip(slopes, right_slopes, strict=True):
        near(slope, right_slope)


SEEN = np.random.default_rng(1).random((B, 1, T, S)) < 0.7
SEEN[..., 0] = True
SDPA = {
    "nothing": ({}, {}, N),
    "scale, grouped heads": ({"scale": 0.4}, {"scale": 0.4, "enable_gqa": True}, 2),
    "mask, one head of keys": (
        {"mask": SEEN},
        {"attn_mask": torch.tensor(SEEN), "enable_gqa": True},
        1,
    ),
    "causal": ({"is_causal": True}, {"is_causal": True}, N),
}


@pytest.mark.parametrize("name", SDPA)
def test_softmax_is_that_of_scaled_dot_product_attention(name):
    of_ours, of_theirs, key_heads = SDPA[name]
    *inputs, _, cotangent = arrays(key_heads)
    compare(
        functools.partial(js.dot_product_attention, block_q=4, block_k=4, **of_ours),
        functools.partial(torch.nn.functional.scaled_dot_product_attention, **of_theirs),
        inputs,
        cotangent,
    )


def test_a_bias_is_their_float_mask_with_its_gradient():
    *inputs, cotangent = arrays()
    compare(
        functools.partial(js.dot_product_attention, block_q=4, block_k=4),
        torch.nn.functional.scaled_dot_product_attention,
        inputs,
        cotangent,
    )


def test_a_row_that_sees_nothing_is_zero_there_too():
    *inputs, _, cotangent = arrays()
    seen = np.ones((B, 1, T, S), bool)
    seen[0, :, 2] = False
    compare(
        functools.partial(js.dot_product_attention, mask=seen),
        functools.partial(
            torch.nn.functional.scaled_dot_product_attention, attn_mask=torch.tensor(seen)
        ),
        inputs,
        cotangent,
    )


def by_weights(mapping, q, k, v, bias, *more):
    """Attention with weights of a mapping of the entmax package, which takes no mask."""
    z = q @ k.transpose(-1, -2) / H**0.5 + bias
    z = z.masked_fill(~torch.ones(T, S, dtype=torch.bool).tril(), -1e4)
    return mapping(z, *more) @ v


ORDERS = {
    "sparsemax": (2.0, functools.partial(entmax.sparsemax, dim=-1)),
    "entmax15": (1.5, functools.partial(entmax.entmax15, dim=-1)),
    "entmax_bisect": (1.25, functools.partial(entmax.entmax_bisect, alpha=1.25)),
}


@pytest.mark.parametrize("blocks", [(None, None), (4, 4)])
@pytest.mark.parametrize("name", ORDERS)
def test_sparse_attention_is_that_of_the_entmax_package(name, blocks):
    """Causal, with a bias."""
    alpha, mapping = ORDERS[name]
    *inputs, cotangent = arrays()
    attend = functools.partial(
        js.dot_product_attention, is_causal=True, alpha=alpha, block_q=blocks[0], block_k=blocks[1]
    )
    compare(attend, functools.partial(by_weights, mapping), inputs, cotangent)


def test_an_order_for_each_head_has_the_gradient_of_the_entmax_package():
    *inputs, cotangent = arrays()
    alpha = np.array([1.2, 1.5, 1.8, 2.0])

    def attend(q, k, v, bias, alpha):
        return js.dot_product_attention(
            q, k, v, bias, alpha=alpha, is_causal=True, block_q=4, block_k=4
        )

    def theirs(q, k, v, bias, alpha):
        return by_weights(entmax.entmax_bisect, q, k, v, bias, alpha[:, None, None])

    compare(attend, theirs, [*inputs, alpha], cotangent)
