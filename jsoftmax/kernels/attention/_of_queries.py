"""The kernel of the cotangents of queries, of a bias, and of the numbers of a head."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
from jax.experimental import pallas as pl

from jsoftmax.kernels.attention._backward import turned
from jsoftmax.kernels.attention._block import Block, finite, product
from jsoftmax.kernels.attention._row import folded
from jsoftmax.kernels.attention._spec import Spec
from jsoftmax.kernels.attention._tile_sums import summed


def of_queries(spec: Spec, refs: SimpleNamespace) -> None:
    """The body of the kernel: one block of queries of one head."""
    block = Block(spec, refs, pl.program_id(0), pl.program_id(1))
    q, d_out, rows = refs.q[0], refs.d_out[0], refs.rows[0]
    width = q.shape[1]
    count = len(spec.moving_rows)
    shapes = [(width, spec.block_q), *([(spec.rows, spec.block_q)] * count)]
    if refs.d_bias is not None:
        refs.d_bias[...] = jnp.zeros(refs.d_bias.shape, refs.d_bias.dtype)

    def terms(i, tiles):
        k, v, k_turned = tiles
        tile = turned(block, i, k, v, q, d_out, rows)
        if refs.d_bias is not None:
            refs.d_bias[0, block.keys_of(i), :] = tile.d_u
        k = k_turned
        if spec.hides:
            k, _ = finite(k)
        moved = product(k, tile.d_u.astype(k.dtype), ((1,), (0,)), spec.precision)
        return moved, *(folded(x, jnp.sum, spec.rows) for x in tile.rows)

    def is_alive(i):
        return refs.alive[0, 0, i] > 0

    kept = [getattr(refs, f"sum_{i}") for i in range(count + 1)] if spec.is_tpu else None
    found = summed(
        kept, shapes, spec.computing,
        [block.source("k"), block.source("v"), block.source("k_turned", 2)], block.visits(), terms,
        None if refs.alive is None else is_alive,
    )  # fmt: skip
    refs.d_q[0] = (found[0] * block.numbers["scale"]).astype(refs.d_q.dtype)
    for i, x in enumerate(found[1:]):
        refs.sums[0, i : i + 1] = jnp.sum(x, axis=0, keepdims=True)
