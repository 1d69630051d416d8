"""Speculative sampling: accept or reject drafts so that tokens follow the target distribution."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import problem
from jsoftmax.sampling._categorical import sample_from
from jsoftmax.sampling._noise import another_key


class Speculation(NamedTuple):
    """The result of `speculative_sample`.

    Args:
        tokens: integers of shape [..., n + 1]: the accepted drafts, the token drawn after them, and
            −1 from there on.
        accepted: int32 of shape [...], how many drafts were accepted, from 0 to n.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> p = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> print(speculative_sample(jax.random.key(0), [1], p[:1], p).tokens)
        [1 0]
    """

    tokens: Int[Array, "..."]
    accepted: Int[Array, "..."]


def residual_probabilities(
    draft: ArrayLike,
    target: ArrayLike,
    axis: int = -1,
    *,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Return the distribution of the token after a rejected draft.

    .. math:: r_i = \frac{(p_i - q_i)_+}{\sum_j (p_j - q_j)_+}

    Where p = q nothing is ever rejected, and r is p.

    Args:
        draft: q ≥ 0 of shape [..., K, ...], rows that sum to 1; zeros for no draft.
        target: p ≥ 0 of the same shape.
        axis: the class axis.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        r of the shape and dtype of `target`.

    Raises:
        TypeError: if arguments are not real numbers.
        ValueError: if shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> print(residual_probabilities(jnp.array([0.5, 0.5, 0.0]), jnp.array([0.4, 0.2, 0.4])))
        [0. 0. 1.]

    Reference:
        Y. Leviathan, M. Kalman and Y. Matias, "Fast inference from transformers via speculative
        decoding", ICML 2023.
    """
    function = "residual_probabilities"
    ask = problem(function, target, axis, axis_name=axis_name, called="target")
    q = checks.as_array(function, "draft", draft)
    q = checks.aligned(function, "draft", q, ask.z.shape, "target").astype(ask.z.dtype)
    r = jnp.maximum(ask.z - q, 0)
    total = ask.classes.sum(r)
    r = jnp.where(total > 0, r / jnp.where(total > 0, total, 1), ask.z)
    return r.astype(ask.dtype)


@on_explicit_axes(like="target", axis=(-2, -1))
def speculative_sample(
    key: ArrayLike,
    tokens: ArrayLike,
    draft: ArrayLike,
    target: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Speculation:
    r"""Accept drafts of a small model so that the tokens follow the distribution of a large one.

    .. math:: P(\text{accept } y_t) = \min(1, p_t(y_t)/q_t(y_t))

    for each draft if those before it were accepted. After the first rejected draft a token is drawn
    from `residual_probabilities`; if all are accepted, from the next distribution of the target.
    This is exact for any distributions, also sparse or truncated ones, if the drafts were drawn
    from q.

    Args:
        key: a key of `jax.random`.
        tokens: the drafts y, integers of shape [..., n].
        draft: q of shape [..., n, K], the distributions that the drafts were drawn from.
        target: p of shape [..., n + 1, K], those of the target at the same and the next position.
        where: boolean mask of shape [..., n]: the first False ends the drafts of its row, as if
            there were fewer.
        axis_name: name of the mesh or `vmap` axis that splits the classes. The key must be
            the same on every part, and so will be the result.

    Returns:
        `tokens` of shape [..., n + 1] in the default integer dtype and `accepted` of shape [...].
        The drawn token is −1 where there is nothing to draw: a row of zeros, or one with NaN.

    Raises:
        TypeError: if `key` is not a key, or an argument has a wrong dtype.
        ValueError: if shapes do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = jnp.array([[0.5, 0.5, 0.0]])
        >>> p = jnp.array([[0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])
        >>> print(speculative_sample(jax.random.key(0), jnp.array([0]), q, p))
        Speculation(tokens=Array([0, 2], dtype=int32), accepted=Array(1, dtype=int32))
        >>> print(speculative_sample(jax.random.key(0), jnp.array([1]), q, p).tokens)
        [ 2 -1]

    Reference:
        Y. Leviathan, M. Kalman and Y. Matias, "Fast inference from transformers via speculative
        decoding", ICML 2023; C. Chen et al., "Accelerating large language model decoding with
        speculative sampling", 2023.
    """
    function = "speculative_sample"
    key = one_key(function, key)
    ask = problem(function, target, -1, axis_name=axis_name, called="target")
    p, y, q = ask.z, checks.as_array(function, "tokens", tokens), draft
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"jsoftmax.{function}: `tokens` has dtype {y.dtype}; give it integers.")
    q = checks.as_array(function, "draft", q).astype(p.dtype)
    *rows, places, classes = p.shape if p.ndim > 1 else (0, *p.shape)
    n = places - 1
    if p.ndim < 2 or y.shape != (*rows, n) or q.shape != (*rows, n, classes):
        raise ValueError(
            f"jsoftmax.{function}: shapes do not fit: `tokens` {y.shape}, `draft` {q.shape}, "
            f"`target` {p.shape}. Give [..., n], [..., n, K] and [..., n + 1, K]: the target has "
            "one more distribution, for the token after the drafts."
        )
    valid = checks.mask_like(function, where, y, "tokens")

    def at_draft(x: Array) -> Array:
        return ask.classes.at(x, y[..., None])[..., 0]

    u = jax.random.uniform(another_key(key), y.shape, p.dtype)
    accepts = u * at_draft(q) < at_draft(p[..., :n, :])
    if valid is not None:
        accepts = accepts & valid
    accepted = jnp.sum(jnp.cumprod(accepts.astype(jnp.int32), -1), -1, dtype=jnp.int32)
    p_there = _at_place(p, accepted)
    none = jnp.zeros_like(p[..., :1, :])
    q = q if valid is None else jnp.where(jnp.broadcast_to(valid, y.shape)[..., None], q, 0)
    q_there = _at_place(jnp.concatenate([q, none], -2), accepted)
    left = residual_probabilities(q_there, p_there, axis_name=axis_name)
    drawn = sample_from(key, left, axis_name=axis_name)
    place = jnp.arange(places, dtype=jnp.int32)
    after = jnp.concatenate([y, jnp.zeros_like(y[..., :1])], -1).astype(drawn.dtype)
    count = accepted[..., None]
    tokens = jnp.where(place < count, after, jnp.where(place == count, drawn[..., None], -1))
    return Speculation(tokens, accepted)


def _at_place(x: Any, place: Array) -> Array:
    """Return x[..., place, :]."""
    hit = jnp.arange(x.shape[-2], dtype=jnp.int32) == place[..., None]
    return jnp.sum(jnp.where(hit[..., None], x, 0), -2)
