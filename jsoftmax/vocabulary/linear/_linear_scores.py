"""Compute scores of a block of tokens and classes, and their tangents."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._named_trees import Changes, along
from jsoftmax.losses._label_margin import Margins, lowered
from jsoftmax.vocabulary.linear._labelled_classes import are_out
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._token_products import product

_OF_SCORES = ("features", "kernel", "bias", "temperature", "log_prior", "per_length")


def scores(moving: Moving, fixed: Fixed, rule: Rule) -> Array:
    """Compute z = cap(h W + b)/T + log q of shape (token, class), −∞ for masked classes."""
    return finished(products(moving, rule), moving, fixed, rule)


def products(moving: Moving, rule: Rule) -> Array:
    """Compute h W."""
    return product(moving.features, moving.kernel, rule.kernel_axis, rule.many_tokens)


def finished(z: Array, moving: Moving, fixed: Fixed, rule: Rule) -> Array:
    """Compute scores from products."""
    if moving.per_length is not None:
        z = z * moving.per_length
    if moving.bias is not None:
        z = z + moving.bias
    if (part := fixed.partakers) is not None:
        z = jnp.where(part, z, -jnp.inf)
    if (out := are_out(rule, fixed)) is not None:
        z = jnp.where(out, -jnp.inf, z)
    z = with_margin(capped(z, rule.logits_soft_cap), fixed)
    z = tempered(z, moving.temperature)
    if moving.log_prior is not None:
        z = z + moving.log_prior
    return z if fixed.rows is None else jnp.where(fixed.rows, z, 0)


def capped(z: Array, cap: float | None) -> Array:
    """Compute c tanh(z/c), except that −∞ stays: a masked class must not get the score −c."""
    if cap is None:
        return z
    return jnp.where(z == -jnp.inf, z, cap * jnp.tanh(z / cap))


def with_margin(z: Array, fixed: Fixed) -> Array:
    """Apply the margin to the score of each token's label."""
    if fixed.margin is None and fixed.angular_margin is None:
        return z
    assert fixed.ids is not None
    return lowered(z, fixed.numbers == fixed.ids, Margins(fixed.margin, fixed.angular_margin))


def tempered(z: Array, temperature: Array | None) -> Array:
    """Compute z/T for T > 0. At T = ∞ all scores are 0 except −∞, which stays."""
    if temperature is None:
        return z
    # Scores that do not depend on T are kept out of the quotient: its slopes would be NaN.
    stays = (z == -jnp.inf) | (z != z)
    quotient = jnp.where(stays | (temperature == jnp.inf), 0, z) / temperature
    return jnp.where(stays, z, quotient)


def moved_scores(
    moving: Moving, fixed: Fixed, changes: Changes, rule: Rule
) -> tuple[Array, Array | None]:
    """Compute z and ż; None for ż where all tangents are zero."""
    return along(lambda m: scores(m, fixed, rule), moving, changes, _OF_SCORES)
