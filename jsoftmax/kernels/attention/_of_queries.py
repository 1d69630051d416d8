"""Backward kernel: cotangents of queries, of a bias, and of the numbers of a head."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
from jax.experimental import pallas as pl

from jsoftmax.kernels.attention._backward import turned
from jsoftmax.kernels.attention._block import Block, finite, product
from jsoftmax.kernels.attention._layout import write
from jsoftmax.kernels.attention._row import folded
from jsoftmax.kernels.attention._spec import Spec
from jsoftmax.kernels.attention._tile_sums import summed


def of_queries(spec: Spec, refs: SimpleNamespace) -> None:
    """Run the kernel for one block of queries of one head."""
    block = Block(spec, refs, pl.program_id(0), pl.program_id(1))
    q, d_out, rows = refs.q[0], refs.d_out[0], refs.rows[0]
    width = q.shape[1]
    count = len(spec.moving_rows)
    shapes = [(width, spec.block_q), *([(spec.rows, spec.block_q)] * count)]
    if refs.d_bias is not None:
        refs.d_bias[...] = jnp.zeros(refs.d_bias.shape, refs.d_bias.dtype)

    def terms(i, tiles):
        k, v, *k_turned = tiles
        tile = turned(block, i, k, v, q, d_out, rows)
        if refs.d_bias is not None:
            refs.d_bias[0, block.keys_of(i), :] = tile.d_u
        axes = ((0,), (0,))
        if k_turned:
            (k,), axes = k_turned, ((1,), (0,))
        if spec.hides:
            k, _ = finite(k)
        moved = product(k, tile.d_u.astype(k.dtype), axes, spec.precision)
        return moved, *(folded(x, jnp.sum, spec.rows) for x in tile.rows)

    def is_alive(i):
        return refs.alive[0, 0, i] > 0

    sources = [block.source("k"), block.source("v")]
    if refs.k_turned is not None:
        sources.append(block.source("k_turned", 2))
    kept = [getattr(refs, f"sum_{i}") for i in range(count + 1)] if spec.is_tpu else None
    found = summed(
        kept, shapes, spec.computing, sources, block.visits(), terms,
        None if refs.alive is None else is_alive,
    )  # fmt: skip
    write(spec, refs.d_q, found[0] * block.numbers["scale"])
    for i, x in enumerate(found[1:]):
        refs.sums[0, i : i + 1] = jnp.sum(x, axis=0, keepdims=True)
