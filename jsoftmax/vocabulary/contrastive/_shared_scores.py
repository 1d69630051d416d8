"""Symmetric cross-entropies of queries and keys from one array of scores, kept in memory."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.losses import cross_entropy
from jsoftmax.vocabulary.contrastive._pairs import Pairs
from jsoftmax.vocabulary.linear._token_products import product

_IGNORED = -1


def both_ways(pairs: Pairs, temperature: Array | float) -> Array:
    """Compute the mean of both losses of each pair.

    Rows and columns share their scores, so that value and gradient take three matrix products. Two
    separate losses would compute the scores twice.
    """
    q, k = pairs.queries, pairs.keys
    dtype = jnp.result_type(checks.compute_dtype(q), checks.compute_dtype(k))
    # Keys in fewer bits enter products as they are if the queries have the same dtype.
    k = k if k.dtype == q.dtype and jnp.issubdtype(k.dtype, jnp.floating) else k.astype(dtype)
    t = jnp.asarray(temperature, dtype)
    return _losses(q.astype(dtype), k, t, pairs.own, pairs.counted)


# Compiled once per shape, even when called outside of `jit`.
@jax.jit
def _losses(q: Array, k: Array, t: Array, own: Array, counted: Array | None) -> Array:
    z = product(q, k, 0, False) / t
    given = own if counted is None else jnp.where(counted, own, _IGNORED)
    loss = partial(cross_entropy, ignore_index=None if counted is None else _IGNORED)
    here, there = (None, None) if counted is None else (counted, counted[:, None])
    return (loss(z, given, where=here) + loss(z, given, axis=0, where=there)) / 2
