"""Choose the block sizes, and whether a row of scores stays on the chip."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsoftmax.core._regularizer import Regularizer
from jsoftmax.kernels.attention._call import MOST

_LANES = 128
KEPT = 2**23  # scores of a block of queries that are kept: half of the chip's memory
_TILE = 24  # bytes for each number of a tile's operands: two buffers, sums, and room


class Sizes(NamedTuple):
    """Sizes of the blocks of a kernel."""

    block_q: int
    block_k: int
    on_chip: bool  # whether a row of scores is kept


def sizes(platform: str, queries: int, keys: int, width: int, value_width: int) -> Sizes:
    """Return blocks for these sizes that fit the memory of the chip.

    A TPU takes large blocks: 512 keys by 256 queries take a quarter less time than blocks of a
    quarter of that size, as its compiler schedules them. A GPU takes blocks that fit its registers
    and shared memory.

    Raises:
        NotImplementedError: for vectors so wide that no block of them fits.
    """
    if platform != "tpu":
        return Sizes(64, 64, False)
    block_q, block_k = min(256, _rounded(queries)), min(512, _rounded(keys))
    whole = _rounded(keys)
    if whole * block_q > KEPT >= whole * _LANES:
        block_q = _LANES
    on_chip = whole * block_q <= KEPT
    kept = 4 * whole * block_q if on_chip else 0
    while _TILE * (block_q + block_k) * (width + value_width) + kept > MOST:
        if block_k > _LANES:
            block_k //= 2
        elif block_q > _LANES:
            block_q //= 2
        elif on_chip:
            on_chip, kept = False, 0
        else:
            raise NotImplementedError(
                f"jsoftmax.dot_product_attention: implementation='pallas' does not take vectors of "
                f"{width} and {value_width} features: no block of them fits the chip. Use more "
                "heads of fewer features, or let implementation='xla' compute it."
            )
    return Sizes(block_q, block_k, on_chip)


def may_be_sparse(regularizer: Regularizer) -> bool:
    """Whether a score far below the others may have no mass; True where that is unknown."""
    if regularizer.is_exponential:
        return False
    if jax.tree.leaves(regularizer):
        return True
    # With numbers on no mesh, also where this is traced in `shard_map`.
    no_mesh = jax.sharding.AbstractMesh((), ())
    with jax.sharding.use_abstract_mesh(no_mesh), jax.ensure_compile_time_eval():
        return bool(regularizer.marginal(jnp.zeros(())) > -jnp.inf)


def _rounded(size: int) -> int:
    return max(-(-size // _LANES), 1) * _LANES
