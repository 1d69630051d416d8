"""Targets from labels of tokens and classes: every class with the label of a token."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.vocabulary.linear._labelled_classes import are_positive
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rows, Rule
from jsoftmax.vocabulary.linear._token_blocks import by_tokens
from jsoftmax.vocabulary.linear._token_targets import Fate, with_targets

_IGNORED = -1


def with_labels(
    rows: Rows, own: Array, token_labels: Array, class_labels: Array, counted: Array | None,
    ignores: bool, without_own: bool,
) -> tuple[Rows, Fate]:  # fmt: skip
    """Make the classes with the label of each token its targets; return masks for the losses too.

    Args:
        rows: features and class table.
        own: of shape (token,), the number of the class of each token.
        token_labels: of shape (token,), negative for a token without positives except its own
            class.
        class_labels: of shape (class,).
        counted: of shape (token,), which tokens have a loss; None for all.
        ignores: whether the other classes of a label are masked, instead of being targets.
        without_own: whether the token's own class is masked.
    """
    labels = token_labels[:, None], class_labels[None]
    fixed = rows.fixed._replace(token_labels=labels[0], class_labels=labels[1], own=own[:, None])
    rule = dataclasses.replace(rows.rule, without_own=without_own)
    share = None
    if not ignores:
        count = _positives(rule, rows.moving, fixed).astype(rows.scores.dtype)
        share = jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0)
        if without_own:
            has_any = count[:, 0] > 0
            counted = has_any if counted is None else counted & has_any
    ignored: Any = None
    if counted is not None:
        own, ignored = jnp.where(counted, own, _IGNORED), _IGNORED
    rows = dataclasses.replace(rows, fixed=fixed, rule=rule)
    rows, fate = with_targets(rows, own, ignored, 0.0)
    if share is not None:
        fixed = rows.fixed._replace(ids=None, positive_share=share)
        rows = dataclasses.replace(rows, fixed=fixed)
    return rows, fate


# Compiled once per shape, even when called outside of `jit`.
@partial(jax.jit, static_argnums=0)
def _positives(rule: Rule, moving: Moving, fixed: Fixed) -> Array:
    """Count the targets of each token, in blocks of tokens."""

    def count(trees):
        return rule.classes.sum(are_positive(rule, trees[1]).astype(jnp.int32))

    return by_tokens(count, rule.block_tokens, (moving, fixed), rule.many_tokens)
