"""The weights of any block of keys, from the thresholds of its rows, and how they move."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_problem import Fixed, Moving, Rule
from jsoftmax.attention._score_rows import hardened, where_hard
from jsoftmax.attention._solve import Found
from jsoftmax.core._known import Threshold, masses_at
from jsoftmax.core._simplex import effective_tangent


class Weights:
    """p of any block from the threshold of its rows, and how it moves."""

    def __init__(self, rule: Rule, moving: Moving, fixed: Fixed, found: Found):
        self.rule, self.fixed, self.found = rule, fixed, found
        self.regularizer = rule.regularizer(moving.numbers)
        # The limit at an infinite score does not move. Where α is ∞, τ moves and p does not.
        self.movable = jnp.where(found.tau < jnp.inf, 1, 0).astype(found.tau.dtype)
        self.bending = where_hard(rule, fixed, jnp.zeros_like(self.movable), self.movable)

    def of(self, z: Array) -> Array:
        z = hardened(self.rule, self.fixed, z, self.found.floor)
        row = Threshold(self.found.tau, self.found.anchor, self.found.level)
        return masses_at(self.regularizer, z, row, self.bending)

    def slope(self, p: Array) -> Array:
        """s, whose mean of the scores' changes is that of τ."""
        s = self.regularizer.slope(p)
        return where_hard(self.rule, self.fixed, p, s) * self.movable

    def change(self, z: Array, d_z: Array | None, d_numbers: tuple | None) -> tuple[Array, Array]:
        """p and s d, the change of p but for that of the threshold."""
        p = self.of(z)
        moved = None if d_numbers is None else self.rule.regularizer(d_numbers)
        d = effective_tangent(p, d_z, self.regularizer, moved)
        return p, jnp.zeros_like(p) if d is None else self.slope(p) * d

    def without_hard(self, x: Array) -> Array:
        """`x`, but 0 where α is ∞."""
        return where_hard(self.rule, self.fixed, jnp.zeros_like(x), x)
