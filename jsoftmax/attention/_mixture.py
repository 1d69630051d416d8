"""Σ p v for a block of queries, over their keys block by block, and its one derivative.

With s = slope(p), d = ż − (∂ω′/∂α)(p) α̇ and the escort mean o = Σ s v/Σ s,

    τ̇ = Σ s d/Σ s,    (Σ p v)˙ = Σ s d v − o Σ s d + Σ p v̇,

which needs no weight of another block: each is computed again from its scores and τ. The sums are
linear in what moves, and their transpose is the reverse mode, block by block too. For softmax s is
p and o the mixture itself: the backward pass of FlashAttention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.attention._arguments import Changes, Fixed, Moving, Rule
from jsoftmax.attention._blocks import KEYS, Trees, joined, looped, split, taken
from jsoftmax.attention._dropout import kept
from jsoftmax.attention._scores import scores
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._curves import by_curve, filled
from jsoftmax.core._regularizers import Tsallis, q_log_from_log
from jsoftmax.core._scores import Dense, Scores, difference
from jsoftmax.core._simplex import effective_tangent
from jsoftmax.core._threshold import solve


class Found(NamedTuple):
    """What is known of a row once it is solved: from this its weights are computed again."""

    tau: Array
    top: Array  # the largest score
    anchor: Array  # the score from which the others are measured,
    level: Array  # and its log-mass
    total: Array  # Σ s
    mean: Array  # Σ s v/Σ s


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def mixture(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Array, Found]:
    """Σ p v of every query, and what is known of its row. Of that, only τ has a derivative."""
    solve_block = _online if rule.is_softmax else _solved
    return looped(lambda trees: solve_block(rule, *trees), rule, (moving, fixed))


def weights(rule: Rule, moving: Moving, fixed: Fixed) -> Array:
    """p of every query and key, as one array."""
    _, found = mixture(rule, moving, fixed)
    return _Weights(rule, moving, fixed, found).of(scores(moving, fixed, rule))


@partial(mixture.defjvp, symbolic_zeros=True)
def _mixture_jvp(rule, primals, tangents):
    moving, fixed = primals
    changes = Changes(*(None if _is_zero(d) else d for d in tangents[0]))
    out, found = mixture(rule, moving, fixed)
    if rule.is_softmax:
        known = found._replace(mean=out)
    else:
        known = _with_escort(rule, moving, fixed, found)
    trees = (moving, fixed, known, changes)
    d_out, d_tau = looped(_recomputed(lambda trees: _block_jvp(rule, *trees)), rule, trees)
    still = jax.tree.map(jnp.zeros_like, found)
    return (out, found), (d_out, still._replace(tau=d_tau))


def _block_jvp(rule, moving, fixed, found, changes):
    """The tangents of Σ p v and of τ."""

    def sums(trees):
        moving, fixed, changes = trees
        row = _Weights(rule, moving, fixed, found)
        z, d_z = _along(lambda m: scores(m, fixed, rule), moving, changes)
        p, moved = row.change(z, d_z, changes.alpha)
        mixed = _mixed(moved, moving.v, fixed, rule)
        if changes.v is not None:
            mixed = mixed + _mixed(p, changes.v, fixed, rule)
        return _row_sum(moved), mixed

    total, mixed = _summed(rule, sums, (moving, fixed, changes))
    if moving.sinks is not None:
        sinks = moving.sinks + filled(found.tau, 0)
        row = _Weights(rule, moving, fixed, found)
        total = total + row.change(sinks, changes.sinks, changes.alpha)[1]
    return mixed - found.mean * total, total / jnp.where(found.total > 0, found.total, 1)


def _online(rule, moving, fixed):
    """Softmax in one pass: whenever the largest score grows, what was summed shrinks."""

    def step(state, trees):
        top, total, mixed = state
        z = scores(*trees, rule=rule)
        higher = jnp.maximum(top, jnp.max(z, axis=-1, keepdims=True))
        weights = jnp.exp(difference(z, higher))
        shrunk = jnp.exp(difference(top, higher))
        return (
            higher,
            total * shrunk + _row_sum(weights),
            mixed * shrunk + _mixed(weights, trees[0].v, trees[1], rule),
        )

    start = _row(rule, moving, fixed)
    nothing = jnp.broadcast_to(filled(start, 0), (*start.shape[:-1], moving.v.shape[-1]))
    state = (filled(start, -jnp.inf), filled(start, 0), nothing)
    top, total, mixed = _fold(rule, step, state, (moving, fixed))
    if rule.axis_name is not None:
        higher = rule.classes.max(top)
        shrunk = jnp.exp(difference(top, higher))
        total, mixed = jax.lax.psum((total * shrunk, mixed * shrunk), rule.axis_name)
        top = higher
    if moving.sinks is not None:
        higher = jnp.maximum(top, moving.sinks)
        shrunk = jnp.exp(difference(top, higher))
        total = total * shrunk + jnp.exp(difference(moving.sinks + 0 * total, higher))
        mixed, top = mixed * shrunk, higher
    some = jnp.where(total == 0, 1, total)
    out, log_total = mixed / some, jnp.log(some)
    return out, Found(top + log_total, top, top, -log_total, filled(top, 1), out)


def _solved(rule, moving, fixed):
    """The threshold by the solver of the mappings, then one more pass for the sums."""
    alpha, sink, trees = moving.alpha, moving.sinks, (moving, fixed)
    row: InMemory | Streamed
    if _key_blocks(rule, moving) == 1:
        row = InMemory(scores(moving, fixed, rule), rule.classes, rule, trees)
    else:
        row = Streamed(rule, trees, rule.classes)
    top = None
    if rule.is_hard or fixed.hard is not None:
        top = row.max() if sink is None else WithSink(row, sink).max()
        row = row.hardened(top)
        sink = None if sink is None else _hardened(rule, fixed, sink, top)

    def solved(curve):
        anchor, place = solve(curve, row if sink is None else WithSink(row, sink))

        def sums(z, moving, fixed):
            p = curve.masses(z, anchor, place)
            s = rule.family.slope(p, alpha)
            mixed, mean = (_mixed(x, moving.v, fixed, rule) for x in (p, s))
            return mixed, _row_sum(s), mean

        mixed, total, mean = row.every(sums)
        if sink is not None:
            total = total + rule.family.slope(curve.masses(sink, anchor, place), alpha)
        level = jnp.where(anchor == -jnp.inf, 0, curve.log_masses(anchor, anchor, place))
        return anchor, level, mixed, total, mean / jnp.where(total > 0, total, 1)

    a = rule.family.exponent(alpha)
    anchor, level, out, total, mean = by_curve(a, rule.classes.anywhere, solved)
    top = anchor if top is None else top
    tau = jnp.where(anchor > -jnp.inf, anchor - q_log_from_log(level, a), anchor)
    return out, Found(tau, top, anchor, level, total, mean)


@dataclasses.dataclass(frozen=True)
class InMemory(Dense):
    """The scores of one block of keys, which are all there are here."""

    rule: Rule
    trees: Trees

    def every(self, sums: Callable) -> Any:
        """The sums of sums(z, moving, fixed), over the parts of a split row too."""
        return _over_parts(sums(self.values, *self.trees), self.classes.axis_name)

    def hardened(self, top: Array) -> InMemory:
        """The largest scores alone, where α is ∞."""
        values = _hardened(self.rule, self.trees[1], self.values, top)
        return dataclasses.replace(self, values=values)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Scores that are computed block by block, again for every reduction."""

    rule: Rule
    trees: Trees
    classes: ClassAxis
    top: Array | None = None

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        def step(top, trees):
            return jnp.maximum(top, jnp.max(fn(self._scores(trees)), axis=-1, keepdims=True))

        start = filled(_row(self.rule, *self.trees), -jnp.inf)
        top = _fold(self.rule, step, start, self.trees)
        return self.classes.max(top)

    def sum(self, fn: Callable[[Array], Array]) -> Array:
        return self.every(lambda z, *_: _row_sum(fn(z)))

    def every(self, sums: Callable) -> Any:
        """The sums of sums(z, moving, fixed), over the parts of a split row too."""

        def of_block(trees):
            moving, fixed = trees
            return sums(self._scores(trees), moving, fixed)

        return _summed(self.rule, of_block, self.trees)

    def anywhere(self, flags: Array) -> Array:
        return self.classes.anywhere(flags)

    def peaks(self) -> Dense | None:
        size = self.rule.block_k
        if size % 8 or size < 64:
            return None
        parts, rest = split(self.trees, KEYS, size)

        def maxima(part):
            z = self._scores(joined(part, rest))
            return jnp.max(z.reshape(*z.shape[:-1], 8, -1), axis=-2)

        peaks = jnp.moveaxis(jax.lax.map(maxima, parts), 0, -2)
        return Dense(peaks.reshape(*peaks.shape[:-2], -1), self.classes)

    def hardened(self, top: Array) -> Streamed:
        """The largest scores alone, where α is ∞."""
        return dataclasses.replace(self, top=top)

    def _scores(self, trees):
        moving, fixed = trees
        z = scores(moving, fixed, self.rule)
        return z if self.top is None else _hardened(self.rule, fixed, z, self.top)


