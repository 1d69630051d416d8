"""Top-k over bands, one band after another, for a block of tokens at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.vocabulary._topk import TopK
from jsoftmax.vocabulary.bands._bands import Banded

_SCORES = 2**21  # in memory at once


def read_k(function: str, k: Any, classes: int) -> int:
    """Validate k and return it."""
    return checks.whole_number(function, "k", k, most=classes)


def top_of(log_p: Array, start: int, k: int) -> TopK:
    """Return the best k of one band, −∞ where it has fewer classes."""
    missing = k - log_p.shape[1]
    if missing > 0:
        log_p = jnp.pad(log_p, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    values, places = jax.lax.top_k(log_p, k)
    return TopK(values, (places + start).astype(jnp.int32))


def merged(a: TopK, b: TopK, k: int) -> TopK:
    """Return the best k of both; ties go to `a`."""
    values, places = jax.lax.top_k(jnp.concatenate([a.values, b.values], axis=1), k)
    classes = jnp.concatenate([a.classes, b.classes], axis=1)
    return TopK(values, jnp.take_along_axis(classes, places, axis=1))


def by_blocks(function: Callable[[Array], TopK], banded: Banded) -> TopK:
    """Apply function(features) to blocks of tokens one after another."""
    h = banded.features
    tokens, block = h.shape[0], max(16, _SCORES // banded.starts[-1])
    if not is_known(tokens):
        block = min(block, 64)  # fewer tokens fill a whole block too
    count = -(-tokens // block)
    if is_known(tokens) and count <= 1:
        found = function(h)
    else:
        block = -(-tokens // count) if is_known(tokens) else block
        blocks = jnp.pad(h, ((0, block * count - tokens), (0, 0)), mode="edge")
        blocks = blocks.reshape(count, block, h.shape[1])
        found = jax.lax.map(jax.checkpoint(function, prevent_cse=False), blocks)
        found = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[:tokens], found)
    return TopK(*(banded.shaped(x) for x in found))
