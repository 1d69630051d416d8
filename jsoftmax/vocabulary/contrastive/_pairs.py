"""Validate and canonicalise the arguments of a contrastive loss."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.vocabulary.contrastive._batch_parts import first_row
from jsoftmax.vocabulary.linear._linear_margin import per_length_of

_SAME = ("positive", "ignore")


class Pairs(NamedTuple):
    """Queries, keys and their assignment, of one device."""

    queries: Array  # [batch, d]
    keys: Array  # [batch + more, d]
    own: Array  # [batch], the number of the key of each query among those of all devices
    counted: Array | None  # [batch], which pairs take part
    labels: Array | None = None  # [batch + more], of keys; the first ones are the queries' too
    ignores: bool = False  # whether others of a label are left out, instead of positives
    without_own: bool = False  # whether a query is its own key, which is then left out


def read_pairs(
    function: str, queries: Any, keys: Any, where: Any, normalize: Any, axis_name: Hashable | None
) -> Pairs:
    """Validate the pairs, and apply mask and normalisation.

    Raises:
        TypeError: for arrays that are not real numbers, a mask that is not boolean, and a
            `normalize` that is not a bool.
        ValueError: for shapes that do not fit.
    """
    q, k = (checks.as_array(function, *x) for x in (("queries", queries), ("keys", keys)))
    if q.ndim != 2 or k.ndim != 2 or q.shape[1] != k.shape[1]:
        raise ValueError(
            f"jsoftmax.{function}: `queries` have shape {q.shape} and `keys` {k.shape}. Give both "
            "the shape [batch, d], merging other axes by a reshape."
        )
    if is_known(q.shape[0]) and is_known(k.shape[0]) and k.shape[0] < q.shape[0]:
        raise ValueError(
            f"jsoftmax.{function}: there are {q.shape[0]} `queries` and {k.shape[0]} `keys`. Each "
            "query needs its key, in the same row; more keys may follow."
        )
    if not isinstance(normalize, bool):
        raise TypeError(f"jsoftmax.{function}: `normalize` must be a bool, got {normalize!r}.")
    counted = None
    if where is not None:
        counted = checks.as_array(function, "where", where)
        if counted.dtype != jnp.bool_:
            raise TypeError(
                f"jsoftmax.{function}: `where` has dtype {counted.dtype}; give it a boolean mask, "
                "True where a pair takes part."
            )
        if counted.shape != q.shape[:1]:
            raise ValueError(
                f"jsoftmax.{function}: `where` has shape {counted.shape}; give it one bool for "
                f"each of the {q.shape[0]} pairs."
            )
        q = jnp.where(counted[:, None], q, 0)
        k = jnp.where(of_keys(counted, k)[:, None], k, 0)
    if normalize:
        q, k = (_normalised(x) for x in (q, k))
    own = jnp.arange(q.shape[0], dtype=jnp.int32) + first_row(k, axis_name)
    return Pairs(q, k, own, counted)


def with_labels_of_keys(
    function: str, pairs: Pairs, labels: Any, same_label: Any, exclude_self: Any
) -> Pairs:
    """Add labels to the pairs, if there are any.

    Raises:
        TypeError: for labels that are not integers, and an `exclude_self` that is not a bool.
        ValueError: for a wrong number of labels, an unknown `same_label`, and queries without
            positives.
    """
    if same_label not in _SAME:
        raise ValueError(
            f"jsoftmax.{function}: `same_label` is {same_label!r}; give it one of "
            f"{', '.join(map(repr, _SAME))}."
        )
    if not isinstance(exclude_self, bool):
        raise TypeError(
            f"jsoftmax.{function}: `exclude_self` must be a bool, got {exclude_self!r}."
        )
    ignores = same_label == "ignore"
    if exclude_self and (labels is None or ignores):
        raise ValueError(
            f"jsoftmax.{function}: with exclude_self=True the only positives of queries are keys "
            "of their label. Give `labels`, and same_label='positive'."
        )
    if labels is None:
        return pairs
    found = checks.as_array(function, "labels", labels)
    is_signed = jnp.issubdtype(found.dtype, jnp.signedinteger)
    if not (is_signed or found.dtype in (jnp.uint8, jnp.uint16)):
        raise TypeError(
            f"jsoftmax.{function}: `labels` have dtype {found.dtype}; give signed integers, equal "
            "for equivalent pairs."
        )
    batch, keys = pairs.queries.shape[0], pairs.keys.shape[0]
    if found.shape not in ((batch,), (keys,)):
        raise ValueError(
            f"jsoftmax.{function}: `labels` have shape {found.shape}; give one integer for each of "
            f"the {batch} pairs, or for each of the {keys} keys."
        )
    # Further keys without a label match no query.
    signed = found if is_signed else found.astype(jnp.int32)
    more = jnp.full_like(signed, -1, shape=(keys - found.shape[0],))
    return pairs._replace(
        labels=jnp.concatenate([signed, more]), ignores=ignores, without_own=exclude_self
    )


def of_keys(counted: Array, keys: Array) -> Array:
    """Return a mask of the keys that take part: those of counted pairs, and all that follow."""
    more = jnp.ones_like(keys[counted.shape[0] :, 0], bool)
    return jnp.concatenate([counted, more])


def _normalised(x: Array) -> Array:
    wide = x.astype(checks.compute_dtype(x))
    return (wide * per_length_of(wide, -1)).astype(checks.result_dtype(x))


def read_temperature(function: str, temperature: Any) -> Array | float:
    """Validate the temperature, one number; a traced one that is not positive becomes NaN.

    Raises:
        ValueError: for a known number that is not positive, or more than one number.
    """
    number = checks.static_number(temperature)
    if number is not None:
        if not number > 0:
            raise ValueError(
                f"jsoftmax.{function}: `temperature` must be positive, got {temperature!r}."
            )
        return number
    t = checks.as_array(function, "temperature", temperature)
    if t.ndim:
        raise ValueError(
            f"jsoftmax.{function}: `temperature` has shape {t.shape}; give it one number."
        )
    t = t.astype(checks.compute_dtype(t))
    return jnp.where(t > 0, t, jnp.nan)