@dataclasses.dataclass(frozen=True)
class WithSink:
    """Scores with one more class."""

    others: Scores
    sink: Array

    def max(self, fn: Callable[[Array], Array] = lambda z: z) -> Array:
        top = self.others.max(fn)
        return jnp.maximum(top, fn(self.sink + filled(top, 0)))

    def sum(self, fn: Callable[[Array], Array]) -> Array:
        total = self.others.sum(fn)
        return total + fn(self.sink + filled(total, 0))

    def anywhere(self, flags: Array) -> Array:
        return self.others.anywhere(flags)

    def peaks(self) -> WithSink | None:
        peaks = self.others.peaks()
        return None if peaks is None else WithSink(peaks, self.sink)


class _Weights:
    """p of any block from the threshold of its rows, and how it moves."""

    def __init__(self, rule: Rule, moving: Moving, fixed: Fixed, found: Found):
        self.rule, self.alpha, self.fixed, self.found = rule, moving.alpha, fixed, found
        # A limit does not move: that of infinite scores, nor that of an infinite α.
        self.movable = jnp.where(found.top < jnp.inf, 1, 0).astype(found.tau.dtype)
        if rule.is_hard:
            self.movable = jnp.zeros_like(self.movable)
        elif fixed.hard is not None:
            self.movable = jnp.where(fixed.hard, 0, self.movable)

    def of(self, z: Array) -> Array:
        z = _hardened(self.rule, self.fixed, z, self.found.top)
        return _mass(self.rule.family, z, self.alpha, self.found, self.movable)

    def slope(self, p: Array) -> Array:
        return self.rule.family.slope(p, self.alpha) * self.movable

    def change(self, z: Array, d_z: Array | None, d_alpha: Array | None) -> tuple[Array, Array]:
        """p and s d, the change of p but for that of the threshold."""
        p = self.of(z)
        d = effective_tangent(p, d_z, self.alpha, d_alpha, self.rule.family)
        return p, jnp.zeros_like(p) if d is None else self.slope(p) * d


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _mass(family: Tsallis, z: Array, alpha: Array | None, found: Found, movable: Array) -> Array:
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
    (z, alpha, found, movable), (d_z, d_alpha, d_found, _) = primals, tangents
    p = _mass(family, z, alpha, found, movable)
    d = effective_tangent(p, d_z, alpha, d_alpha, family)
    if not _is_zero(d_found.tau):
        d = -d_found.tau if d is None else d - d_found.tau
    return p, jnp.zeros_like(p) if d is None else family.slope(p, alpha) * movable * d


