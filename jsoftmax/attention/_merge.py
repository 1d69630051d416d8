"""Merge the results of softmax attention to parts of the keys."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jsoftmax.core import _checks as checks
from jsoftmax.mappings import logsumexp, softmax


def merge_attention(
    mixtures: ArrayLike, residuals: ArrayLike, axis: int = 0
) -> tuple[Float[Array, "*batch queries heads value_width"], Float[Array, "*batch queries heads"]]:
    """Merge softmax attention to parts of the keys into attention to all of them.

    With the residuals τ_i = logsumexp of the scores of part i,

        τ = logsumexp_i τ_i,   out = Σ_i exp(τ_i − τ) out_i,

    in any order and grouping: a cache read in pieces, keys on several devices, a prefix shared by
    many sequences. This holds for softmax only: the threshold of another α is no function of those
    of the parts, and `dot_product_attention(..., axis_name=...)` finds it for split keys.

    Args:
        mixtures: the first result of `dot_product_attention(..., return_residual=True)` for each
            part, stacked along `axis`: shape (parts, *batch, queries, heads, value width) for axis
            0.
        residuals: its second result, stacked likewise, of shape (parts, *batch, queries, heads).
        axis: the axis of the parts, in both.

    Returns:
        The mixtures over all keys and their residual τ, without the axis of the parts, as
        `dot_product_attention` returns them; so they can be merged further.

    Raises:
        TypeError: for arrays that are not real numbers.
        ValueError: for shapes that do not match.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 10, 4, 8))
        >>> parts = [
        ...     jsoftmax.dot_product_attention(q, k[a:b], v[a:b], return_residual=True)
        ...     for a, b in ((0, 3), (3, 10))
        ... ]
        >>> out, tau = jsoftmax.merge_attention(*(jnp.stack(x) for x in zip(*parts)))
        >>> bool(jnp.allclose(out, jsoftmax.dot_product_attention(q, k, v), atol=1e-6))
        True

    References:
        Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018. Liu, Zaharia &
        Abbeel, "Ring attention with blockwise transformers for near-infinite context", 2023.
    """
    function = "merge_attention"
    mixtures = checks.as_array(function, "mixtures", mixtures)
    residuals = checks.as_array(function, "residuals", residuals)
    if mixtures.ndim != residuals.ndim + 1 or mixtures.shape[:-1] != residuals.shape:
        raise ValueError(
            f"jsoftmax.{function}: `mixtures` of shape {mixtures.shape} and `residuals` of shape "
            f"{residuals.shape} do not match: stack the pairs that attention returns along one new "
            "axis, so that mixtures have one axis more, the last."
        )
    (axis,) = checks.class_axis(function, residuals, axis, None, "residuals").axis
    return _merged(mixtures, residuals, axis)


# Compiled once for a shape also outside of `jit`; so is its derivative, which inlining would undo.
@partial(jax.jit, static_argnums=2)
def _merged(mixtures: Array, residuals: Array, axis: int) -> tuple[Array, Array]:
    dtype = checks.compute_dtype(residuals)
    shares = softmax(residuals.astype(dtype), axis)[..., None]
    # A part without keys has the share 0 and the mixture 0.
    out = jnp.sum(shares * mixtures, axis=axis - 1).astype(mixtures.dtype)
    return out, logsumexp(residuals, axis)
