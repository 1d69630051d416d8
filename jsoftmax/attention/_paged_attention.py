"""Decoding steps with a paged cache of keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jsoftmax.attention._attend import computed, sizes_for
from jsoftmax.attention._attention_arguments import read_arguments
from jsoftmax.attention._kernel_decoding import Pages, attended_by_pages
from jsoftmax.attention._sight import lengths_of
from jsoftmax.core import _checks as checks
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen

_FUNCTION = "paged_attention"
_LANES = 128


def paged_attention(
    query: ArrayLike,
    key_pages: ArrayLike,
    value_pages: ArrayLike,
    page_indices: ArrayLike,
    lengths: ArrayLike,
    *,
    alpha: float | ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    scale: float | ArrayLike | None = None,
    logits_soft_cap: float | ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    is_causal: bool = False,
    score_fn: Callable[..., Any] | None = None,
    key_bounds: tuple[ArrayLike, ArrayLike] | None = None,
    implementation: str | None = None,
) -> Float[Array, "*batch queries heads value_width"]:
    """Attention with keys and values in pages, as in the caches of many requests.

    It is `dot_product_attention` of the keys `key_pages[page_indices]`; each query sees the first
    `lengths` of them. Queries are at the last of these positions, since their own keys are in the
    cache already. So `is_causal` matters for several queries, in speculative decoding and where a
    prompt is read in chunks. The kernel copies the pages of a request to the chip, one by one, and
    forms nothing larger. Where α > 1 it copies values only of pages that have mass, and with
    `key_bounds` keys only of pages that may have some: the result is exact, not an approximation.

    Args:
        query: shape (*batch, queries, heads, width), few queries for each request.
        key_pages: shape (pages, page size, key heads, width), where the key heads divide the heads.
        value_pages: shape (pages, page size, key heads, value width).
        page_indices: integers in [0, pages), of shape (*batch, pages of a request): the pages of
            its keys, in order. Entries after the last page in use do not matter, but must be in
            this range.
        lengths: integers ≥ 0 of shape (*batch,): how many keys a request has.
        alpha: as for `dot_product_attention`.
        regularizer: as there.
        scale: as there.
        logits_soft_cap: as there.
        sinks: as there.
        is_causal: whether a query sees no key after its own position.
        score_fn: as there; positions count from the first key of a request.
        key_bounds: lower and upper bounds of the keys in use of each page, two arrays of shape
            (pages, key heads, width): `key_pages.min(1), key_pages.max(1)`, kept with the pages.
            Only the kernel reads them, as constants.
        implementation: None or "xla", which gathers the pages; or "pallas", a kernel for TPU, where
            page size × key heads is a multiple of 128. Its derivatives are XLA's.

    Returns:
        The mixtures, of shape (*batch, queries, heads, value width), in the dtype that query, keys
        and values promote to.

    Raises:
        TypeError: for arrays that are not real numbers, and for indices and lengths that are not
            integers.
        ValueError: for shapes that do not match, numbers out of range, and unknown names.
        NotImplementedError: for pages that the kernel does not support.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> pages = jax.random.normal(jax.random.key(0), (10, 16, 2, 8))  # ten pages of 16 keys
        >>> query = jnp.ones((3, 1, 4, 8))  # three requests
        >>> indices = jnp.array([[0, 1, 2], [5, 0, 0], [7, 3, 0]])
        >>> out = jsoftmax.paged_attention(
        ...     query, pages, pages, indices, jnp.array([40, 7, 32]), alpha=1.5
        ... )
        >>> out.shape
        (3, 1, 4, 8)

    Reference:
        W. Kwon et al., "Efficient memory management for large language model serving with
        PagedAttention", SOSP 2023. The bounds are those of J. Tang et al., "Quest: query-aware
        sparsity for efficient long-context LLM inference", ICML 2024.
    """
    if implementation not in (None, "xla", "pallas"):
        raise ValueError(
            f"jsoftmax.{_FUNCTION}: `implementation` must be None, 'xla' or 'pallas', got "
            f"{implementation!r}."
        )
    query, keys, values = (
        checks.as_array(_FUNCTION, name, x)
        for name, x in (("query", query), ("key_pages", key_pages), ("value_pages", value_pages))
    )
    table = checks.as_array(_FUNCTION, "page_indices", page_indices)
    _check(query, keys, values, table)
    bounds = None if key_bounds is None else _checked_bounds(key_bounds, keys)
    pages = Pages(keys, values, table.astype(jnp.int32), bounds)
    regularizer = chosen(_FUNCTION, alpha, regularizer, 1.0, False)
    counts = lengths_of(_FUNCTION, "lengths", lengths, query.shape[:-3])
    if counts is None:
        raise TypeError(f"jsoftmax.{_FUNCTION}: `lengths` must be integers, got None.")
    if is_causal not in (True, False):
        raise TypeError(f"jsoftmax.{_FUNCTION}: `is_causal` must be True or False.")
    # One query, at the last position, sees all keys with `is_causal` and without.
    is_causal = is_causal and query.shape[-3] > 1
    options = {
        "scale": scale, "logits_soft_cap": logits_soft_cap, "sinks": sinks, "is_causal": is_causal
    }  # fmt: skip
    if is_causal or score_fn is not None:
        options |= {"query_offset": counts - query.shape[-3], "score_fn": score_fn}
    given, rule = _given(query, pages, counts, regularizer, **options)
    if implementation != "pallas":
        return _by_gathering(given, rule, pages)
    size = keys.shape[1] * keys.shape[2]
    if size % _LANES:
        raise NotImplementedError(
            f"jsoftmax.{_FUNCTION}: implementation='pallas' does not take `key_pages` of "
            f"{keys.shape[1]} keys with {keys.shape[2]} heads: their product must be a multiple of "
            f"{_LANES}. Make pages larger, or let implementation='xla' gather them."
        )
    others = {
        "a `scale` of each query": given.scale is not None and given.scale.ndim > 1,
        "`is_causal` with several queries": is_causal,
        "`score_fn`": score_fn is not None,
    }
    for name, is_given in others.items():
        if is_given:
            raise NotImplementedError(
                f"jsoftmax.{_FUNCTION}: implementation='pallas' does not take {name}; let "
                "implementation='xla' compute it."
            )
    return _by_kernel(given, rule, pages)


def _check(query, keys, values, table):
    if keys.ndim != 4 or values.ndim != 4 or keys.shape[:3] != values.shape[:3]:
        raise ValueError(
            f"jsoftmax.{_FUNCTION}: `key_pages` {keys.shape} and `value_pages` {values.shape} must "
            "both have the axes (pages, page size, key heads, width) and agree in all but the last."
        )
    if not jnp.issubdtype(table.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{_FUNCTION}: `page_indices` has dtype {table.dtype}; give it integers."
        )
    if query.ndim < 3 or table.shape[:-1] != query.shape[:-3] or not table.shape[-1:]:
        raise ValueError(
            f"jsoftmax.{_FUNCTION}: `page_indices` has shape {table.shape}; give it the pages of "
            f"each of the {query.shape[:-3]} batch entries of `query` {query.shape}."
        )


def _checked_bounds(bounds, keys):
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"jsoftmax.{_FUNCTION}: `key_bounds` must be a pair of arrays.")
    found = [checks.as_array(_FUNCTION, "key_bounds", x) for x in bounds]
    shape = keys.shape[0], *keys.shape[2:]
    for x in found:
        if x.shape != shape:
            raise ValueError(
                f"jsoftmax.{_FUNCTION}: both `key_bounds` must have the shape {shape} (pages, key "
                f"heads, width), got {x.shape}."
            )
    low, high = (jax.lax.stop_gradient(x) for x in found)
    return low, high


def _given(query, pages, lengths, regularizer, **options):
    """Return the validated arguments, with zeros instead of keys and values, which are not read."""
    lead = *query.shape[:-3], pages.table.shape[-1] * pages.key.shape[1], pages.key.shape[2]
    key, value = (
        jnp.broadcast_to(jnp.zeros((), x.dtype), (*lead, x.shape[-1]))
        for x in (pages.key, pages.value)
    )
    given, rule = read_arguments(
        _FUNCTION, query, key, value, None, None, regularizer=regularizer,
        query_seq_lengths=None, key_value_seq_lengths=lengths, local_window_size=None,
        query_segment_ids=None, key_value_segment_ids=None, dropout_rng=None, dropout_rate=0.0,
        broadcast_dropout=False, axis_name=None, in_one_block=True, **options,
    )  # fmt: skip
    return given, rule


@partial(jax.jit, static_argnums=1)
def _by_gathering(given, rule, pages):
    keys, values = (
        x[pages.table].reshape(*y.shape)
        for x, y in ((pages.key, given.key), (pages.value, given.value))
    )
    given = given._replace(key=keys, value=values)
    return computed(given, rule, sizes_for(_FUNCTION, given, rule, None, None), False)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _differentiable(given: Any, rule: Any, pages: Pages) -> Array:
    return attended_by_pages(given, rule, pages)


@_differentiable.defjvp
def _differentiable_jvp(rule, primals, tangents):
    """Return the derivatives of attention to the gathered keys, by XLA."""
    out = _differentiable(primals[0], rule, primals[1])

    def gathered(given, pages):
        return _by_gathering(given, rule, pages)

    return out, jax.jvp(gathered, primals, tangents)[1]


@partial(jax.jit, static_argnums=1)
def _by_kernel(given: Any, rule: Any, pages: Pages) -> Array:
    return _differentiable(given, dataclasses.replace(rule, are_few=True), pages)