# The escort is known already: only its derivative, of which second derivatives are made, costs.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_escort(rule: Rule, moving: Moving, fixed: Fixed, found: Found) -> Found:
    return found


@_with_escort.defjvp
def _with_escort_jvp(rule, primals, tangents):
    (moving, fixed, found), (d_moving, _, d_found) = primals, tangents

    def escort(moving, tau):
        trees = (moving, fixed, found._replace(tau=tau))
        return looped(_recomputed(lambda trees: _block_escort(rule, *trees)), rule, trees)

    _, (total, mean) = jax.jvp(escort, (moving, found.tau), (d_moving, d_found.tau))
    return found, d_found._replace(total=total, mean=mean)


def _block_escort(rule, moving, fixed, found):
    """Σ s and Σ s v/Σ s."""

    def sums(trees):
        moving, fixed = trees
        row = _Weights(rule, moving, fixed, found)
        s = row.slope(row.of(scores(moving, fixed, rule)))
        return _row_sum(s), _mixed(s, moving.v, fixed, rule)

    total, mixed = _summed(rule, sums, (moving, fixed))
    if moving.sinks is not None:
        row = _Weights(rule, moving, fixed, found)
        total = total + row.slope(row.of(moving.sinks + filled(found.tau, 0)))
    return total, mixed / jnp.where(total > 0, total, 1)


