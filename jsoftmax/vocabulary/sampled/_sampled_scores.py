"""Compute the scores of labels and candidates from the rows of their classes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.linear._linear_arguments import Moving, Rows, Rule, read_rows
from jsoftmax.vocabulary.linear._linear_scores import capped, tempered
from jsoftmax.vocabulary.linear._token_targets import Fate, with_targets
from jsoftmax.vocabulary.sampled._candidates import Candidates, read_ids


@dataclasses.dataclass(frozen=True)
class SampledScores:
    """z_y and z_c with their counts and masks; arrays have the axes (token, candidate)."""

    target: Array  # z_y, of size 1 along the candidates
    others: Array  # z_c
    log_count: Array  # log n_c
    target_log_count: Array | None  # log n_y, if the sampler was given labels
    hits: Array  # where a candidate equals the target
    empty: Array  # where the id is negative: no candidate
    rows: Rows
    fate: Fate

    def corrected(self, remove_hits: bool) -> Array:
        """Compute z_c − log n_c, −∞ for ignored ids: Σ exp of it estimates Σ exp z."""
        nothing = self._nothing(remove_hits)
        return jnp.where(nothing, -jnp.inf, self.others - jnp.where(nothing, 0, self.log_count))

    def uncorrected(self, remove_hits: bool) -> Array:
        """Compute z_c, −∞ for ignored ids."""
        return jnp.where(self._nothing(remove_hits), -jnp.inf, self.others)

    def counted_targets(self, function: str) -> Array:
        """Return log n_y; raise if the candidates lack it."""
        if self.target_log_count is None:
            raise ValueError(
                f"jsoftmax.{function}: the candidates lack the expected counts of the labels. Draw "
                "them with `sampler.sample(key, shape, labels)`."
            )
        return self.target_log_count

    def _nothing(self, remove_hits: bool) -> Array:
        nothing = self.empty | (self.others == -jnp.inf)
        return nothing | self.hits if remove_hits else nothing

    def settle(self, loss: Array) -> Array:
        """Apply the masks to losses (token, 1), and reshape them to the labels."""
        return self.rows.shaped(self.fate.settle(loss))[..., 0]


def read_sampled(
    function: str,
    features: Any,
    kernel: Any,
    labels: Any,
    candidates: Any,
    *,
    bias: Any,
    where: Any,
    ignore_index: Any,
    temperature: Any,
    logits_soft_cap: float | None,
    class_axis: int,
) -> SampledScores:
    """Validate the arguments of `function`, gather the rows of their classes, and multiply."""
    rows = read_rows(
        function, features, kernel, bias=bias, where=where, class_axis=class_axis,
        temperature=temperature, logits_soft_cap=logits_soft_cap, axis_name=None,
    )  # fmt: skip
    mask = rows.fixed.mask
    if mask is not None and mask.shape[-1] > 1:
        raise ValueError(
            f"jsoftmax.{function}: `where` of shape {jnp.shape(where)} masks classes; a sampled "
            f"loss can mask only tokens, by the shape {(*rows.lead, 1)}. To exclude a class, give "
            "it weight 0 in the sampler."
        )
    if isinstance(labels, tuple):
        raise ValueError(
            f"jsoftmax.{function}: `labels` are a tuple; give one class for each token, integers "
            f"of shape {rows.lead}."
        )
    y = checks.as_array(function, "labels", labels)
    if y.shape != rows.lead:
        raise ValueError(
            f"jsoftmax.{function}: `labels` have shape {y.shape}; give one class for each token, "
            f"integers of shape {rows.lead}."
        )
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `labels` have dtype {y.dtype}; give integers for classes."
        )
    rows, fate = with_targets(rows, labels, ignore_index, 0.0)
    if mask is not None:
        fate = fate._replace(counted=mask if fate.counted is None else mask & fate.counted)
    assert rows.fixed.ids is not None
    y = rows.fixed.ids
    classes = rows.fixed.numbers.shape[-1]
    ids, log_count, target_log_count = _read(function, candidates, rows, classes)
    others = _scores(rows.moving, rows.rule, ids)
    target, hits = _scores(rows.moving, rows.rule, y), ids == y.astype(ids.dtype)
    chex.assert_equal_shape([others, hits])
    chex.assert_shape(target, (others.shape[0], 1))
    return SampledScores(
        target,
        jnp.where(ids < classes, others, jnp.nan),  # never another class
        log_count,
        target_log_count,
        hits,
        ids < 0,
        rows,
        fate,
    )


def _scores(moving: Moving, rule: Rule, ids: Array) -> Array:
    """Compute scores of classes of shape (1, n), shared by all tokens, or (token, n)."""
    axis, h = rule.kernel_axis, moving.features
    if ids.shape[0] == 1:
        rows = jnp.take(moving.kernel, ids[0], axis=axis, mode="clip")
        z = jax.lax.dot_general(h, rows, (((1,), (1 - axis,)), ((), ())))
    else:
        rows = jnp.take(moving.kernel, ids, axis=axis, mode="clip")
        z = jnp.einsum("td,tnd->tn" if axis == 0 else "td,dtn->tn", h, rows)
    if moving.bias is not None:
        z = z + jnp.take(moving.bias[0], ids, mode="clip")
    return tempered(capped(z, rule.logits_soft_cap), moving.temperature)


def _read(
    function: str, candidates: Candidates, rows: Rows, classes: int
) -> tuple[Array, Array, Array | None]:
    """Read ids and counts of candidates, flat over tokens, and counts of the labels."""
    ids, lead, dtype = read_ids(function, candidates), rows.lead, rows.moving.features.dtype
    if ids.ndim > 1 and ids.shape[:-1] != lead:
        raise ValueError(
            f"jsoftmax.{function}: the ids of `candidates` have shape {ids.shape}; give shape [n] "
            f"for candidates that all tokens share, or {(*lead, 'n')} for each token separately."
        )
    known = checks.known_values(candidates.ids)
    if known is not None and (known >= classes).any():
        raise ValueError(
            f"jsoftmax.{function}: candidate {known.max()} is out of range [0, {classes})."
        )
    ids = ids if ids.dtype.itemsize >= 4 else ids.astype(jnp.int32)
    counts = [("log_expected_count", candidates.log_expected_count, ids.shape)]
    if candidates.target_log_expected_count is not None:
        counts.append(("target_log_expected_count", candidates.target_log_expected_count, lead))
    read = []
    for name, count, shape in counts:
        count = checks.as_array(function, f"candidates.{name}", count)
        if not checks.broadcasts(count, shape):
            raise ValueError(
                f"jsoftmax.{function}: `candidates.{name}` has shape {count.shape}, which does not "
                f"broadcast to {shape}. Give one number for each class."
            )
        count = jnp.broadcast_to(count.astype(dtype), shape)
        read.append(jax.lax.stop_gradient(count))
    tokens, n = math.prod(lead), ids.shape[-1]
    flat = (1, n) if ids.ndim == 1 else (tokens, n)
    of_targets = read[1].reshape(tokens, 1) if len(read) > 1 else None
    return ids.reshape(flat), read[0].reshape(flat), of_targets
