"""Targets of a linear loss: one class per token, or a few with weights, never a whole row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import DTypeLike

from jsoftmax.core import _checks as checks
from jsoftmax.losses._targets import differs
from jsoftmax.vocabulary.linear._labelled_classes import positive_shares
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rows, Rule


class Fate(NamedTuple):
    """Masks for the losses of tokens: (token, 1) arrays; None for True everywhere."""

    valid: Array  # False: NaN, since a label or T is out of range
    counted: Array | None  # False: 0, since the token is ignored or has no target mass
    tempered: Array | None  # False: NaN for all statistics, since T is out of range

    def settle(self, loss: Array) -> Array:
        """Set the losses of ignored tokens to 0 and those of invalid tokens to NaN."""
        loss = jnp.where(self.valid, loss, jnp.nan)
        return loss if self.counted is None else jnp.where(self.counted, loss, 0)

    def settle_statistic(self, x: Array) -> Array:
        """Set statistics of the scores to NaN where T is out of range."""
        return x if self.tempered is None else jnp.where(self.tempered, x, jnp.nan)


def with_targets(
    rows: Rows, targets: Any, ignore_index: Any, label_smoothing: Any
) -> tuple[Rows, Fate]:
    """Add targets to rows, and return masks for the losses. Ignored tokens have scores of 0.

    Where there is no loss, T is 1, so that no NaN reaches the losses or gradients of other tokens.
    """
    function, lead = rows.function, rows.lead
    smoothing = checks.static_number(label_smoothing)
    if smoothing is not None and not 0 <= smoothing <= 1:
        raise ValueError(
            f"jsoftmax.{function}: `label_smoothing` must be from 0 to 1, got {label_smoothing!r}."
        )
    _check_number(function, ignore_index)
    ids, shares = _read(function, targets, lead, ignore_index, rows.moving.features.dtype)
    classes = rows.rule.classes.size(rows.scores)
    valid = (ids >= 0) & (ids < classes)
    _check_known(function, targets, shares is not None, classes, ignore_index)
    counted = None
    fixed, moving = rows.fixed, rows.moving
    if shares is not None:
        valid = valid | (shares == 0)
        counted = jnp.sum(shares, axis=-1, keepdims=True) != 0
    if ignore_index is not None:
        counted = differs(ids, ignore_index)
        valid = valid | ~counted
    if counted is not None:
        moving = moving._replace(features=jnp.where(counted, moving.features, 0))
    valid = jnp.all(valid, axis=-1, keepdims=True)
    moving, tempered = with_temperatures(moving, fixed)
    if tempered is not None:
        if counted is not None:
            tempered = tempered | ~counted
        valid = valid & tempered
    if smoothing != 0:
        # A fully masked token does not need its room.
        whole = fixed.mask is not None and fixed.mask.shape[-1] == 1
        part = fixed.present if whole else fixed.partakers
        if part is None or part.shape[-1] == 1:
            room = jnp.full((1, 1), classes, moving.features.dtype)
        else:
            room = rows.rule.classes.sum(part.astype(moving.features.dtype))
        s = checks.as_array(function, "label_smoothing", label_smoothing)
        s = jax.lax.stop_gradient(s.astype(moving.features.dtype))
        fixed = fixed._replace(smoothing=s, room=jnp.maximum(room, 1))
    fixed = fixed._replace(ids=ids, shares=shares, rows=counted)
    return dataclasses.replace(rows, moving=moving, fixed=fixed), Fate(valid, counted, tempered)


def with_temperatures(moving: Moving, fixed: Fixed) -> tuple[Moving, Array | None]:
    """Replace T by 1 where it is out of range; return a mask of valid rows too, None for all."""
    t = moving.temperature
    if t is None:
        return moving, None
    tempered = t > 0
    moving = moving._replace(temperature=jnp.where(tempered, t, 1))
    if fixed.mask is not None and fixed.mask.shape[-1] == 1:
        tempered = tempered | ~fixed.mask
    return moving, tempered


def each_target(fixed: Fixed, dtype: DTypeLike) -> Iterator[tuple[Array, Array]]:
    """Iterate over the classes with target mass, one per token at a time, and their masses."""
    assert fixed.ids is not None
    for j in range(fixed.ids.shape[-1]):
        share = jnp.ones((1, 1), dtype) if fixed.shares is None else fixed.shares[:, j : j + 1]
        if fixed.smoothing is not None:
            share = (1 - fixed.smoothing) * share
        yield fixed.ids[:, j : j + 1], share


def label(rule: Rule, fixed: Fixed) -> Array | None:
    """Return a mask of the one label of each token; None where there are pairs.

    It is also None for statistics, since their sums keep the top of the row apart instead.
    """
    if rule.is_divergence or rule.statistics or fixed.ids is None or fixed.shares is not None:
        return None
    return fixed.numbers == fixed.ids


def spread(fixed: Fixed) -> Array:
    """Return the target mass of each class from smoothing."""
    assert fixed.smoothing is not None and fixed.room is not None
    evenly = fixed.smoothing / fixed.room
    part = fixed.partakers
    return evenly if part is None else jnp.where(part, evenly, 0)


def target_block(rule: Rule, fixed: Fixed, z: Array) -> Array:
    """Return y for the tokens and classes of a block of scores."""
    if fixed.positive_share is not None:
        return positive_shares(rule, fixed)
    y = jnp.zeros_like(z)
    for number, share in each_target(fixed, z.dtype):
        y = y + jnp.where(fixed.numbers == number, share, 0)
    return y if fixed.smoothing is None else y + spread(fixed)


def _read(function, targets, lead, ignore_index, dtype):
    """Read classes of shape (token, m), and their weights if they have any."""
    shares = None
    if isinstance(targets, tuple):
        if len(targets) != 2:
            raise ValueError(
                f"jsoftmax.{function}: `targets` is a tuple of {len(targets)}; give classes, or "
                "the pair (ids, weights), both of shape [..., m]."
            )
        if ignore_index is not None:
            raise ValueError(
                f"jsoftmax.{function}: `ignore_index` needs one class per token; here the "
                "`targets` are pairs. Leave tokens out by `where` of shape [..., 1]."
            )
        ids, shares = (checks.as_array(function, "targets", x) for x in targets)
        if ids.shape != shares.shape or ids.shape[:-1] != lead or ids.ndim == 0:
            raise ValueError(
                f"jsoftmax.{function}: `targets` are pairs of shapes {ids.shape} and "
                f"{shares.shape}; both need the shape {(*lead, 'm')}, m classes for each token."
            )
        shares = jax.lax.stop_gradient(shares.astype(dtype))
        ids = ids.reshape(math.prod(lead), ids.shape[-1])
        shares = shares.reshape(ids.shape)
    else:
        ids = checks.as_array(function, "targets", targets)
        if ids.shape != lead:
            raise ValueError(
                f"jsoftmax.{function}: `targets` have shape {ids.shape}; give one class for each "
                f"token, integers of shape {lead}, or pairs (ids, weights) of shape "
                f"{(*lead, 'm')}. A distribution over all the classes would be as large as the "
                "logits that this function avoids."
            )
        ids = ids.reshape(-1, 1)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `targets` have dtype {ids.dtype}; give integers for classes, or "
            "pairs (ids, weights)."
        )
    # Labels are compared in int32, so that a narrow dtype cannot wrap.
    return ids if ids.dtype.itemsize >= 4 else ids.astype(jnp.int32), shares


def _check_known(function, targets, are_pairs, classes, ignore_index):
    """Check labels given as Python or numpy values, while tracing."""
    ids = checks.known_values(targets[0] if are_pairs else targets)
    if ids is None or isinstance(ignore_index, Array):
        return
    bad = (ids < 0) | (ids >= classes)
    if are_pairs:
        shares = checks.known_values(targets[1])
        if shares is None:
            return
        bad &= shares != 0
    if ignore_index is not None:
        bad &= ids != ignore_index
    if np.any(bad):
        raise ValueError(
            f"jsoftmax.{function}: label {ids[bad].flat[0]} is out of range [0, {classes}). To "
            "leave tokens out, give their label as `ignore_index`."
        )


def _check_number(function, ignore_index):
    if ignore_index is None:
        return
    number = checks.as_array(function, "ignore_index", ignore_index)
    if number.ndim or not jnp.issubdtype(number.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `ignore_index` must be an integer, got {ignore_index!r}."
        )
