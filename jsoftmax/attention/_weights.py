"""The weights of any block of keys, from the thresholds of its rows, and how they move."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.attention._arguments import Fixed, Moving, Rule
from jsoftmax.attention._rows import hardened, where_hard
from jsoftmax.attention._solve import Found
from jsoftmax.core._curves import by_curve
from jsoftmax.core._regularizers import Tsallis
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import effective_tangent


class Weights:
    """p of any block from the threshold of its rows, and how it moves."""

    def __init__(self, rule: Rule, moving: Moving, fixed: Fixed, found: Found):
        self.rule, self.alpha, self.fixed, self.found = rule, moving.alpha, fixed, found
        # The limit at an infinite score does not move. Where α is ∞, τ moves and p does not.
        self.movable = jnp.where(found.tau < jnp.inf, 1, 0).astype(found.tau.dtype)
        self.bending = where_hard(rule, fixed, jnp.zeros_like(self.movable), self.movable)

    def of(self, z: Array) -> Array:
        z = hardened(self.rule, self.fixed, z, self.found.floor)
        return _mass(self.rule.family, z, self.alpha, self.found, self.bending)

    def slope(self, p: Array) -> Array:
        """s, whose mean of the scores' changes is that of τ."""
        s = self.rule.family.slope(p, self.alpha)
        return where_hard(self.rule, self.fixed, p, s) * self.movable

    def change(self, z: Array, d_z: Array | None, d_alpha: Array | None) -> tuple[Array, Array]:
        """p and s d, the change of p but for that of the threshold."""
        p = self.of(z)
        d = effective_tangent(p, d_z, self.alpha, d_alpha, self.rule.family)
        return p, jnp.zeros_like(p) if d is None else self.slope(p) * d

    def without_hard(self, x: Array) -> Array:
        """`x`, but 0 where α is ∞."""
        return where_hard(self.rule, self.fixed, jnp.zeros_like(x), x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _mass(family: Tsallis, z: Array, alpha: Array | None, found: Found, bending: Array) -> Array:
    """p of scores whose threshold is known."""
    if family.alpha == 1:
        return jnp.exp(difference(z, found.anchor) + found.level)
    return by_curve(
        family.exponent(alpha),
        jnp.any,
        lambda curve: curve.masses(z, found.anchor, curve.at_level(found.level)),
    )


@partial(_mass.defjvp, symbolic_zeros=True)
def _mass_jvp(family, primals, tangents):
    (z, alpha, found, bending), (d_z, d_alpha, d_found, _) = primals, tangents
    p = _mass(family, z, alpha, found, bending)
    d = effective_tangent(p, d_z, alpha, d_alpha, family)
    if not isinstance(d_found.tau, SymbolicZero):
        d = -d_found.tau if d is None else d - d_found.tau
    return p, jnp.zeros_like(p) if d is None else family.slope(p, alpha) * bending * d
