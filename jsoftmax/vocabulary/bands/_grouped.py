"""Losses of tokens within the band of their label; no other band is computed for them.

Tokens are sorted by band, and every band processes its own tokens in blocks. The number of blocks,
and so of iterations of the loop, depends on the data. Such a loop has no transpose, so the reverse
mode is written here; only it and its derivatives exist. In

    L = −log p_y = log(1 + e^{R − z_y}),    R = log Σ_{j≠y} e^{z_j},

no terms cancel, nor do they in ∂L/∂z_j = σ(R − z_y) e^{z_j − R} and ∂L/∂z_y = −σ(R − z_y).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._axis import is_known
from jsoftmax.vocabulary.bands._bands import Band, band_scores, projected
from jsoftmax.vocabulary.linear._block_sizes import even_size

_SCORES = 2**20  # in memory at once


@jax.custom_vjp
def dense_losses(x: Array, band: Band, labels: Array) -> Array:
    """Compute −log p of the labels within one band, for all tokens. Its scores are kept."""
    return _dense_forward(x, band, labels)[0]


def _dense_forward(x, band, labels):
    z = band_scores(x, band)
    own, others, rivals = _own_and_rivals(z, labels)
    return jax.nn.softplus(rivals - own), (x, band, labels, others, own, rivals)


def _dense_backward(known, d_loss):
    x, band, labels, others, own, rivals = known
    slopes = d_loss * jax.nn.sigmoid(rivals - own)
    tokens, classes = others.shape
    size = even_size(tokens, min(tokens, max(64, _SCORES // classes)))

    def of_tokens(i, z):
        # Slopes are written over the scores, so that one such array is enough. The last block
        # begins early where it would be shorter than the others; its finished entries stay as they
        # are.
        start = jnp.minimum(i * size, tokens - size)
        z_here, labels_here, rivals_here, slopes_here = (
            jax.lax.dynamic_slice_in_dim(a, start, size) for a in (z, labels, rivals, slopes)
        )
        d_z = _pull(z_here, labels_here, jnp.arange(classes), rivals_here, slopes_here)
        if tokens % size:
            done = start + jnp.arange(size, dtype=jnp.int32) < i * size
            d_z = jnp.where(done[:, None], z_here, d_z)
        return jax.lax.dynamic_update_slice_in_dim(z, d_z, start, 0)

    d_z = _for_each(-(-tokens // size), of_tokens, others)
    bias = None if band.bias is None else d_z.sum(0)
    return d_z @ band.table, Band(_outer(d_z, x), None, bias), None


dense_losses.defvjp(_dense_forward, _dense_backward)


class Blocks(NamedTuple):
    """Sizes of blocks of tokens and classes; None for the rule."""

    tokens: int | None = None
    classes: int | None = None

    def sizes(self, tokens: int, band: Band) -> tuple[int, int]:
        """Return the two sizes for a number of tokens and a band."""
        count = band.table.shape[0]
        rows = self.tokens or max(64, min(128, _SCORES // count))
        rows = min(tokens, rows) if is_known(tokens) else rows
        return rows, even_size(count, min(count, self.classes or max(512, _SCORES // rows)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def tail_losses(
    blocks: Blocks, features: Array, tails: tuple[Band, ...], clusters: Array, labels: Array
) -> Array:
    """Compute −log p of the labels within tails[clusters − 1], and 0 where `clusters` is 0.

    Args:
        blocks: sizes of blocks.
        features: (token, d).
        tails: at least one band; there is at least one token too.
        clusters: (token,), from 0 to the number of tails.
        labels: (token,), counted from the first class of the band.
    """
    return _tails_forward(blocks, features, tails, clusters, labels)[0]


class _Runs(NamedTuple):
    """Tokens sorted by cluster: those of tail i are order[ends[i] : ends[i + 1]]."""

    order: Array  # longer by a block, so that no slice is clamped to an earlier start
    ends: Array


class _Run(NamedTuple):
    """The tokens of one tail, in blocks."""

    order: Array
    start: Array
    end: Array
    block: int

    @property
    def turns(self) -> Array:
        return (self.end - self.start + self.block - 1) // self.block

    def tokens(self, i: Array) -> tuple[Array, Array]:
        """Return the tokens of block i to read, and to write: out of range past the run."""
        at = self.start + i * self.block
        rows = jax.lax.dynamic_slice_in_dim(self.order, at, self.block)
        places = at + jnp.arange(self.block, dtype=at.dtype)
        return rows, jnp.where(places < self.end, rows, self.order.shape[0] + places)


def _runs(clusters: Array, tails: int, block: int) -> _Runs:
    order = jnp.argsort(clusters).astype(jnp.int32)
    order = jnp.concatenate([order, jnp.zeros_like(order, shape=block)])
    up_to = clusters[None] <= jnp.arange(tails + 1, dtype=clusters.dtype)[:, None]
    return _Runs(order, jnp.sum(up_to, axis=1, dtype=jnp.int32))


def _tails_forward(blocks, features, tails, clusters, labels):
    tokens = features.shape[0]
    sizes = [blocks.sizes(tokens, band) for band in tails]
    runs = _runs(clusters, len(tails), max(rows for rows, _ in sizes))
    nothing = jnp.zeros_like(features[:, 0])
    found = (nothing, nothing)
    for i, (band, (rows, classes)) in enumerate(zip(tails, sizes, strict=True)):
        run = _Run(runs.order, runs.ends[i], runs.ends[i + 1], rows)

        def step(i, found, run=run, band=band, classes=classes):
            rows, places = run.tokens(i)
            x = projected(features[rows], band)
            new = _streamed(x, band, labels[rows], classes)
            return tuple(_put(a, places, b) for a, b in zip(found, new, strict=True))

        found = jax.lax.fori_loop(0, run.turns, step, found)
    own, rivals = found
    loss = jnp.where(clusters > 0, jax.nn.softplus(rivals - own), 0)
    return loss, (features, tails, clusters, labels, runs, own, rivals)


def _tails_backward(blocks, known, d_loss):
    features, tails, clusters, labels, runs, own, rivals = known
    slopes = jnp.where(clusters > 0, d_loss * jax.nn.sigmoid(rivals - own), 0)
    d_features, d_tails = jnp.zeros_like(features), []
    for i, band in enumerate(tails):
        rows, classes = blocks.sizes(features.shape[0], band)
        run = _Run(runs.order, runs.ends[i], runs.ends[i + 1], rows)
        d_features, d_band = _band_backward(
            run, classes, features, band, labels, rivals, slopes, d_features
        )
        d_tails.append(d_band)
    return d_features, tuple(d_tails), None, None


tail_losses.defvjp(_tails_forward, _tails_backward)


def _band_backward(run, classes, features, band, labels, rivals, slopes, d_features):
    """Compute the gradients of one tail, looping over blocks of classes and then of tokens."""

    def project(i, inputs):
        rows, _ = run.tokens(i)
        x = projected(features[rows], band)
        return jax.lax.dynamic_update_slice_in_dim(inputs, x, i * run.block, 0)

    # The projected features of this run, which all blocks of classes read.
    places = -(-features.shape[0] // run.block) * run.block
    x_all = jnp.zeros_like(features, shape=(places, band.table.shape[1]))
    x_all = jax.lax.fori_loop(0, run.turns, project, x_all)

    count = _count(band, classes)

    def of_part(j, d_x_all):
        part, ids, fresh = _classes_at(band, j, classes)

        def of_tokens(i, carry):
            d_x_all, d_part = carry
            rows, places = run.tokens(i)
            x = jax.lax.dynamic_slice_in_dim(x_all, i * run.block, run.block)
            slope = slopes.at[places].get(mode="fill", fill_value=0)
            level = rivals.at[places].get(mode="fill", fill_value=jnp.inf)
            d_z = _pull(band_scores(x, part), labels[rows], ids, level, slope)
            d_z = d_z if count == 1 else jnp.where(fresh, d_z, 0)
            d_x = jax.lax.dynamic_slice_in_dim(d_x_all, i * run.block, run.block)
            d_x = d_x + d_z @ part.table
            d_x_all = jax.lax.dynamic_update_slice_in_dim(d_x_all, d_x, i * run.block, 0)
            d_table, _, d_bias = d_part
            d_table = d_table + _outer(d_z, x)
            d_bias = None if d_bias is None else d_bias + d_z.sum(0)
            return d_x_all, Band(d_table, None, d_bias)

        d_part = jax.tree.map(jnp.zeros_like, part)
        return ids[0], jax.lax.fori_loop(0, run.turns, of_tokens, (d_x_all, d_part))

    def of_classes(j, carry):
        d_x_all, d_band = carry
        start, (d_x_all, d_part) = of_part(j, d_x_all)
        return d_x_all, jax.tree.map(lambda a, b: _add_at(a, start, b), d_band, d_part)

    d_x_all = jnp.zeros_like(x_all)
    if count == 1:
        _, (d_x_all, d_band) = of_part(0, d_x_all)
    else:
        nothing = jax.tree.map(jnp.zeros_like, band._replace(projection=None))
        d_x_all, d_band = _for_each(count, of_classes, (d_x_all, nothing))

    def unproject(i, carry):
        d_features, d_projection = carry
        rows, places = run.tokens(i)
        d_x = jax.lax.dynamic_slice_in_dim(d_x_all, i * run.block, run.block)
        if band.projection is None:
            return _put(d_features, places, d_x), None
        d_projection = d_projection + _outer(features[rows], d_x)
        return _put(d_features, places, d_x @ band.projection.T), d_projection

    d_projection = None if band.projection is None else jnp.zeros_like(band.projection)
    carry = d_features, d_projection
    d_features, d_projection = jax.lax.fori_loop(0, run.turns, unproject, carry)
    return d_features, d_band._replace(projection=d_projection)


def _streamed(x: Array, band: Band, labels: Array, classes: int) -> tuple[Array, Array]:
    """Compute z_y and R from blocks of classes."""

    def of_classes(j, found):
        own, rivals = found
        part, ids, fresh = _classes_at(band, j, classes)
        z = jnp.where(fresh, band_scores(x, part), -jnp.inf)
        return own, jnp.logaddexp(rivals, _log_sum(_with_own(z, labels, ids, -jnp.inf)))

    count = _count(band, classes)
    if count == 1:
        own, _, rivals = _own_and_rivals(band_scores(x, band), labels)
        return own, rivals
    start = jnp.sum(x * band.table[labels], axis=-1)
    start = start if band.bias is None else start + band.bias[labels]
    return _for_each(count, of_classes, (start, jnp.full_like(start, -jnp.inf)))


def _for_each(count: int, step: Any, carry: Any) -> Any:
    """Run a loop of known length, with a counter of 32 bits."""
    return jax.lax.fori_loop(np.int32(0), np.int32(count), step, carry)


def _count(band: Band, classes: int) -> int:
    return -(-band.table.shape[0] // classes)


def _classes_at(band: Band, j: Any, size: int) -> tuple[Band, Array, Array]:
    """Return block j of a band, its class ids, and a mask of those that no block before has.

    The last block begins early where it would be shorter than the others.
    """
    start = jnp.minimum(j * size, band.table.shape[0] - size)
    part = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), band._replace(projection=None)
    )
    ids = start + jnp.arange(size, dtype=jnp.int32)
    return part, ids, ids >= j * size


def _own_and_rivals(z: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return z_y, z with −∞ in its place, and R. Scores z of all classes are overwritten."""
    own = jnp.take_along_axis(z, labels[:, None], axis=1, mode="clip")[:, 0]
    # Always −∞, but known only when z_y has been read, so that z need not be copied before.
    nothing = jnp.where(own > -jnp.inf, -jnp.inf, own)
    others = _with_own(z, labels, jnp.arange(z.shape[1]), nothing)
    return own, others, _log_sum(others)


