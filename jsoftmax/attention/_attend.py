"""Compute attention block by block, and skip the blocks that no query sees."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_arguments import Arguments, Given, prepared
from jsoftmax.attention._attention_problem import Rule, Stripe
from jsoftmax.attention._key_blocks import KEYS, QUERIES, padded, resized, windows
from jsoftmax.attention._mixture import mixture
from jsoftmax.attention._products import may_be_split
from jsoftmax.core import _checks as checks
from jsoftmax.core._named_trees import Trees

_GROUPS = 8  # groups of queries, where later ones see more keys
_IN_MEMORY = 2**17  # keys: rows up to this length keep their scores in memory


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Block sizes: of queries, of keys, and on a CPU of scores; None for no limit."""

    block_q: Any
    block_k: Any
    scores: int | None
    are_known: bool = True  # else they may be symbols, and such axes are not cut


def sizes_for(function: str, given: Given, rule: Rule, block_q: Any, block_k: Any) -> Sizes:
    """Return the block sizes that are given, and defaults for the others.

    On a CPU (measured on two cores) a block should fit the caches and still be large enough for a
    matrix product, so batch entries and heads come one after another. On other platforms, and on a
    mesh, all of them are computed together: that keeps a large device busy, and a loop over an axis
    that is split over devices would gather it. Softmax reads its keys once. Other mappings read
    them again at every iteration for τ, so their scores are kept in memory, for fewer queries at
    once. A decoding step has so few scores that nothing is split into blocks, and neither is an
    array of symbolic size, for `jax.export`.

    Raises:
        TypeError: for a size that is not an integer.
        ValueError: for a size below 1.
    """
    for name, size in (("block_q", block_q), ("block_k", block_k)):
        if size is not None:
            checks.whole_number(function, name, size)
    groups, queries, keys = given.groups, given.query.shape[-3], given.key.shape[-3]
    if rule.are_few or not given.sizes_are_known:
        return Sizes(queries, keys, None, given.sizes_are_known)
    in_memory = not rule.is_softmax and keys <= _IN_MEMORY
    is_one_block = queries <= 512 and keys <= 1024
    scores = 2**20 if in_memory or is_one_block else 2**19
    if block_k is None:
        block_k = keys if in_memory else 1024
    if block_q is None:
        most = scores // (groups * min(block_k, keys))
        block_q = max(min(512, most), -(-128 // groups))
        if in_memory:
            # In two blocks at least, that is in a loop: outside of one XLA on CPU (0.10.2) gets
            # Hessian-vector products of rows of 256 and more wrong where it fuses sums.
            block_q = min(block_q, max(1, queries // 2))
    if may_be_split(given.query, given.key):
        scores = None
    return Sizes(int(block_q), int(block_k), scores)


# Compiled once for a shape also outside of `jit`; so is its derivative, which inlining would undo.
@partial(jax.jit, static_argnums=(1, 2, 3))
def computed(
    given: Given, rule: Rule, sizes: Sizes, return_residual: bool
) -> Array | tuple[Array, Array]:
    """Return the mixtures, and τ on request, with the dtype and axes of the results."""
    arguments = prepared(given, rule)
    out, tau = attend(arguments, sizes)
    out = arguments.output(out)
    return (out, arguments.output(tau)[..., 0]) if return_residual else out


def attend(arguments: Arguments, sizes: Sizes) -> tuple[Array, Array]:
    """Return Σ p v and τ: (*batch, head, group, query, width) and (*batch, head, group, query).

    Keys outside the window are skipped if the positions of queries and keys are static.
    """
    trees, rule = (arguments.moving, arguments.fixed), arguments.rule
    queries, keys = trees[1].row_places.shape[-2], trees[1].column_places.shape[-1]
    before, after = rule.window
    if rule.are_few or not sizes.are_known or rule.is_part or (before is None and after is None):
        return _attended(rule, trees, sizes)
    if before is not None and after is not None and min(before, after) >= 0:
        length = sizes.block_q * max(1, -(-max(before, after) // sizes.block_q))
        if 2 * (before + length + after) <= min(queries, keys):
            return _in_windows(rule, trees, sizes, length, before, after)
    return _attended(rule, trees, sizes, rule.window)


def _in_windows(rule, trees, sizes, length, before, after):
    """Compute windows of equal size, all in one loop."""
    queries = trees[0].q.shape[-2]
    count = -(-queries // length)
    trees = resized(_with_columns(trees), QUERIES, count * length)
    moving, fixed = padded(resized(trees, KEYS, count * length + after), KEYS, before, length)
    places = jnp.arange(fixed.column_places.shape[-1], dtype=jnp.int32) - before
    places = places.reshape(fixed.column_places.shape)
    trees = moving, fixed._replace(column_places=places)
    results = _attended(rule, windows(trees, length, before, after), sizes)

    def merged(x):  # (window, ..., query, width) → (..., window × query, width)
        x = jnp.moveaxis(x, 0, -3)
        return x.reshape(*x.shape[:-3], count * length, x.shape[-1])[..., :queries, :]

    return jax.tree.map(merged, results)


def _attended(
    rule: Rule, trees: Trees, sizes: Sizes, window: tuple[int | None, int | None] = (None, None)
) -> tuple[Array, Array]:
    """Compute all queries of `trees`, with all keys except those statically outside the window."""
    if not sizes.are_known:
        rule = dataclasses.replace(rule, block_q=sizes.block_q, block_k=sizes.block_k)
        out, found = mixture(rule, *trees)
        return out, found.tau
    queries, keys = trees[1].row_places.shape[-2], trees[1].column_places.shape[-1]
    block_q, block_k = _even(queries, sizes.block_q), _even(keys, sizes.block_k)
    hides_nothing = window == (None, None)
    stripes = () if hides_nothing else _stripes(queries, keys, block_q, sizes.block_k, *window)
    padding = max([keys + -keys % block_k] + [stripe.keys[1] for stripe in stripes]) - keys
    if padding:
        trees = padded(_with_columns(trees), KEYS, 0, padding)
    trees = padded(trees, QUERIES, 0, -queries % block_q)
    rule = dataclasses.replace(
        rule, block_q=block_q, block_k=block_k, scores=sizes.scores, stripes=stripes
    )
    out, found = mixture(rule, *trees)
    q = trees[0].q
    chex.assert_equal_shape_prefix([q, out, found.tau], q.ndim - 1)  # a mixture and τ a query
    return out[..., :queries, :], found.tau[..., :queries, :]


def _stripes(queries, keys, block_q, block_k, before, after) -> tuple[Stripe, ...]:
    """Group the queries, each group with its first to its last visible key."""
    step = block_q * -(-queries // (block_q * _GROUPS))
    stripes = []
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        low = 0 if before is None else min(max(0, start - before), keys - 1)
        high = keys if after is None else max(min(keys, stop + after), low + 1)
        block = _even(high - low, block_k)
        high = low + -(-(high - low) // block) * block
        stop += (start - stop) % block_q
        stripes.append(Stripe((start, stop), (low, high), block))
    return tuple(stripes)


def _even(size: int, block: int) -> int:
    """Return the block size with the same number of blocks and the least padding in the last."""
    even = -(-size // -(-size // block)) if size else 1
    return min(block, -(-even // 8) * 8, max(size, 1))


def _with_columns(trees: Trees) -> Trees:
    """Add a mask of keys, so that padding is not seen."""
    moving, fixed = trees
    if fixed.columns is None:
        fixed = fixed._replace(columns=fixed.column_places == fixed.column_places)
    return moving, fixed
