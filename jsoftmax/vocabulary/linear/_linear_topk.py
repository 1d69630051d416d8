"""Top-k scores from features and a class table."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._mesh_axes import gathered
from jsoftmax.vocabulary._topk import TopK
from jsoftmax.vocabulary.linear._class_prior import with_prior
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule, read_rows
from jsoftmax.vocabulary.linear._linear_scores import scores, tempered
from jsoftmax.vocabulary.linear._token_blocks import by_tokens


@on_explicit_axes(like="features")
def linear_topk(
    features: ArrayLike,
    kernel: ArrayLike,
    k: int,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    log_prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
) -> TopK:
    r"""Apply `jax.lax.top_k` to the logits h W + b, without a large array of logits.

    .. math:: z = c \tanh((h W + b)/c)/T + \log q

    Without a prior q the order is that of the logits before the division by T, so that no T hides
    it; ties are in the order of their classes. The values are differentiable in features, kernel,
    bias, temperature and prior.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        k: number of classes, from 1 to K.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]. Masked classes have the score −∞ and come
            last, where fewer than k are unmasked.
        prior: a reference measure q ≥ 0 that broadcasts to [..., K]; None for 1. 0 masks a class.
        log_prior: log q instead of q, which may underflow.
        temperature: T ≥ 0, a number or an array of size 1 along the classes, as [..., 1]. At 0
            values and their order are those of the logits alone; a negative number in an array
            gives NaN.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes. Each part needs at least
            k classes.
        block_tokens: rows of scores in memory at once; None for the rule of `linear_cross_entropy`.

    Returns:
        `values` and `classes`, of shape [..., k]: scores in float32 at least, and int32.

    Raises:
        TypeError: if `features` or `kernel` are not real numbers, `where` is not boolean, or `k` is
            not an integer.
        ValueError: if shapes do not fit, or a number known while tracing is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> h, W = jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> print(linear_topk(h, W, 2))
        TopK(values=Array([8., 2.], dtype=float32), classes=Array([2, 1], dtype=int32))
    """
    function = "linear_topk"
    rows = read_rows(
        function, features, kernel, bias=bias, where=where, class_axis=class_axis,
        temperature=temperature, logits_soft_cap=logits_soft_cap, axis_name=axis_name,
        block_tokens=block_tokens, has_limit=True,
    )  # fmt: skip
    rows = with_prior(rows, prior, log_prior)
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"jsoftmax.{function}: `k` must be an integer, got {k!r}.")
    classes = rows.fixed.numbers.shape[-1]
    if not 1 <= k <= classes:
        raise ValueError(f"jsoftmax.{function}: `k` must be from 1 to {classes}, got {k}.")

    values, classes = _highest(rows.rule, k, rows.moving, rows.fixed)
    return TopK(rows.shaped(values), rows.shaped(classes).astype(jnp.int32))


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its transpose is
# compiled once too.
@partial(jax.jit, static_argnums=(0, 1))
def _highest(rule: Rule, k: int, moving: Moving, fixed: Fixed) -> tuple[Array, Array]:
    """Find scores and numbers of the k highest classes of every token."""
    t, has_prior = moving.temperature, moving.log_prior is not None

    def of_block(trees):
        values, places = jax.lax.top_k(_ranked(rule, *trees), k)
        return values, places + trees[1].numbers[0, 0]

    again = jax.checkpoint(of_block, prevent_cse=False)
    values, classes = by_tokens(again, rule.block_tokens, (moving, fixed))
    if rule.axis_name is not None:
        # Parts are in the order of their classes, so ties are too.
        values, classes = (gathered(x, rule.axis_name, axis=1) for x in (values, classes))
        values, places = jax.lax.top_k(values, k)
        classes = jnp.take_along_axis(classes, places, axis=1)
    if t is not None and not has_prior:
        values = tempered(values, jnp.where(t == 0, 1, t))
    return values, classes


def _ranked(rule: Rule, moving: Moving, fixed: Fixed) -> Array:
    """Compute the sort keys: scores before the division by T; with a prior, z/T + log q."""
    t, log_q = moving.temperature, moving.log_prior
    z = scores(moving._replace(temperature=None, log_prior=None), fixed, rule)
    if log_q is None or t is None:
        return z if log_q is None else z + log_q
    return tempered(z, jnp.where(t == 0, 1, t)) + jnp.where(t == 0, 0, log_q)
