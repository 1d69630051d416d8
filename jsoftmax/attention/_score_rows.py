"""Scores of a block of queries, as rows for the threshold solver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._attention_scores import scores
from jsoftmax.attention._folds import fold, key_blocks, like_rows, over_parts, row_sum, summed
from jsoftmax.attention._key_blocks import KEYS, split
from jsoftmax.core._arg_max import floor_of, hardened, higher, highest, of_whole_rows
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._filled import filled
from jsoftmax.core._named_trees import Trees, overlaid
from jsoftmax.core._scores import Dense


def rows_of(rule: Rule, moving: Moving, fixed: Fixed) -> InMemory | Streamed:
    """Return a block's rows of scores: an array where one block has all the keys."""
    if key_blocks(rule, fixed) == 1:
        z = scores(moving, fixed, rule)
        return InMemory(z, rule.classes, rule=rule, trees=(moving, fixed))
    return Streamed(rule, (moving, fixed), rule.classes)


@dataclasses.dataclass(frozen=True)
class InMemory(Dense):
    """Rows with all their keys in one block."""

    _: dataclasses.KW_ONLY
    rule: Rule
    trees: Trees

    def every(self, sums: Callable) -> Any:
        """Return the sums of sums(z, moving, fixed), over the parts of a split row too."""
        return over_parts(sums(self.values, *self.trees), self.classes.axis_name)

    def highest(self) -> tuple[Array, Array]:
        """Return the largest score, and the next below it."""
        return of_whole_rows(highest(self.values), self.classes)

    def hardened(self, floor: Array) -> InMemory:
        """Return only the largest scores, where α is ∞."""
        values = hardened(self.rule.hard_rows(self.trees[1].hard), self.values, floor)
        return dataclasses.replace(self, values=values)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Rows with scores that are recomputed block by block for every reduction."""

    rule: Rule
    trees: Trees
    classes: ClassAxis
    floor: Array | None = None

    joins_sums = False
    rounding = 0.0

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        def step(top, trees):
            return jnp.maximum(top, jnp.max(fn(self._scores(trees)), axis=-1, keepdims=True))

        start = like_rows(*self.trees, value=-jnp.inf)
        top = fold(self.rule, step, start, self.trees)
        return self.classes.max(top)

    def sum(self, fn: Callable[[Array], Array]) -> Array:
        return self.every(lambda z, *_: row_sum(fn(z)))

    def every(self, sums: Callable) -> Any:
        """Return the sums of sums(z, moving, fixed), over the parts of a split row too."""

        def of_block(trees):
            moving, fixed = trees
            return sums(self._scores(trees), moving, fixed)

        return summed(self.rule, of_block, self.trees)

    def anywhere(self, flags: Array) -> Array:
        return self.classes.anywhere(flags)

    def level_of(self, top: Array) -> None:
        return None

    def peaks(self) -> Dense | None:
        size = self.rule.block_k
        if size % 8 or size < 64:
            return None
        parts, rest = split(self.trees, KEYS, size)

        def maxima(part):
            z = self._scores(overlaid(part, rest))
            return jnp.max(z.reshape(*z.shape[:-1], 8, -1), axis=-2)

        peaks = jnp.moveaxis(jax.lax.map(maxima, parts), 0, -2)
        return Dense(peaks.reshape(*peaks.shape[:-2], -1), self.classes)

    def highest(self) -> tuple[Array, Array]:
        """Return the largest score, and the next below it."""
        none = like_rows(*self.trees, value=-jnp.inf)

        def step(pair, trees):
            return higher(pair, highest(self._scores(trees)))

        return of_whole_rows(fold(self.rule, step, (none, none), self.trees), self.classes)

    def hardened(self, floor: Array) -> Streamed:
        """Return only the largest scores, where α is ∞."""
        return dataclasses.replace(self, floor=floor)

    def _scores(self, trees):
        moving, fixed = trees
        z = scores(moving, fixed, self.rule)
        hard = self.rule.hard_rows(fixed.hard)
        return z if self.floor is None else hardened(hard, z, self.floor)


def ground(row: InMemory | Streamed, sink: Array | None) -> tuple[Array, Array]:
    """Return the largest score, and a floor that it alone reaches."""
    pair = row.highest()
    if sink is not None:
        none = jnp.full_like(pair[0], -jnp.inf)
        pair = higher(pair, (sink + filled(none, 0), none))
    return pair[0], floor_of(pair)
