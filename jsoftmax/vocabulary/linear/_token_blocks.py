"""Loops over blocks of tokens and blocks of classes.

In the forward pass a block of tokens has whole rows of scores in memory, so that any solver can use
them. In the backward pass, with known thresholds, a block of classes serves many tokens: the
gradient of its part of the kernel is then written once, instead of read and written for each block
of tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._filled import filled
from jsoftmax.core._named_trees import Changes, Trees, by_name, overlaid
from jsoftmax.vocabulary._stacked_tokens import block_count, merged_tokens, stacked_tokens
from jsoftmax.vocabulary.linear._block_sizes import even_size, fits, tokens_backward
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule, is_one
from jsoftmax.vocabulary.linear._linear_scores import scores

# Arrays with tokens along the first axis, and arrays with classes along the last.
_TOKENS = (
    "features", "temperature", "log_prior", "prior", "parameters", "mask", "present", "rows", "ids",
    "shares", "room", "hard", "floor", "tau", "anchor", "level", "rest", "weight", "loss",
    "log_partition", "entropy", "valid", "counted", "tempered", "weights", "mean", "share", "own",
    "words", "settings", "margin", "angular_margin", "token_labels", "positive_share",
)  # fmt: skip
_TOGETHER = 16  # blocks that are summed one after another
_CLASSES = (
    "bias", "log_prior", "prior", "mask", "present", "numbers", "class_weights", "per_length",
    "class_labels",
)  # fmt: skip


def by_tokens(
    function: Callable[[Trees], Any], block: Any, trees: Trees, many: bool = False
) -> Any:
    """Apply function(trees) to blocks of tokens, one after another; concatenate the results.

    Each of n blocks has every n-th token, so that tokens split over devices by the compiler need
    not be moved. The transpose sums shared arrays over blocks; with `many`, precisely.
    """
    tokens = trees[0].features.shape[0]
    if fits(tokens, block):
        return function(trees)
    size = block_of_blocks(tokens, block) if many else block
    parts, rest = split_tokens(trees, size)

    def of_part(part):
        return by_tokens(function, block, overlaid(part, rest), many)

    if size != block:
        # The transpose recomputes the blocks of a part, instead of keeping them.
        of_part = jax.checkpoint(of_part, prevent_cse=False)
    results = jax.lax.map(of_part, parts)
    return jax.tree.map(lambda x: merged_tokens(x, tokens), results)


def block_of_blocks(tokens: int, block: int) -> int:
    """Return a number of tokens per part such that few parts are summed one after another.

    It is `block` if there are few blocks. Otherwise a part is to be split again.
    """
    if block_count(tokens, block) <= _TOGETHER:
        return block
    return -(-tokens // _TOGETHER)


def split_tokens(trees: Trees, block: Any) -> tuple[Trees, Trees]:
    """Split per-token arrays into blocks along a new first axis; return them and the rest."""
    return (
        by_name(trees, lambda n, x: stacked_tokens(x, block) if _is_per_token(n, x) else None),
        by_name(trees, lambda n, x: None if _is_per_token(n, x) else x),
    )


Table = tuple[Moving, Fixed]


def over_classes(
    rules: tuple[Rule, ...],
    sums: Callable[[tuple[Table, ...], tuple, tuple[Changes, ...]], Any],
    tables: tuple[Table, ...],
    changes: tuple[Changes, ...],
    known: tuple,
) -> Any:
    """Sum sums(tables, known, changes) over all classes, for groups of tokens.

    Each rule has a table with the same tokens and classes, and its tangents in `changes`. `known`
    are trees of per-row numbers.
    """
    rule, n = rules[0], len(rules)

    def of_group(trees):
        moving, fixed, changes, known = (
            trees[:n], trees[n : 2 * n], trees[2 * n : 3 * n], trees[3 * n :]
        )  # fmt: skip
        return sum_by_classes(rules, sums, tuple(zip(moving, fixed, strict=True)), known, changes)

    classes = tables[0][1].numbers.shape[-1]
    block = tokens_backward(classes, rule.block_tokens, rule.block_classes)
    if not fits(tables[0][0].features.shape[0], block):
        of_group = jax.checkpoint(of_group, prevent_cse=False)
    moving, fixed = zip(*tables, strict=True)
    return by_tokens(of_group, block, (*moving, *fixed, *changes, *known), rule.many_tokens)


def sum_by_classes(
    rules: tuple[Rule, ...],
    sums: Callable[[tuple[Table, ...], tuple, tuple[Changes, ...]], Any],
    tables: tuple[Table, ...],
    known: tuple,
    changes: tuple[Changes, ...],
) -> Any:
    """Sum sums(...), with one number per token each, over all classes in blocks."""
    rule, classes = rules[0], tables[0][1].numbers.shape[-1]
    size = even_size(classes, rule.block_classes)
    count, left = divmod(classes, size)
    if count == 1 and not left:
        total = sums(tables, known, changes)
    else:

        def cut(tables, start, size):
            pairs = zip(rules, tables, strict=True)
            return tuple(classes_at(rule, table, start, size) for rule, table in pairs)

        def at(start, size, tables, known, changes):
            return sums(cut(tables, start, size), known, changes)

        again = jax.checkpoint(at, prevent_cse=False, static_argnums=(1,))
        moves = [_cut_changes(rule, x, count, size) for rule, x in zip(rules, changes, strict=True)]
        blocks, shared, tail = zip(*moves, strict=True)

        def step(total, part):
            start, block = part
            block = overlaid(block, shared)
            return jax.tree.map(jnp.add, total, again(start, size, tables, known, block)), None

        pairs = zip(rules, cut(tables, 0, 1), strict=True)
        like = functools.reduce(jnp.add, (scores(*table, rule=rule) for rule, table in pairs))
        first = tuple(_first(rule, x) for rule, x in zip(rules, changes, strict=True))
        outline = jax.eval_shape(lambda: at(0, 1, tables, known, first))
        zeros = jax.tree.map(lambda _: filled(like, 0), outline)
        starts = jnp.arange(count, dtype=jnp.int32) * size
        total, _ = jax.lax.scan(step, zeros, (starts, blocks))
        if left:
            rest = again(count * size, left, tables, known, tail)
            total = jax.tree.map(jnp.add, total, rest)
    return total if rule.axis_name is None else jax.lax.psum(total, rule.axis_name)


def classes_at(rule: Rule, trees: Trees, start: int | Array, size: Any) -> Trees:
    """Slice the classes from `start` on."""

    def cut(name, x):
        axis = _class_axis(rule, name, x)
        return x if axis is None else jax.lax.dynamic_slice_in_dim(x, start, size, axis=axis)

    return by_name(trees, cut)


def _cut_changes(rule, changes, count, size):
    """Split tangents: of the class table in blocks along a new first axis, shared, and of the tail.

    The table itself is sliced in the loop. Its tangents are not, since the transpose of a slice
    would add to the whole array in every iteration.
    """

    def block(name, x):
        if (axis := _class_axis(rule, name, x)) is None:
            return None
        body = jax.lax.slice_in_dim(x, 0, count * size, axis=axis)
        shape = (*x.shape[:axis], count, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(body.reshape(shape), axis, 0)

    def last(name, x):
        if (axis := _class_axis(rule, name, x)) is None:
            return x
        return jax.lax.slice_in_dim(x, count * size, x.shape[axis], axis=axis)

    (blocks,) = by_name((changes,), block)
    (shared,) = by_name((changes,), lambda n, x: x if _class_axis(rule, n, x) is None else None)
    (tail,) = by_name((changes,), last)
    return blocks, shared, tail


def _first(rule, changes):
    """Slice the tangents of one class."""
    return classes_at(rule, (changes,), 0, 1)[0]


def _class_axis(rule, name, x):
    if name == "kernel":
        return rule.kernel_axis
    return x.ndim - 1 if name in _CLASSES and not is_one(x.shape[-1]) else None


def _is_per_token(name: str, x: Array) -> bool:
    return name in _TOKENS and not is_one(x.shape[0])
