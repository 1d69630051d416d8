"""Draws from the softmax of features and a class table, streamed over classes."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from jsoftmax.core._filled import filled
from jsoftmax.core._keys import one_key
from jsoftmax.core._scores import difference
from jsoftmax.sampling._noise import block_size, covering, gumbel_blocks
from jsoftmax.vocabulary.linear._linear_arguments import Rows, read_rows
from jsoftmax.vocabulary.linear._linear_scores import scores
from jsoftmax.vocabulary.linear._token_blocks import classes_at


def linear_categorical(
    key: Array,
    features: ArrayLike,
    kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_classes: int | None = None,
) -> Int[Array, "..."]:
    r"""One exact draw a token from `softmax` of the logits h W + b, in one pass over the classes.

    .. math:: y = \arg\max_i z_i + g_i, \qquad z = c \tanh((h W + b)/c)/T

    with independent Gumbel noise g, which depends on the key and the number of the class alone, not
    on blocks or on how the classes are split: the draws are those of `gumbel_argmax` with this key
    and these logits. Neither scores nor noise are held for all classes at once.

    Args:
        key: a key of `jax.random`.
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]. Other classes are never drawn.
        temperature: T > 0, a number or an array of size 1 along the classes, as [..., 1].
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis over which the classes are split. The key must be
            the same on every part, and so will be the result.
        block_classes: about how many classes are taken together; None for as many as hold 2²²
            scores with all the tokens.

    Returns:
        Class numbers from 0 to K − 1 of shape [...], in the default integer dtype. −1 where there
        is nothing to draw: a token without any class, or with NaN in its scores.

    Raises:
        TypeError: if `key` is no key, `features` or `kernel` are not real numbers, or `where` is
            not boolean.
        ValueError: if `key` holds several keys, shapes do not fit, or a number known while tracing
            is out of its range.

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
        block_classes=block_classes,
    )  # fmt: skip
    best, drawn = _streamed(key, rows)
    if axis_name is not None:
        highest = jax.lax.pmax(best, axis_name)
        most = jnp.iinfo(jnp.int32).max
        drawn = jax.lax.pmin(jnp.where(best == highest, drawn, most), axis_name)
        best = highest
    drawn = jnp.where(best > -jnp.inf, drawn, -1).astype(jnp.zeros((), int).dtype)
    return rows.shaped(drawn)[..., 0]


def _streamed(key: Array, rows: Rows) -> tuple[Array, Array]:
    """The highest perturbed score of the classes of this part, −∞ for none, and the class."""
    rule, moving, fixed = rows.rule, rows.moving, rows.fixed
    tokens, here = moving.features.shape[0], fixed.numbers.shape[-1]
    size = block_size(rule.classes.size(rows.scores))
    first, offset, _ = covering(here, size, rule.axis_name)
    more = 0 if isinstance(offset, int) else 1  # block of noise, where classes begin within one
    together = max(1, rule.block_classes // size)
    width = together * size

    # Noise would be lost in huge scores. Any of the size of the largest will do as an anchor.
    z = scores(*classes_at(rule, (moving, fixed), 0, min(size, here)), rule=rule)
    anchor = rule.classes.max(z)
    anchor = jnp.where(jnp.isfinite(anchor), anchor, 0)

    def advance(state, start, wide):
        best, drawn, infinite = state
        z = scores(*classes_at(rule, (moving, fixed), start, wide), rule=rule)
        blocks = -(-wide // size) + more
        noise = gumbel_blocks(key, (tokens,), first + start // size, blocks, size, z.dtype)
        noise = jax.lax.dynamic_slice_in_dim(noise, offset, wide, axis=-1)
        # Scores of +∞ share all the mass: where there is one, only they count.
        highest = jnp.max(z, axis=-1, keepdims=True)
        only = infinite | (highest == jnp.inf)
        best = jnp.where(only & ~infinite, -jnp.inf, best)
        v = jnp.where(only, jnp.where(z == jnp.inf, 0, -jnp.inf), difference(z, anchor))
        v = jnp.where(z == z, v, z) + noise
        highest = jnp.max(v, axis=-1, keepdims=True)
        place = jnp.argmax(v, axis=-1, keepdims=True).astype(jnp.int32)
        # NaN spoils its row: nothing is above it, and it is taken over.
        above = (highest > best) | (highest != highest)
        number = fixed.numbers[0, 0] + start + place
        return jnp.where(above, highest, best), jnp.where(above, number, drawn), only

    nothing = jnp.where(z[:, :1] == z[:, :1], fixed.numbers[0, 0], fixed.numbers[0, 0])
    state = (filled(z[:, :1], -jnp.inf), nothing, nothing < 0)
    count, left = divmod(here, width)
    if count:
        starts = jnp.arange(count, dtype=jnp.int32) * width
        state, _ = jax.lax.scan(lambda s, start: (advance(s, start, width), None), state, starts)
    if left:
        state = advance(state, count * width, left)
    best, drawn, infinite = state
    if rule.axis_name is not None:
        spoiled = jax.lax.psum((best != best).astype(jnp.int32), rule.axis_name) > 0
        some = jax.lax.psum(infinite.astype(jnp.int32), rule.axis_name) > 0
        best = jnp.where(spoiled | (some & ~infinite), -jnp.inf, best)
    return best, drawn
