"""Draw classes exactly, from logits or from probabilities, also sparse ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._scores import difference
from jsoftmax.mappings import SparseEntmax
from jsoftmax.sampling._inverse import draw_classes
from jsoftmax.sampling._shapes import sample_shape

_LAST = ClassAxis((-1,))


@on_explicit_axes(like="logits", axis="axis")
def categorical(
    key: ArrayLike,
    logits: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    shape: tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Int[Array, "..."]:
    r"""Draw classes exactly from `softmax` of the logits, one or many per row.

    .. math:: P(y = i) = e^{z_i/T} / \sum_j e^{z_j/T}

    The cumulative distribution is summed in 64-bit integers and inverted, so a class of probability
    zero is never drawn. n draws from a row of K classes take O(K + n) memory and O(K + n log K)
    time, where `jax.random.categorical` takes O(n K) of both, and one draw per row takes a single
    random number. The draw of a key does not depend on how the classes are split. `gumbel_argmax`
    draws from the same distribution with noise for every class, `sample_from` from probabilities,
    `AliasTable` repeatedly from fixed ones.

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
        draw: a fully masked row, or one with NaN; `jax.nn.one_hot` of it is a row of zeros.
        Probabilities are exact to the rounding of the exponential, computed in float32 at least,
        and to 2⁻⁴⁹ of the largest for K ≤ 2¹⁴, to K 2⁻⁶³ beyond.

    Raises:
        TypeError: if `key` is not a key, `logits` are not real numbers, `where` is not boolean, or
            `shape` not a tuple of sizes.
        ValueError: if `key` holds several keys, shapes do not fit, `axis` is out of range, or there
            are no classes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([-jnp.inf, 1.0, 3.0, 1.0])
        >>> y = categorical(jax.random.key(0), z, shape=(10_000,))
        >>> print(jnp.bincount(y, length=4) / 10_000)
        [0.   0.11 0.78 0.11]
        >>> print(jax.nn.softmax(z))
        [0.   0.11 0.79 0.11]
        >>> print(categorical(jax.random.key(0), jnp.full((2, 3), -jnp.inf)))
        [-1 -1]

    Reference:
        L. Devroye, "Non-uniform random variate generation", Springer 1986, chapter III.
    """
    key = one_key("categorical", key)
    ask = problem("categorical", logits, axis, where, temperature=temperature, axis_name=axis_name)
    shape = sample_shape("categorical", shape, ask.rows)
    return drawn_from(key, ask, shape)


def drawn_from(key: Array, ask: Problem, shape: tuple[int, ...]) -> Array:
    """Draw from q exp(z/T) of a problem, without computing its probabilities."""
    if ask.prior is not None:
        ask = dataclasses.replace(ask, z=ask.log_weights(), prior=None, temperature=None)
    per_row = (ask.classes.max(ask.z),)
    if ask.temperature is not None:
        per_row = (*per_row, ask.temperature)
    return _drawn(key, ask, ask.z, per_row, exponential, shape)


def sample_from(
    key: ArrayLike,
    probabilities: ArrayLike | SparseEntmax,
    axis: int | tuple[int, ...] = -1,
    *,
    shape: tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Int[Array, "..."]:
    r"""Draw classes exactly from probabilities or any weights; a zero is never drawn.

    .. math:: P(y = i) = p_i / \sum_j p_j

    The counterpart of `categorical` for probabilities, at the same cost. It takes no logarithm, so
    sparse distributions keep their zeros. The result of `entmax_sparse` is sampled directly, in
    time that does not depend on the number of classes.

    Args:
        key: a key of `jax.random`.
        probabilities: p ≥ 0 of shape [..., K, ...]; rows need not sum to 1. Or a `SparseEntmax`, to
            draw from its listed classes (without its certificate there may be others).
        axis: the class axis, or a tuple of axes that together hold the classes, which are then
            numbered row-major. A `SparseEntmax` has its classes on the last.
        shape: the shape of the result, as in `categorical`.
        where: boolean mask that broadcasts to `probabilities`. Other classes are never drawn.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        Class numbers in the default integer dtype. −1 where there is nothing to draw: a row of
        zeros, or one with a NaN, negative or infinite weight.

    Raises:
        TypeError: if `key` is not a key, `probabilities` are not real numbers, `where` is not
            boolean, or `shape` not a tuple of sizes.
        ValueError: if `key` holds several keys, shapes do not fit, `axis` is out of range, or there
            are no classes.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> z = jnp.array([2.0, 1.5, 0.0, -1.0])
        >>> p = jsoftmax.sparsemax(z)
        >>> y = sample_from(jax.random.key(0), p, shape=(10_000,))
        >>> print(p, jnp.bincount(y, length=4) / 10_000)
        [0.75 0.25 0.   0.  ] [0.75 0.25 0.   0.  ]
        >>> few = jsoftmax.entmax_sparse(z, size=2, alpha=2.0)
        >>> y = sample_from(jax.random.key(0), few, shape=(5,))
        >>> print(y.shape, y.max() <= 1)
        (5,) True
    """
    key = one_key("sample_from", key)
    if isinstance(probabilities, SparseEntmax):
        return _from_listed(key, probabilities, axis, shape, where, axis_name)
    ask = problem(
        "sample_from", probabilities, axis, where, axis_name=axis_name, called="probabilities"
    )
    shape = sample_shape("sample_from", shape, ask.rows)
    p = ask.unmasked(ask.z, 0)
    p = jnp.where((p >= 0) & (p < jnp.inf), p, jnp.nan)
    return _drawn(key, ask, p, (ask.classes.max(p),), _relative, shape)


def _from_listed(key, sparse, axis, shape, where, axis_name):
    if where is not None or axis_name is not None or axis not in (-1, sparse.values.ndim - 1):
        raise ValueError(
            "jsoftmax.sample_from: a `SparseEntmax` has its classes on the last axis, whole and "
            "unmasked; give `where` to `entmax_sparse`."
        )
    shape = sample_shape("sample_from", shape, sparse.values.shape[:-1])
    place = sample_from(key, sparse.values, shape=shape)
    return jnp.where(place < 0, -1, entries(sparse.indices, place)).astype(place.dtype)


@on_explicit_axes(like="x")
def entries(x: Array, index: Array) -> Array:
    """Return x[..., index], where x.shape[:-1] broadcasts to the last axes of `index`."""
    rows = x.shape[:-1]
    row = jnp.arange(math.prod(rows), dtype=jnp.int32).reshape(rows)
    row = row.reshape((1,) * (index.ndim - row.ndim) + rows)
    row = jnp.broadcast_to(row, index.shape)
    return x.reshape(math.prod(rows), x.shape[-1])[row, jnp.maximum(index, 0)]


def exponential(z: Array, top: Array, *temperature: Array) -> Array:
    """Return weights of scores, with limits for infinities, and 0 in rows with NaN."""
    v = cooled(z, temperature[0], _LAST, top) if temperature else difference(z, top)
    return jnp.where((v == v) & (top == top), jnp.exp(v), 0)


def _relative(p: Array, top: Array) -> Array:
    """Return weights of probabilities, with 0 in rows with NaN."""
    return jnp.where(top > 0, jnp.maximum(p / jnp.where(top > 0, top, 1), 0), 0)


def _drawn(key, ask: Problem, scores, per_row, weigh, shape) -> Array:
    scores, *per_row = (classes_last(x, ask.classes) for x in (scores, *per_row))
    index = draw_classes(key, scores, tuple(per_row), weigh, shape, ask.classes.axis_name)
    return index.astype(jnp.zeros((), int).dtype)


def classes_last(x: Array, classes: ClassAxis) -> Array:
    """Return `x` with its class axes merged into the last, numbered row-major."""
    if classes.axis == (-1,):
        return x
    last = tuple(range(-len(classes.axis), 0))
    x = jnp.moveaxis(x, classes.axis, last)
    return x.reshape(*x.shape[: -len(last)], math.prod(x.shape[a] for a in last))
