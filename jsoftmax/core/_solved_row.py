"""Compute p of any block from the few numbers that are kept of a solved row.

With r = p/q for a prior q (1 where there is none), s = q slope(r) and d of `effective_tangent`,

    p = q link(z − τ),    ṗ = s (d − τ̇),    τ̇ = Σ s d/Σ s,

so no block needs another one: each is recomputed from its scores and its rows, and derivatives are
sums over blocks.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._arg_max import Hard, hardened, where_hard
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._relative_mass import relative_to, times_prior
from jsoftmax.core._scores import difference
from jsoftmax.core._tangents import effective_tangent
from jsoftmax.core.curves import bounded_marginals, masses_and_slopes, slope_at


class SolvedRow(NamedTuple):
    """The numbers kept of a solved row; the last three are None where they are not needed."""

    tau: Array  # z − τ = ω′(p/q); the log-partition at α = 1
    floor: Array  # the largest score; at α = ∞ a bound that only the largest scores reach
    anchor: Array  # the reference score: others enter as z − anchor
    level: Array  # the log-mass of the anchor
    total: Array | None = None  # Σ s
    mean: Array | None = None  # Σ s v/Σ s, of values v that are mixed
    rest: Array | None = None  # the mass of all classes but the label, or the one with almost all

    def kept(self) -> SolvedRow:
        """Return the row with the least finite number in place of the −∞ of a fully masked row."""
        names = ("tau", "floor", "anchor")
        return self._replace(**{name: finite(getattr(self, name)) for name in names})


def finite(x: Array) -> Array:
    """Return `x` with the least finite number in place of −∞."""
    return jnp.maximum(x, float(jnp.finfo(x.dtype).min))


class Masses:
    """Masses p of any block of solved rows, and their derivatives.

    `hard` marks the rows where the map is arg max. There p is constant, but τ, the largest score,
    has the mean derivative of the largest scores.
    """

    def __init__(
        self,
        regularizer: Regularizer,
        row: SolvedRow,
        hard: Hard = False,
        prior: Array | None = None,
    ):
        self.regularizer, self.row, self.hard, self.prior = regularizer, row, hard, prior
        # The limit at an infinite score is constant.
        self.movable = jnp.where(row.tau < jnp.inf, 1, 0).astype(row.tau.dtype)
        self.bending = self.unless_hard(self.movable)

    def of(self, z: Array, apart: Array | None = None) -> Array:
        """Return p, 0 for classes marked in `apart`."""
        z = hardened(self.hard, z, self.row.floor)
        p, _ = _links(self.regularizer, z, self.row, self.bending, apart)
        return times_prior(self.prior, p)

    def marginals(self, z: Array) -> Array:
        """Return z − τ, which is ω′(p/q) on the support."""
        return _marginals(self.regularizer, z, self.row)

    def with_weights(self, z: Array) -> tuple[Array, Array]:
        """Return p and `weights` together, where they are not differentiated."""
        if self.regularizer.is_exponential or self.prior is not None:
            p = self.of(z)
            return p, self.weights(z, p)
        row, z = self.row, hardened(self.hard, z, self.row.floor)

        def solved(curve):
            place = curve.at_level(row.level)
            return masses_and_slopes(curve, self.regularizer, z, row.anchor, place)

        p, s = self.regularizer.on_curve(jnp.any, solved)
        return p, where_hard(self.hard, p, s) * self.movable

    def slopes(self, z: Array, p: Array) -> Array:
        """Return s, 0 where p is a limit with derivative 0."""
        return self._slopes(z, p) * self.bending

    def weights(self, z: Array, p: Array) -> Array:
        """Return the weights that τ̇ is a mean by: s, or p where the map is arg max."""
        return where_hard(self.hard, p, self._slopes(z, p)) * self.movable

    def change(
        self,
        z: Array,
        p: Array,
        d_z: Array | None,
        d_regularizer: Any,
        d_prior: Array | None = None,
    ) -> Array | None:
        """Return d in ṗ = s (d − τ̇); None where everything is constant."""
        s = None if d_prior is None else self.slopes(z, p)
        r = relative_to(self.prior, p)
        return effective_tangent(r, d_z, self.regularizer, d_regularizer, s, d_prior)

    def unless_hard(self, x: Array) -> Array:
        """Return `x`, or 0 where the map is arg max."""
        return where_hard(self.hard, jnp.zeros_like(x), x)

    def _slopes(self, z, p):
        t = None
        if self.regularizer.bound < jnp.inf:
            z = hardened(self.hard, z, self.row.floor)
            _, t = _links(self.regularizer, z, self.row, self.bending, None)
        s = slope_at(relative_to(self.prior, p), t, self.regularizer)
        return times_prior(self.prior, s)


def below_bound(level: Array, regularizer: Regularizer) -> Array:
    """Return the log-mass of an anchor, kept below 0 where ω′(1) is infinite: τ stays finite."""
    if regularizer.bound == jnp.inf:
        return level
    return jnp.minimum(level, -float(jnp.finfo(level.dtype).tiny))


def mean_of(moved: Array, total: Array) -> Array:
    """Return Σ s x/Σ s from both sums; 0 where there is no weight."""
    return moved / jnp.where(total > 0, total, 1)


@jax.custom_jvp
def _marginals(regularizer: Regularizer, z: Array, row: SolvedRow) -> Array:
    """Return z − τ, measured from the anchor, where it may be small."""
    return difference(z, row.anchor) + regularizer.log_marginal(row.level)


@partial(_marginals.defjvp, symbolic_zeros=True)
def _marginals_jvp(primals, tangents):
    _, d_z, d_row = tangents
    t = _marginals(*primals)
    d = jnp.zeros_like(t)
    if not isinstance(d_z, SymbolicZero):
        d = d + d_z
    return t, d if isinstance(d_row.tau, SymbolicZero) else d - d_row.tau


@jax.custom_jvp
def _links(
    regularizer: Regularizer, z: Array, row: SolvedRow, movable: Array, apart: Array | None
) -> tuple[Array, Array | None]:
    """Return link(z − τ), 0 for classes marked in `apart`, and z − τ for a bounded link.

    The derivative of the first is s (d − τ̇), or 0 where `movable` is 0.
    """
    if regularizer.is_exponential:
        # The same expression as in the sum over the row, so that the compiler computes it once.
        e = jnp.exp(difference(z, row.anchor))
        return (e if apart is None else jnp.where(apart, 0, e)) * jnp.exp(row.level), None

    def solved(curve):
        at = z, row.anchor, curve.at_level(row.level)
        return curve.masses(*at), bounded_marginals(curve, regularizer, *at)

    masses, t = regularizer.on_curve(jnp.any, solved)
    return masses if apart is None else jnp.where(apart, 0, masses), t


@partial(_links.defjvp, symbolic_zeros=True)
def _links_jvp(primals, tangents):
    # Only the tangent of τ counts: anchor and level are another way to write τ.
    regularizer, z, row, movable, apart = primals
    d_regularizer, d_z, d_row, *_ = tangents
    p, t = _links(regularizer, z, row, movable, apart)
    d, d_t = (effective_tangent(p, d_z, regularizer, x) for x in (d_regularizer, None))
    if not isinstance(d_row.tau, SymbolicZero):
        d, d_t = (-d_row.tau if x is None else x - d_row.tau for x in (d, d_t))
    d_p = jnp.zeros_like(p) if d is None else slope_at(p, t, regularizer) * movable * d
    if t is None:
        return (p, t), (d_p, None)
    return (p, t), (d_p, jnp.zeros_like(t) if d_t is None else movable * d_t)
