"""The scores of a block of tokens and classes, and how they move."""

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
    """z = cap(h W + b)/T + log q of shape (token, class), −∞ where a class takes no part."""
    return finished(products(moving, rule), moving, fixed, rule)


def products(moving: Moving, rule: Rule) -> Array:
    """h W."""
    return product(moving.features, moving.kernel, rule.kernel_axis, rule.many_tokens)


def finished(z: Array, moving: Moving, fixed: Fixed, rule: Rule) -> Array:
    """Scores from products."""
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
    """c tanh(z/c), but −∞ for −∞: a class that takes no part has not the score −c."""
    if cap is None:
        return z
    return jnp.where(z == -jnp.inf, z, cap * jnp.tanh(z / cap))


def with_margin(z: Array, fixed: Fixed) -> Array:
    """Scores of which that of the one label of each token is lowered."""
    if fixed.margin is None and fixed.angular_margin is None:
        return z
    assert fixed.ids is not None
    return lowered(z, fixed.numbers == fixed.ids, Margins(fixed.margin, fixed.angular_margin))


def tempered(z: Array, temperature: Array | None) -> Array:
    """z/T for T > 0. At T = ∞ all scores are 0 but those of −∞, which stay."""
    if temperature is None:
        return z
    # What does not depend on T is kept out of the quotient, of whose slopes it would make NaN.
    stays = (z == -jnp.inf) | (z != z)
    quotient = jnp.where(stays | (temperature == jnp.inf), 0, z) / temperature
    return jnp.where(stays, z, quotient)


def moved_scores(
    moving: Moving, fixed: Fixed, changes: Changes, rule: Rule
) -> tuple[Array, Array | None]:
    """z and ż, None where no score moves."""
    return along(lambda m: scores(m, fixed, rule), moving, changes, _OF_SCORES)
