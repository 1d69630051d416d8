"""The forward pass of a linear cross-entropy in Pallas for GPUs (Triton), as a prototype.

A program holds the scores of 128 tokens and 128 classes in registers, goes through a share of the
classes, and writes its largest score, sum and label; XLA puts the shares together.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

F32 = jnp.float32
TOKENS, CLASSES, WIDTH = 128, 128, 64  # of a block of scores, and of the features at a time


def shares(tokens: int) -> int:
    """Into how many shares the classes go, so that 132 processors have work."""
    return 2 if tokens > 64 * TOKENS // 2 else 6


def forward(h, w, y, shares: int = 6, interpret: bool = False):
    """Losses of tokens, from features [T, d], a class table [d, K] and labels [T]."""
    (tokens, width), classes = h.shape, w.shape[1]
    blocks = classes // CLASSES // shares  # of classes, to each program

    def kernel(h, w, y, top, total, label):
        first = pl.program_id(1) * blocks
        labels = y[...].reshape(TOKENS, 1)

        def of_block(j, state):
            m, s, at_label = state
            start = (first + j) * CLASSES

            def multiply(k, z):
                inner = pl.ds(k * WIDTH, WIDTH)
                return z + jnp.dot(
                    h[:, inner], w[inner, pl.ds(start, CLASSES)], preferred_element_type=F32
                )

            z = jnp.zeros((TOKENS, CLASSES), F32)
            z = jax.lax.fori_loop(0, width // WIDTH, multiply, z)
            new = jnp.maximum(m, jnp.max(z, 1, keepdims=True))
            s = s * jnp.exp(m - new) + jnp.sum(jnp.exp(z - new), 1, keepdims=True)
            here = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) + start == labels
            return new, s, at_label + jnp.sum(jnp.where(here, z, 0), 1, keepdims=True)

        none = jnp.zeros((TOKENS, 1), F32)
        m, s, at_label = jax.lax.fori_loop(0, blocks, of_block, (none - 1e30, none, none))
        top[...], total[...], label[...] = (x.reshape(1, TOKENS) for x in (m, s, at_label))

    found = jax.ShapeDtypeStruct((shares, tokens), F32)
    top, total, label = pl.pallas_call(
        kernel,
        grid=(tokens // TOKENS, shares),
        in_specs=[
            pl.BlockSpec((TOKENS, width), lambda i, j: (i, 0)),
            pl.BlockSpec((width, classes), lambda i, j: (0, 0)),
            pl.BlockSpec((TOKENS,), lambda i, j: (i,)),
        ],
        out_specs=[pl.BlockSpec((1, TOKENS), lambda i, j: (j, i))] * 3,
        out_shape=[found] * 3,
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=4),
        interpret=interpret,
        name="forward",
    )(h, w, y)
    m = jnp.max(top, 0)
    return m + jnp.log(jnp.sum(total * jnp.exp(top - m), 0)) - jnp.sum(label, 0)