def _log_sum(z: Array) -> Array:
    """Compute log Σ e^z, −∞ for a fully masked row."""
    top = jnp.max(z, axis=-1)
    level = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))
    total = jnp.sum(jnp.exp(z - level[:, None]), axis=-1)
    return jnp.where(top == -jnp.inf, -jnp.inf, level + jnp.log(jnp.where(total > 0, total, 1)))


def _pull(z: Array, labels: Array, ids: Array, rivals: Array, slope: Array) -> Array:
    """Compute ∂L/∂z times the cotangent of the loss; `slope` is σ(R − z_y) times that."""
    level = jnp.where(rivals == -jnp.inf, 0, rivals)
    return _with_own(slope[:, None] * jnp.exp(z - level[:, None]), labels, ids, -slope)


def _with_own(z: Array, labels: Array, ids: Array, value: Array | float) -> Array:
    """Write a value at the label of each token into z: most blocks contain no label."""
    place = labels - ids[0]
    place = jnp.where((place >= 0) & (place < ids.shape[0]), place, ids.shape[0])
    tokens = jnp.arange(z.shape[0], dtype=place.dtype)
    return z.at[tokens, place].set(value, mode="drop", unique_indices=True)


def _outer(a: Array, b: Array) -> Array:
    """aᵀ b."""
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _put(x: Array, places: Array, rows: Array) -> Array:
    """Write rows where `places` is in range."""
    return x.at[places].set(rows, mode="drop", unique_indices=True)


def _add_at(x: Array, start: Array, part: Array) -> Array:
    now = jax.lax.dynamic_slice_in_dim(x, start, part.shape[0])
    return jax.lax.dynamic_update_slice_in_dim(x, now + part, start, 0)
