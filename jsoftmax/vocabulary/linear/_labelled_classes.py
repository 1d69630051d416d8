"""Classes that have labels of their own: those with the label of a token are its positives.

Labels of tokens and classes are compared in each block, so that no array of all pairs is held. A
token has a class of its own besides, whatever the labels are.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Rule


def are_alike(fixed: Fixed) -> Array:
    """Whether a class has the label of a token, for each pair of them."""
    assert fixed.token_labels is not None
    return (fixed.token_labels == fixed.class_labels) & (fixed.token_labels >= 0)


def are_positive(rule: Rule, fixed: Fixed) -> Array:
    """Whether a class is a target of a token."""
    is_own, part = fixed.numbers == fixed.own, fixed.partakers
    found = are_alike(fixed) & ~is_own if rule.without_own else are_alike(fixed) | is_own
    return found if part is None else found & part


def positive_shares(rule: Rule, fixed: Fixed) -> Array:
    """The target mass of each class: evenly spread over the positives."""
    assert fixed.positive_share is not None
    return jnp.where(are_positive(rule, fixed), fixed.positive_share, 0)


def are_out(rule: Rule, fixed: Fixed) -> Array | None:
    """Which classes take no part in the row of a token; None for none."""
    if fixed.class_labels is None:
        return None
    is_own = fixed.numbers == fixed.own
    if fixed.positive_share is None:
        return are_alike(fixed) & ~is_own
    return is_own if rule.without_own else None