def _hardened(rule: Rule, fixed: Fixed, z: Array, top: Array) -> Array:
    """Scores of which only the largest are left, where α is ∞."""
    if not rule.is_hard and fixed.hard is None:
        return z
    ties = jnp.where((z == top) & (top > -jnp.inf), 0, jnp.where(z == z, -jnp.inf, z))
    return ties if fixed.hard is None else jnp.where(fixed.hard, ties, z)


def _key_blocks(rule: Rule, moving: Moving) -> int:
    return -(-moving.k.shape[-2] // rule.block_k)


def _row(rule: Rule, moving: Moving, fixed: Fixed) -> Array:
    """Some number for each row that varies over a mesh as the data do."""
    return scores(*taken((moving, fixed), KEYS, 0, 1), rule=rule)


def _fold(rule: Rule, step: Callable, state: Any, trees: Trees) -> Any:
    """step(state, trees) over the blocks of keys."""
    if _key_blocks(rule, trees[0]) == 1:
        return step(state, trees)
    parts, rest = split(trees, KEYS, rule.block_k)
    state, _ = jax.lax.scan(lambda s, part: (step(s, joined(part, rest)), None), state, parts)
    return state


def _summed(rule: Rule, sums: Callable[[Trees], Any], trees: Trees) -> Any:
    """The sum of sums(trees) over the blocks of keys, and over the parts of a split row."""
    if _key_blocks(rule, trees[0]) == 1:
        total = sums(trees)
    else:
        again = _recomputed(sums)
        moving, fixed, *_ = trees
        like = _row(rule, moving, fixed)
        shapes = jax.eval_shape(sums, taken(trees, KEYS, 0, 1))
        zeros = jax.tree.map(lambda s: jnp.broadcast_to(filled(like, 0), s.shape), shapes)

        def step(state, trees):
            return jax.tree.map(jnp.add, state, again(trees))

        total = _fold(rule, step, zeros, trees)
    return _over_parts(total, rule.axis_name)


def _recomputed(function: Callable) -> Callable:
    """`function`, of whose work nothing is kept for the way back: there it is done again.

    Custom derivatives in the body of a loop need this also to survive a second reverse pass: JAX
    drops them where it looks for what a loop need not compute at each turn.
    """
    # In a loop the compiler cannot merge what is computed twice; where there is none it may.
    return jax.checkpoint(function, prevent_cse=False)


def _over_parts(sums: Any, axis_name: Any) -> Any:
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def _mixed(weights: Array, v: Array, fixed: Fixed, rule: Rule) -> Array:
    """Σ w v of each row, without the weights that dropout drops."""
    weights = weights * kept(fixed, rule)
    *lead, groups, queries, keys = weights.shape
    rows = jnp.matmul(weights.reshape(*lead, groups * queries, keys), v[..., 0, :, :])
    return rows.reshape(*rows.shape[:-2], groups, queries, v.shape[-1])


def _row_sum(x: Array) -> Array:
    return jnp.sum(x, axis=-1, keepdims=True)


def _along(function: Callable, moving: Moving, changes: Changes) -> tuple[Array, Array | None]:
    """A function of what scores are made of, and its tangent; None where it does not change."""
    names = [n for n in ("q", "k", "bias", "scale") if getattr(changes, n) is not None]
    if not names:
        return function(moving), None
    return jax.jvp(
        lambda *xs: function(moving._replace(**dict(zip(names, xs, strict=True)))),
        tuple(getattr(moving, n) for n in names),
        tuple(getattr(changes, n) for n in names),
    )


def _is_zero(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)
