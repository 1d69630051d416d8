"""Find the largest perturbed score with noise that is drawn and discarded block by block."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from jsoftmax.core._axis import ClassAxis, is_known
from jsoftmax.core._cooled import cooled
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import problem
from jsoftmax.core._scores import difference
from jsoftmax.sampling._categorical import classes_last
from jsoftmax.sampling._noise import block_size, covering, gumbel_blocks, whole_chunk
from jsoftmax.sampling._shapes import sample_shape

_LAST = ClassAxis((-1,))
_AT_ONCE = 2**18  # approximate number of noise values in memory


@on_explicit_axes(like="logits", axis="axis")
def gumbel_argmax(
    key: ArrayLike,
    logits: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    shape: tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Int[Array, "..."]:
    r"""Draw classes exactly from `softmax`, with noise that does not depend on the logits.

    .. math:: y = \arg\max_i z_i/T + g_i, \qquad g_i \text{ independent, } P(g_i ≤ t) = e^{-e^{-t}}

    The same distribution as `categorical`, which is many times faster. Here every class has its own
    noise, which depends only on the key and the class number. So with the same key, other logits
    give a coupled draw: it stays the same unless another class overtakes. The noise is drawn in
    blocks of classes and never stored as a whole. `gumbel_softmax` uses the same noise, and at
    T = 0 gives the same draw one-hot.

    Args:
        key: a key of `jax.random`.
        logits: scores z of shape [..., K, ...], any real dtype. −∞ is never drawn; those of +∞
            share all the mass.
        axis: the class axis, or a tuple of axes that together hold the classes, which are then
            numbered row-major.
        shape: the shape of the result. It ends in the shape of `logits` without the class axis, or
            a shape it broadcasts to: for n draws a row (n, ...). By default one draw a row.
        where: boolean mask that broadcasts to `logits`. Other classes are never drawn.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T = 0 draws
            evenly among the largest scores. T < 0 prefers the lowest scores: −∞ is the minimum, +∞
            gets 0; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis. The key must
            be the same on every part, and so will be the result.

    Returns:
        Class numbers from 0 to K − 1, in the default integer dtype. −1 where there is nothing to
        draw: a fully masked row, or one with NaN. Noise is drawn in float32 at least.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers, `where` is not boolean, or
            `shape` not a tuple of sizes.
        ValueError: if `key` holds several keys, shapes do not fit, `axis` is out of range, or there
            are no classes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([[-jnp.inf, 1.0, 3.0, 1.0], [-jnp.inf, 1.0, 3.1, 1.0]])
        >>> keys = jax.random.split(jax.random.key(0), 10_000)
        >>> y = jax.vmap(lambda key: jax.vmap(lambda z: gumbel_argmax(key, z))(z))(keys)
        >>> print(jnp.mean(y[:, 0] == y[:, 1]) > 0.97)
        True

    Reference:
        C. J. Maddison, D. Tarlow and T. Minka, "A* sampling", NIPS 2014.
    """
    key = one_key("gumbel_argmax", key)
    ask = problem(
        "gumbel_argmax", logits, axis, where, temperature=temperature, axis_name=axis_name
    )
    shape = sample_shape("gumbel_argmax", shape, ask.rows)
    top, z = ask.classes.max(ask.z), classes_last(ask.z, ask.classes)
    top = classes_last(top, ask.classes)
    t = None if ask.temperature is None else classes_last(ask.temperature, ask.classes)

    size = block_size(ask.classes.size(ask.z))
    best, index = _streamed(key, z, top, t, shape, size, axis_name)
    if axis_name is not None:
        highest = jax.lax.pmax(best, axis_name)
        most = jnp.iinfo(jnp.int32).max
        index = jax.lax.pmin(jnp.where(best == highest, index, most), axis_name)
        best = highest
    # A NaN may be in another chunk, or on another part, than the highest score.
    drawn = (best > -jnp.inf) & ~jnp.isnan(_leading(top[..., 0], best.ndim))
    return jnp.where(drawn, index, -1).astype(jnp.zeros((), int).dtype)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnames=("shape", "size", "axis_name"), inline=True)
def _streamed(key, z, top, temperature, shape, size, axis_name):
    """Return the highest perturbed score of this part, −∞ for none, and its class."""
    n = z.shape[-1]
    first, offset, blocks = covering(n, size, axis_name)
    rows = math.prod(shape)
    most = max(1, _AT_ONCE // (size * max(1, rows))) if is_known(rows) else 1
    chunk = whole_chunk(blocks, most)
    steps = math.ceil(blocks / chunk)
    width = chunk * size
    if isinstance(offset, int):
        padding = [(0, 0)] * (z.ndim - 1) + [(0, steps * width - n)]
        z = jnp.pad(z, padding, constant_values=-jnp.inf) if steps * width > n else z
    else:
        room = jnp.broadcast_to(
            jnp.where(z[..., :1] == z[..., :1], -jnp.inf, -jnp.inf).astype(z.dtype),
            (*z.shape[:-1], steps * width),
        )
        z = jax.lax.dynamic_update_slice_in_dim(room, z, offset, axis=-1)
    place = jnp.arange(width, dtype=jnp.int32)
    # Derived from the scores, since a loop carry must vary over the same mesh axes.
    nothing = jnp.where(z[..., 0] == z[..., 0], 0, 0).astype(jnp.int32)
    nothing = jnp.broadcast_to(_leading(nothing, len(shape)), shape)
    lowest = jnp.where(nothing == 0, -jnp.inf, -jnp.inf).astype(z.dtype)

    def advance(step, state):
        best, index = state
        scores = jax.lax.dynamic_slice_in_dim(z, step * width, width, axis=-1)
        if temperature is None:
            scores = difference(scores, top)
        else:
            scores = cooled(scores, temperature, _LAST, top)
        noise = gumbel_blocks(key, shape, first + step * chunk, chunk, size, z.dtype)
        scores = _leading(scores, noise.ndim) + noise
        # NaN, the top of a row with NaN, compares false and never wins.
        highest = jnp.max(scores, axis=-1)
        hit = scores == highest[..., None]
        where = jnp.min(jnp.where(hit, _leading(place, noise.ndim), width), axis=-1)
        above = highest > best
        return (
            jnp.where(above, highest, best),
            jnp.where(above, first * size + step * width + where, index),
        )

    return jax.lax.fori_loop(0, steps, advance, (lowest, nothing))


def _leading(x: Array, ndim: int) -> Array:
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)
