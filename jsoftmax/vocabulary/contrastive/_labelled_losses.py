"""Contrastive losses with labels: a query may have several positives, or none."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
from jax import Array

from jsoftmax.core._regularizer import Regularizer
from jsoftmax.vocabulary.contrastive._batch_parts import gathered_batch
from jsoftmax.vocabulary.contrastive._pairs import Pairs
from jsoftmax.vocabulary.linear._labelled_targets import with_labels
from jsoftmax.vocabulary.linear._linear_arguments import (
    Fixed,
    Moving,
    Rule,
    read_rows,
    with_regularizer,
)
from jsoftmax.vocabulary.linear._outcomes import outcomes
from jsoftmax.vocabulary.linear._token_targets import Fate


def labelled_losses(
    function: str,
    pairs: Pairs,
    where: Array | None,
    regularizer: Regularizer,
    axis_name: Hashable | None,
    options: dict[str, Any],
) -> Array:
    """Compute the losses of queries against keys, with the keys of their label as positives."""
    assert pairs.labels is not None
    rows = read_rows(
        function, pairs.queries, gathered_batch(pairs.keys, axis_name), bias=None, where=where,
        class_axis=0, logits_soft_cap=None, axis_name=None, **options,
    )  # fmt: skip
    if not regularizer.is_exponential:
        rows = with_regularizer(rows, regularizer)
    labels = pairs.labels
    rows, fate = with_labels(
        rows, pairs.own, labels[: pairs.queries.shape[0]], gathered_batch(labels, axis_name),
        pairs.counted, pairs.ignores, pairs.without_own,
    )  # fmt: skip
    return _settled(rows.rule, rows.moving, rows.fixed, fate)[..., 0]


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its transpose is
# compiled once too.
@partial(jax.jit, static_argnums=0)
def _settled(rule: Rule, moving: Moving, fixed: Fixed, fate: Fate) -> Array:
    outcome, _ = outcomes(rule, moving, fixed)
    return fate.settle(outcome.loss)
