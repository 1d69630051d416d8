"""Backward kernel: cotangents of keys and values."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jsoftmax.kernels.attention._backward import turned
from jsoftmax.kernels.attention._block import Block, finite, product
from jsoftmax.kernels.attention._spec import Spec, quotient
from jsoftmax.kernels.attention._tile_sums import summed
from jsoftmax.kernels.attention._visits import Visits
from jsoftmax.kernels.attention._walk import Source


def of_keys(spec: Spec, refs: SimpleNamespace) -> None:
    """Run the kernel for one tile of keys.

    On a TPU a step of the grid has the queries of one of the heads that share the tile, and the
    sums stay on the chip from step to step; on a GPU a step has the queries of all.
    """
    key_head, tile = pl.program_id(0), pl.program_id(1)
    shapes = [(spec.block_k, refs.k.shape[2]), (spec.block_k, refs.v.shape[2])]
    if not spec.is_tpu:

        def add(group, sums):
            head = key_head * spec.groups + group
            found = _of_head(spec, refs, head, tile, group, None, shapes)
            return tuple(x + y for x, y in zip(sums, found, strict=True))

        zeros = tuple(jnp.zeros(shape, spec.computing) for shape in shapes)
        _write(refs, jax.lax.fori_loop(0, spec.groups, add, zeros))
        return
    group = pl.program_id(2)
    kept = [refs.k_sum, refs.v_sum]

    @pl.when(group == 0)
    def _():
        for ref in kept:
            ref[...] = jnp.zeros(ref.shape, ref.dtype)

    _of_head(spec, refs, key_head * spec.groups + group, tile, 0, kept, shapes)

    @pl.when(group == spec.groups - 1)
    def _():
        _write(refs, [ref[...] for ref in kept])


def _write(refs, sums):
    for ref, x in zip((refs.d_k, refs.d_v), sums, strict=True):
        ref[0] = x.astype(ref.dtype)


def _of_head(spec, refs, head, tile, row, kept, shapes):
    """Add the terms of one query head to the cotangents of keys and values."""

    def terms(j, tiles):
        q, d_out, rows = tiles
        block = Block(spec, refs, head, j, keys_are_whole=False)
        found = turned(block, tile, refs.k[0], refs.v[0], q, d_out, rows)
        if spec.hides:
            q, d_out = (finite(x)[0] for x in (q, d_out))
        by_queries = product(found.d_u.astype(q.dtype), q, ((1,), (0,)), spec.precision)
        weights = found.weights.astype(d_out.dtype)
        return by_queries * block.scale, product(weights, d_out, ((1,), (0,)), spec.precision)

    def is_alive(j):
        return refs.alive[0, 0, j] > 0

    return summed(
        kept, shapes, spec.computing, _sources(spec, refs, head, row),
        _blocks(spec, refs, head, tile), terms,
        None if refs.alive is None else is_alive, is_begun=True,
    )  # fmt: skip


def _sources(spec, refs, head, row):
    """Return sources of blocks: queries, cotangents of their mixtures, residuals of rows."""
    of_places = 1 if spec.is_tpu else 0
    axes = {"q": of_places, "d_out": of_places, "rows": 2}
    return [
        Source(
            getattr(refs, name), axis, spec.block_q, head, row,
            getattr(refs, f"{name}_buffers"), getattr(refs, f"{name}_semaphores"),
        )
        for name, axis in axes.items()
    ]  # fmt: skip


def _blocks(spec, refs, head, tile):
    """Return the blocks of queries that may see a tile of keys."""
    block = Block(spec, refs, head, 0)
    size, start = spec.block_q, tile * spec.block_k
    end = jnp.minimum(start + spec.block_k, block.keys)
    first = quotient(jnp.maximum(start - block.after, 0), size)
    stop = jnp.maximum(jnp.minimum(block.queries, end + block.before), 0)
    last = quotient(stop + (size - 1), size)
    return Visits(first, jnp.where(end > start, jnp.maximum(last, first), first))
