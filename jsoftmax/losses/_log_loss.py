"""The algebra of log losses: Σ y (−log p), exact where p is near 1, shared by every loss here."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._regularizers import SHANNON
from jsoftmax.core._simplex import log_probabilities, with_log_prior

# A p above this is the only one of its row, also where rounding lifts two halves above one half.
ALONE = 0.75


def expected_log_loss(z: Array, y: Array, classes: ClassAxis, prior: Array | None = None) -> Array:
    """Σ y (−log p) for p ∝ q exp z, kept as a size-1 axis."""
    z = with_log_prior(z, prior)
    return expected(*_log_softmax(z, classes), z, y, classes)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def expected(p: Array, log_p: Array, rest: Array, z: Array, y: Array, classes: ClassAxis) -> Array:
    # An empty row has no log p, and loses nothing.
    log_p = jnp.where(beyond_reach(z, y, classes), -jnp.inf, log_p)
    loss = classes.sum(jnp.where(y == 0, 0, -y * jnp.where(y == 0, 0, log_p)))
    return jnp.where(classes.max(z) == -jnp.inf, 0, loss)


@partial(expected.defjvp, symbolic_zeros=True)
def _expected_jvp(classes, primals, tangents):
    # That of log p is counted with z: L̇ = Σ (p Σy − y) ż − Σ log p ẏ. The value is returned as
    # what it is, a loss, so that it is differentiated by this rule again.
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
    """total · p − y. For the class kept apart, a p near 1, from the mass `rest` of all others."""
    apart = p > ALONE if apart is None else apart
    return jnp.where(apart, (total - y) - total * rest, total * p - y)


def mass_of_the_rest(p: Array, classes: ClassAxis) -> Array:
    """Σ p over all classes but the one near 1, if there is one."""
    return classes.sum(jnp.where(p > ALONE, 0, p))


def refined_log(log_p: Array, p: Array, rest: Array) -> Array:
    """log p, from the mass of the rest where p is near 1 and log p almost 0."""
    top = p > ALONE
    return jnp.where(top, jnp.log1p(-jnp.where(top, rest, 0)), log_p)


def beyond_reach(z: Array, y: Array, classes: ClassAxis) -> Array:
    """Where a class of finite score has target mass though another has the score +∞."""
    return (y > 0) & (z < jnp.inf) & (classes.max(z) == jnp.inf)


def _log_softmax(z, classes):
    log_p = log_probabilities(z, None, SHANNON, classes)
    p = jnp.exp(log_p)
    rest = mass_of_the_rest(p, classes)
    return p, refined_log(log_p, p, rest), rest
