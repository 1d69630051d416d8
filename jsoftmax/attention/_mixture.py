"""Σ p v for a block of queries, over their keys block by block, and its one derivative.

With s = slope(p), d = ż − (∂ω′/∂α)(p) α̇ and the escort mean o = Σ s v/Σ s,

    τ̇ = Σ s d/Σ s,    (Σ p v)˙ = Σ s d v − o Σ s d + Σ p v̇,

which needs no weight of another block: each is computed again from its scores and τ. The sums are
linear in what moves, and their transpose is the reverse mode, block by block too. For softmax s is
p and o the mixture itself: the backward pass of FlashAttention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.attention._attention_problem import Changes, Fixed, Moving, Rule
from jsoftmax.attention._attention_scores import scores
from jsoftmax.attention._clean import clean
from jsoftmax.attention._folds import mixed_values, recomputed, row_sum, summed
from jsoftmax.attention._key_blocks import looped
from jsoftmax.attention._solve import Found, solved
from jsoftmax.attention._weights import Weights
from jsoftmax.core._filled import filled


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def mixture(rule: Rule, moving: Moving, fixed: Fixed) -> tuple[Array, Found]:
    """Σ p v of every query, and what is known of its row. Of that, only τ has a derivative."""
    return looped(solved, rule, (moving, fixed))


def weights(rule: Rule, moving: Moving, fixed: Fixed) -> Array:
    """p of every query and key, as one array."""
    _, found = mixture(rule, moving, fixed)
    return Weights(rule, moving, fixed, found.kept()).of(scores(moving, fixed, rule))


@partial(mixture.defjvp, symbolic_zeros=True)
def _mixture_jvp(rule, primals, tangents):
    moving, fixed = primals
    changes = Changes(*(_change(d) for d in tangents[0]))
    out, found = mixture(rule, moving, fixed)
    if not rule.is_clean:
        changes = changes._replace(
            **{
                name: jnp.where(jnp.isfinite(getattr(moving, name)), getattr(changes, name), 0)
                for name in ("k", "v")
                if getattr(changes, name) is not None
            }
        )
        rule, moving, fixed = clean(rule, moving, fixed)
    known = found.kept()
    if rule.is_softmax:
        known = known._replace(mean=out)
    else:
        known = _with_escort(rule, moving, fixed, known)
    d_out, d_tau = looped(recomputed(_block_jvp, (0,)), rule, (moving, fixed, known, changes))
    still = jax.tree.map(jnp.zeros_like, found)
    return (out, found), (d_out, still._replace(tau=d_tau))


def _block_jvp(rule, moving, fixed, found, changes):
    """The tangents of Σ p v and of τ."""

    def sums(trees):
        moving, fixed, changes = trees
        row = Weights(rule, moving, fixed, found)
        z, d_z = _along(lambda m: scores(m, fixed, rule), moving, changes)
        p, moved = row.change(z, d_z, changes.numbers)
        mixed = mixed_values(row.without_hard(moved), moving.v, fixed, rule)
        if changes.v is not None:
            mixed = mixed + mixed_values(p, changes.v, fixed, rule)
        return row_sum(moved), mixed

    total, mixed = summed(rule, sums, (moving, fixed, changes))
    row = Weights(rule, moving, fixed, found)
    if moving.sinks is not None:
        sinks = moving.sinks + filled(found.tau, 0)
        total = total + row.change(sinks, changes.sinks, changes.numbers)[1]
    d_tau = total / jnp.where(found.total > 0, found.total, 1)
    return mixed - row.without_hard(found.mean * total), d_tau


# The escort is known already: only its derivative, of which second derivatives are made, costs.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_escort(rule: Rule, moving: Moving, fixed: Fixed, found: Found) -> Found:
    return found


@_with_escort.defjvp
def _with_escort_jvp(rule, primals, tangents):
    (moving, fixed, found), (d_moving, _, d_found) = primals, tangents

    def escort(moving, tau):
        return looped(
            recomputed(_block_escort, (0,)), rule, (moving, fixed, found._replace(tau=tau))
        )

    _, (total, mean) = jax.jvp(escort, (moving, found.tau), (d_moving, d_found.tau))
    return found, d_found._replace(total=total, mean=mean)


def _block_escort(rule, moving, fixed, found):
    """Σ s and Σ s v/Σ s."""

    def sums(trees):
        moving, fixed = trees
        row = Weights(rule, moving, fixed, found)
        s = row.slope(row.of(scores(moving, fixed, rule)))
        return row_sum(s), mixed_values(s, moving.v, fixed, rule)

    total, mixed = summed(rule, sums, (moving, fixed))
    if moving.sinks is not None:
        row = Weights(rule, moving, fixed, found)
        total = total + row.slope(row.of(moving.sinks + filled(found.tau, 0)))
    return total, mixed / jnp.where(total > 0, total, 1)


def _along(function: Callable, moving: Moving, changes: Changes) -> tuple[Array, Array | None]:
    """A function of what scores are made of, and its tangent; None where it does not change."""
    names = [n for n in ("q", "k", "bias", "scale", "soft_cap") if getattr(changes, n) is not None]
    if not names:
        return function(moving), None
    return jax.jvp(
        lambda *xs: function(moving._replace(**dict(zip(names, xs, strict=True)))),
        tuple(getattr(moving, n) for n in names),
        tuple(getattr(changes, n) for n in names),
    )


def _change(tangent: Any) -> Any:
    """A tangent, None where there is none."""
    if isinstance(tangent, tuple):
        return tuple(map(_change, tangent))
    return None if isinstance(tangent, SymbolicZero) else tangent
