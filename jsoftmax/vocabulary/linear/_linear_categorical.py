"""Draw from the softmax of features and a class table, streamed over classes."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._filled import filled
from jsoftmax.core._keys import one_key
from jsoftmax.core._scores import difference
from jsoftmax.sampling._noise import block_size, covering, gumbel_blocks
from jsoftmax.vocabulary.linear._class_prior import with_prior
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule, read_rows
from jsoftmax.vocabulary.linear._linear_scores import scores
from jsoftmax.vocabulary.linear._token_blocks import classes_at


@on_explicit_axes(like="features")
def linear_categorical(
    key: Array,
    features: ArrayLike,
    kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    log_prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_classes: int | None = None,
) -> Int[Array, "..."]:
    r"""Draw one class per token, exactly, from `softmax` of the logits h W + b in one pass.

    .. math:: y = \arg\max_i z_i/T + g_i, \qquad z = c \tanh((h W + b)/c)

    with independent Gumbel noise g. It depends only on the key and the number of the class, not on
    blocks or on the split of the classes: the draws are those of `gumbel_argmax` with this key and
    these logits. Scores and noise of all classes are never in memory at once.

    Args:
        key: a key of `jax.random`.
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]. Other classes are never drawn.
        prior: a reference measure q ≥ 0 that broadcasts to [..., K]: probabilities are in
            proportion to q exp(z/T), at T = 0 to the q of the largest logits. 0 masks a class.
        log_prior: log q instead of q, which may underflow.
        temperature: T ≥ 0, a number or an array of size 1 along the classes, as [..., 1]. T = 0
            draws uniformly among the largest logits.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes. The key must be the same
            on every part, and so will be the result.
        block_classes: approximate number of classes per block; None for as many as hold 2²² scores
            with all the tokens.

    Returns:
        Classes from 0 to K − 1 of shape [...], in the default integer dtype. −1 where there is
        nothing to draw: for a token that is fully masked, has NaN in its scores, or has a number
        below 0 in an array of temperatures.

    Raises:
        TypeError: if `key` is not a key, `features` or `kernel` are not real numbers, or `where` is
            not boolean.
        ValueError: if `key` holds several keys, shapes do not fit, or a number known while tracing
            is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> W = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
        >>> y = linear_categorical(jax.random.key(0), jnp.ones((10_000, 1)), W)
        >>> print(jnp.abs(jnp.mean(y == 0) - 0.5) < 0.02)
        True
    """
    key = one_key("linear_categorical", key)
    rows = read_rows(
        "linear_categorical", features, kernel, bias=bias, where=where, class_axis=class_axis,
        temperature=temperature, logits_soft_cap=logits_soft_cap, axis_name=axis_name,
        block_classes=block_classes, has_limit=True,
    )  # fmt: skip
    rows = with_prior(rows, prior, log_prior)
    drawn = _drawn(rows.rule, key, rows.moving, rows.fixed)
    return rows.shaped(drawn.astype(jnp.zeros((), int).dtype))[..., 0]


class _Best(NamedTuple):
    """The best class of every token so far."""

    rank: Array  # the first sort key: see `_perturbed`
    value: Array  # the highest perturbed score of the highest rank, −∞ for none
    drawn: Array  # the class of that score


# Compiled once per shape, even when called outside of `jit`; inlined inside it.
@partial(jax.jit, static_argnums=0, inline=True)
def _drawn(rule: Rule, key: Array, moving: Moving, fixed: Fixed) -> Array:
    """Draw one class per token, −1 for none."""
    best = _streamed(rule, key, moving, fixed)
    value, drawn = best.value, best.drawn
    if rule.axis_name is not None:
        spoiled = jax.lax.psum((value != value).astype(jnp.int32), rule.axis_name) > 0
        value = jnp.where(
            spoiled | (best.rank < jax.lax.pmax(best.rank, rule.axis_name)), -jnp.inf, value
        )
        highest = jax.lax.pmax(value, rule.axis_name)
        most = jnp.iinfo(jnp.int32).max
        drawn = jax.lax.pmin(jnp.where(value == highest, drawn, most), rule.axis_name)
        value = highest
    return jnp.where(value > -jnp.inf, drawn, -1)


def _streamed(rule: Rule, key: Array, moving: Moving, fixed: Fixed) -> _Best:
    """Find the best of the local classes."""
    t, log_q = moving.temperature, moving.log_prior
    moving = moving._replace(temperature=None, log_prior=None)
    tokens, here = moving.features.shape[0], fixed.numbers.shape[-1]
    size = block_size(here if rule.axis_name is None else here * jax.lax.axis_size(rule.axis_name))
    first, offset, _ = covering(here, size, rule.axis_name)
    more = 0 if isinstance(offset, int) else 1  # block of noise, where classes begin within one
    together = max(1, rule.block_classes // size)
    width = together * size

    # Noise would be lost in huge scores, so an anchor of their size is subtracted.
    z = scores(*classes_at(rule, (moving, fixed), 0, min(size, here)), rule=rule)
    anchor = rule.classes.max(z)
    anchor = jnp.where(jnp.isfinite(anchor), anchor, 0)

    def advance(best, start, wide):
        z = scores(*classes_at(rule, (moving, fixed), start, wide), rule=rule)
        blocks = -(-wide // size) + more
        noise = gumbel_blocks(key, (tokens,), first + start // size, blocks, size, z.dtype)
        noise = jax.lax.dynamic_slice_in_dim(noise, offset, wide, axis=-1)
        if log_q is not None:  # a class of prior q acts as the best of q classes
            (beside,) = classes_at(rule, (moving._replace(log_prior=log_q),), start, wide)
            noise = noise + beside.log_prior
        rank, v = _perturbed(z, anchor, noise, t)
        top = jnp.maximum(best.rank, jnp.max(rank, axis=-1, keepdims=True))
        value = jnp.where(best.rank < top, -jnp.inf, best.value)
        v = jnp.where((rank < top) & (v == v), -jnp.inf, v)
        highest = jnp.max(v, axis=-1, keepdims=True)
        place = jnp.argmax(v, axis=-1, keepdims=True).astype(jnp.int32)
        # NaN wins its row: nothing is above it, and it replaces the best so far.
        above = (highest > value) | (highest != highest)
        number = fixed.numbers[0, 0] + start + place
        value, drawn = jnp.where(above, highest, value), jnp.where(above, number, best.drawn)
        return _Best(top, value, drawn)

    lowest = filled(z[:, :1], -jnp.inf)
    nothing = jnp.where(lowest == lowest, fixed.numbers[0, 0], fixed.numbers[0, 0])
    best = _Best(lowest, lowest, nothing)
    count, left = divmod(here, width)
    if count:
        starts = jnp.arange(count, dtype=jnp.int32) * width
        best, _ = jax.lax.scan(lambda s, start: (advance(s, start, width), None), best, starts)
    return advance(best, count * width, left) if left else best


def _perturbed(z: Array, anchor: Array, noise: Array, t: Array | None) -> tuple[Array, Array]:
    """Return the rank of every class, and its perturbed score, which breaks ties of rank.

    Scores of +∞ share all the mass: where there is one, only they count. At T = 0 only the largest
    scores count, and their noise decides. NaN and −∞ have no rank. Above T = 0 everything is
    multiplied by min(T, 1), so that no small T makes scores infinite.
    """
    infinite, lowest = z == jnp.inf, jnp.asarray(-jnp.inf, z.dtype)
    if t is None:
        rank = jnp.where(infinite, z, lowest)
        v = jnp.where(infinite, 0, difference(z, anchor))
        return rank, jnp.where(z == z, v, z) + noise
    is_hard, is_even = t == 0, t == jnp.inf
    rank = jnp.where((infinite & ~is_even) | (is_hard & (z == z)), z, lowest)
    fixed = infinite | is_hard | is_even
    v = jnp.where(fixed, 0, difference(z, anchor)) / jnp.where(is_even, 1, jnp.maximum(t, 1))
    v = jnp.where((z == z) & (z > -jnp.inf), v, z)
    return rank, v + noise * jnp.where(is_hard, 1, jnp.minimum(t, 1))
