"""How many queries and keys come together, and whether a row of scores stays on the chip."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsoftmax.core._regularizer import Regularizer

_LANES = 128
_CHIP = 40 * 2**20  # bytes for what a block needs at once, of 64 MiB and more of a TPU's VMEM


class Sizes(NamedTuple):
    """Of the blocks of a kernel."""

    block_q: int
    block_k: int
    on_chip: bool  # whether a row of scores is kept
    is_streamed: bool  # whether keys and values stay in main memory


def sizes(
    platform: str, queries: int, keys: int, width: int, value_width: int, dtype: Any
) -> Sizes:
    """Blocks for these sizes, that fit the memory of the chip."""
    import os
    block_k = min(int(os.environ.get("BK",512)), _rounded(keys))
    block_q = min(int(os.environ.get("BQ",256)), _rounded(queries))
    return Sizes(block_q, block_k, bool(int(os.environ.get("ON","1"))), bool(int(os.environ.get("ST","0"))))


def may_be_sparse(regularizer: Regularizer) -> bool:
    """Whether a score far below the others may have no mass: where that is not known, too."""
    if regularizer.is_exponential:
        return False
    if jax.tree.leaves(regularizer):
        return True
    with jax.ensure_compile_time_eval():
        return bool(regularizer.marginal(jnp.zeros(())) > -jnp.inf)


def _rounded(size: int) -> int:
    return max(-(-size // _LANES), 1) * _LANES
