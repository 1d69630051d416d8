"""Compute log losses Σ y (−log p) that stay exact where p is near 1, for every loss here."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import log_probabilities, probabilities
from jsoftmax.core.regularizers import SHANNON

# At most one p of a row is above this, even where rounding lifts two halves above one half.
ALONE = 0.75


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def label_log_loss(z: Array, labels: Array, classes: ClassAxis) -> Array:
    """Return −log p of the labels for p ∝ exp z, both kept as a size-1 axis."""
    top = classes.max(z)
    own = classes.at(z, labels)
    log_total = sums_apart(z, top, _is_label(z, labels, classes), own, classes).log_total
    is_empty = (top == -jnp.inf) & (log_total == log_total)  # a maximum may have lost a NaN
    return jnp.where(is_empty, 0, behind(jnp.where(is_empty, 0, own), top) + log_total)


@partial(label_log_loss.defjvp, symbolic_zeros=True)
def _label_log_loss_jvp(classes, primals, tangents):
    (z, labels), (d_z, _) = primals, tangents
    loss = label_log_loss(z, labels, classes)
    if isinstance(d_z, SymbolicZero):
        return loss, jnp.zeros_like(loss)
    return loss, classes.sum(_label_surplus(z, labels, classes) * d_z)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _label_surplus(z, labels, classes):
    """Return p − y, from the terms of the sum, so that the compiler keeps one array."""
    apart = _is_label(z, labels, classes)
    sums = sums_apart(z, classes.max(z), apart, classes.at(z, labels), classes)
    return jnp.where(apart, -sums.rest, sums.terms / sums.total)


@_label_surplus.defjvp
def _label_surplus_jvp(classes, primals, tangents):
    z, labels = primals
    # Its tangent is that of p; where a label is out of reach its p is the constant 0.
    _, moved = jax.jvp(lambda z: probabilities(z, None, SHANNON, classes), (z,), tangents[:1])
    return _label_surplus(z, labels, classes), moved


def _is_label(z, labels, classes):
    return classes.index(z).astype(labels.dtype) == labels


class SumsApart(NamedTuple):
    """Sums of a row with one class kept apart."""

    terms: Array  # exp(z − max z) of every class, 0 for the class apart
    total: Array  # Σ of all terms, including that of the class apart
    log_total: Array  # log(total)
    rest: Array  # the mass of all other classes; 0 where the class apart is out of reach


def sums_apart(z: Array, top: Array, apart: Array, own: Array, classes: ClassAxis) -> SumsApart:
    """Return the sums of rows with the class at `apart`, of score `own`, kept apart.

    Nothing cancels in log1p(Σ' + (own term − 1)): the bracket is 0 where the class apart has the
    largest score, and elsewhere Σ' contains a 1.
    """
    terms = jnp.where(apart, 0, jnp.exp(difference(z, top)))
    # A fully masked row, or one with an invalid label, has nothing to subtract.
    ahead = jnp.where(top == -jnp.inf, 0, jnp.minimum(-behind(own, top), 0))
    less = jnp.expm1(ahead)
    others = classes.sum(terms)
    total = others + (1 + less)
    rest = jnp.where(own > -jnp.inf, others / total, 0)
    return SumsApart(terms, total, jnp.log1p(others + less), rest)


def behind(z: Array, top: Array) -> Array:
    """Return max z − z: ∞ for finite scores where the largest is ∞."""
    return jnp.where((top == jnp.inf) & (z < jnp.inf), jnp.inf, -difference(z, top))


def expected_log_loss(z: Array, y: Array, classes: ClassAxis) -> Array:
    """Return Σ y (−log p) for p ∝ exp z, kept as a size-1 axis."""
    return expected(*_log_softmax(z, classes), z, y, classes)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def expected(p: Array, log_p: Array, rest: Array, z: Array, y: Array, classes: ClassAxis) -> Array:
    # A fully masked row has no log p, and loss 0.
    log_p = jnp.where(beyond_reach(z, y, classes.max(z)), -jnp.inf, log_p)
    loss = classes.sum(jnp.where(y == 0, 0, -y * jnp.where(y == 0, 0, log_p)))
    return jnp.where(classes.max(z) == -jnp.inf, 0, loss)


@partial(expected.defjvp, symbolic_zeros=True)
def _expected_jvp(classes, primals, tangents):
    # The tangent of log p is counted with z: L̇ = Σ (p Σy − y) ż − Σ log p ẏ. The primal output is
    # again this function, so that higher derivatives use the same rule.
    p, log_p, rest, z, y = primals
    *_, d_z, d_y = tangents
    loss = expected(p, log_p, rest, z, y, classes)
    tangent = jnp.zeros_like(loss)
    if not isinstance(d_z, SymbolicZero):
        move = surplus(p, rest, y, classes.sum(y))
        tangent = tangent + classes.sum(jnp.where(z > -jnp.inf, move, 0) * d_z)
    if not isinstance(d_y, SymbolicZero):
        finite = jnp.where(log_p > -jnp.inf, log_p, 0)
        tangent = tangent - classes.sum(finite * d_y)
    return loss, tangent


def surplus(
    p: Array, rest: Array, y: Array, total: Array | float, apart: Array | None = None
) -> Array:
    """Return total · p − y, for a p near 1 from the mass `rest` of all other classes."""
    apart = p > ALONE if apart is None else apart
    return jnp.where(apart, (total - y) - total * rest, total * p - y)


def mass_of_the_rest(p: Array, classes: ClassAxis) -> Array:
    """Return Σ p over all classes except one with p near 1, if there is one."""
    return classes.sum(jnp.where(p > ALONE, 0, p))


def refined_log(log_p: Array, p: Array, rest: Array) -> Array:
    """Return log p, from the mass of the rest where p is near 1 and log p almost 0."""
    top = p > ALONE
    return jnp.where(top, jnp.log1p(-jnp.where(top, rest, 0)), log_p)


def beyond_reach(z: Array, y: Array, top: Array) -> Array:
    """Return where a class of finite score has target mass though the largest score is +∞."""
    return (y > 0) & (z < jnp.inf) & (top == jnp.inf)


def _log_softmax(z, classes):
    log_p = log_probabilities(z, None, SHANNON, classes)
    p = jnp.exp(log_p)
    rest = mass_of_the_rest(p, classes)
    return p, refined_log(log_p, p, rest), rest
