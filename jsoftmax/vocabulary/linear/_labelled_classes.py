"""Classes with labels of their own: the positives of a token are the classes with its label.

Labels of tokens and classes are compared in each block, so that no array of all pairs is held. A
token also has a class of its own, independent of the labels.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Rule


def same_label(token_labels: Array, class_labels: Array) -> Array:
    """Compare the labels of tokens and classes; a negative label equals no other."""
    return (token_labels == class_labels) & (token_labels >= 0)


def left_out(is_own: Array, is_alike: Array, ignores: bool, without_own: bool) -> Array | None:
    """Return a mask of the classes left out of the row of a token; None for none."""
    if ignores:
        return is_alike & ~is_own
    return is_own if without_own else None


def are_positive(rule: Rule, fixed: Fixed) -> Array:
    """Return a mask of the targets of each token."""
    is_own, is_alike, part = *_relations(fixed), fixed.partakers
    found = is_alike & ~is_own if rule.without_own else is_alike | is_own
    return found if part is None else found & part


def positive_shares(rule: Rule, fixed: Fixed) -> Array:
    """Return the target mass of each class: uniform over the positives."""
    assert fixed.positive_share is not None
    return jnp.where(are_positive(rule, fixed), fixed.positive_share, 0)


def are_out(rule: Rule, fixed: Fixed) -> Array | None:
    """Return a mask of the classes left out of the row of a token; None for none."""
    if fixed.class_labels is None:
        return None
    return left_out(*_relations(fixed), fixed.positive_share is None, rule.without_own)


def _relations(fixed: Fixed) -> tuple[Array, Array]:
    """Return masks of each token's own class, and of the classes with its label."""
    assert fixed.token_labels is not None and fixed.class_labels is not None
    return fixed.numbers == fixed.own, same_label(fixed.token_labels, fixed.class_labels)
