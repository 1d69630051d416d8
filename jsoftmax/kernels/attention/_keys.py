"""The kernel of the cotangents of keys and values."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jsoftmax.kernels.attention._backward import turned
from jsoftmax.kernels.attention._block import Block, finite, product
from jsoftmax.kernels.attention._spec import Spec
from jsoftmax.kernels.attention._walk import Source, walk


def of_keys(spec: Spec, refs: SimpleNamespace) -> None:
    """The body of the kernel: one tile of keys, and the queries of one of the heads that share it."""
    key_head, tile, group = (pl.program_id(i) for i in range(3))
    head = key_head * spec.groups + group
    k, v = refs.k[0], refs.v[0]

    @pl.when(group == 0)
    def _():
        refs.k_sum[...] = jnp.zeros(refs.k_sum.shape, jnp.float32)
        refs.v_sum[...] = jnp.zeros(refs.v_sum.shape, jnp.float32)

    def add(j, tiles):
        q, d_out, rows = tiles
        block = Block(spec, refs, head, j, keys_are_whole=False)
        found = turned(block, tile, k, v, q, d_out, rows)
        if spec.hides:
            q, d_out = (finite(x)[0] for x in (q, d_out))
        by_queries = product(found.d_u.astype(q.dtype), q, ((1,), (0,)), spec.precision)
        refs.k_sum[...] += by_queries * block.scale
        weights = found.weights.astype(d_out.dtype)
        refs.v_sum[...] += product(weights, d_out, ((1,), (0,)), spec.precision)
        return 0

    def turn(j, tiles, state):
        if refs.alive is None:
            return add(j, tiles)
        return jax.lax.cond(refs.alive[0, 0, j] > 0, lambda: add(j, tiles), lambda: 0)

    walk(_sources(spec, refs, head), *_blocks(spec, refs, head, tile), turn, 0)

    @pl.when(group == spec.groups - 1)
    def _():
        refs.d_k[0] = refs.k_sum[...].astype(refs.d_k.dtype)
        refs.d_v[0] = refs.v_sum[...].astype(refs.d_v.dtype)


def _sources(spec, refs, head):
    """Queries, cotangents of their mixtures and what is kept of their rows, block by block."""
    axes = {"q": 1, "d_out": 1, "rows": 2}
    return [
        Source(
            getattr(refs, name), axis, spec.block_q, head,
            getattr(refs, f"{name}_buffers"), getattr(refs, f"{name}_semaphores"),
        )
        for name, axis in axes.items()
    ]  # fmt: skip


def _blocks(spec, refs, head, tile):
    """The first block of queries that may see a tile of keys, and the one after the last."""
    block = Block(spec, refs, head, 0)
    size, start = spec.block_q, tile * spec.block_k
    end = jnp.minimum(start + spec.block_k, block.keys)
    first = jax.lax.div(jnp.maximum(start - block.after, 0), size)
    stop = jnp.maximum(jnp.minimum(block.queries, end + block.before), 0)
    last = jax.lax.div(stop + (size - 1), size)
    return first, jnp.where(end > start, jnp.maximum(last, first), first)
