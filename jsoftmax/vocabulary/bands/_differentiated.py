"""Differentiated softmax: one softmax over all classes, the rare ones with narrower vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.losses import cross_entropy
from jsoftmax.mappings import log_softmax
from jsoftmax.vocabulary._topk import TopK
from jsoftmax.vocabulary.bands._band_topk import by_blocks, read_k, top_of
from jsoftmax.vocabulary.bands._bands import Band, Banded, band_scores, read_banded, read_labels
from jsoftmax.vocabulary.bands._widths import new_bands, slices_or_widths
from jsoftmax.vocabulary.linear._linear_cross_entropy import linear_cross_entropy_terms


def differentiated_tables(
    key: Array,
    width: int,
    classes: int,
    cutoffs: Sequence[int],
    *,
    div_value: float = 4.0,
    widths: Sequence[int] | None = None,
    use_bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Band, ...]:
    r"""Draw bands for a differentiated softmax from normal distributions.

    The first band has the classes below the first cut-off, and so on. Without `widths` band i has
    vectors of width ⌊d / div_value^i⌋, at least 1, and projections of the features to that; the
    first, of width d, has the features as they are. With `widths` the features are divided: each
    band has a slice of them.

    Args:
        key: a key, such as jax.random.key(0).
        width: d, of the features.
        classes: K.
        cutoffs: rising integers above 0 and below K; there is one more band than cut-offs.
        div_value: at least 1.
        widths: sizes of the slices of the features, one for each band; they sum to d.
        use_bias: whether every class has a bias, initialised to 0.
        dtype: of all arrays.

    Returns:
        A tuple of `Band`.

    Raises:
        TypeError: if `key` is not a key, or sizes are not integers.
        ValueError: if `cutoffs` do not rise from above 0 to below K, `widths` do not sum to d, or
            `div_value` is below 1.

    Example:
        >>> import jax
        >>> table = differentiated_tables(jax.random.key(0), 64, 900, [100], widths=[48, 16])
        >>> print([band.table.shape for band in table])
        [(100, 48), (800, 16)]
    """
    function = "differentiated_tables"
    key = one_key(function, key)
    sizes = slices_or_widths(function, width, classes, cutoffs, div_value, widths)
    return new_bands(
        key, width, classes, cutoffs, sizes, use_bias=use_bias, dtype=dtype,
        slices=widths is not None,
    )  # fmt: skip


@on_explicit_axes(like="features")
def differentiated_cross_entropy(
    features: ArrayLike,
    table: Sequence[Band],
    labels: ArrayLike | Sequence[int],
    *,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
) -> Float[Array, "..."]:
    r"""Compute −log p of the labels under a softmax over bands of different width, for every token.

    .. math:: z_k = ⟨x_i, w_k⟩ + b_k \text{ for } k \text{ in band } i, \qquad
              -\log p_y = -\log\frac{Z_i}{\sum_j Z_j} - \log\frac{e^{z_y}}{Z_i}

    with Z_i the sum of e^z over band i, and x_i the input of the band: a projection of the
    features, or all of them, or a slice, as in the paper. Bands have slices where no band has a
    projection and the widths of the tables sum to that of the features.

    This is one softmax over all classes, where `adaptive_cross_entropy` has one for each cluster:
    it costs Σ K_i d_i per token instead of K d, for any target, and needs no cluster vectors. The
    scores of all tokens are never in memory at once. Differentiable in features and table, in both
    modes and of any order.

    Args:
        features: h of shape [..., d], any real dtype.
        table: a sequence of `Band`, such as `differentiated_tables` makes.
        labels: classes, integers of shape [...], numbered over all bands.
        where: boolean mask that broadcasts to [..., 1]: only these tokens count; the others have
            loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.

    Returns:
        One loss per token, of shape [...], in float32 at least. NaN for a label out of range in a
        `jax.Array`: its values are not checked.

    Raises:
        TypeError: if `features` or the arrays of `table` are not real numbers, `table` is not a
            sequence of `Band`, or `where` or `labels` have a wrong dtype.
        ValueError: if shapes do not fit, or labels known while tracing are out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> frequent = Band(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> rare = Band(jnp.array([[1.0], [0.0], [2.0]]), projection=jnp.array([[1.0], [1.0]]))
        >>> h = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> print(differentiated_cross_entropy(h, [frequent, rare], jnp.array([1, 4])))
        [4.07448  0.69636]

    Wenlin Chen, David Grangier and Michael Auli, "Strategies for Training Large Vocabulary Neural
    Language Models", 2016.
    """
    function = "differentiated_cross_entropy"
    banded = read_banded(function, features, table, slices=True)
    starts = banded.starts
    banded, read = read_labels(banded, labels, starts[-1], where, ignore_index)
    levels, losses = [], []
    of_band = jnp.searchsorted(jnp.asarray(starts[1:-1], jnp.int32), read.ids, side="right")
    inputs = banded.inputs(banded.features)
    for i, (x, band) in enumerate(zip(inputs, banded.bands, strict=True)):
        inside = of_band == i
        ids = jnp.where(inside, read.ids - starts[i], 0)
        terms = linear_cross_entropy_terms(x, band.table, ids, bias=band.bias, class_axis=0)
        losses.append(jnp.where(inside, terms.loss, 0))
        levels.append(terms.log_partition)
    among = cross_entropy(jnp.stack(levels, axis=-1), of_band)
    return banded.shaped(read.settle(among + sum(losses)))


@on_explicit_axes(like="features")
def differentiated_log_softmax(
    features: ArrayLike, table: Sequence[Band]
) -> Float[Array, "... classes"]:
    r"""Compute the log-probabilities of all classes under a softmax over bands of different width.

    .. math:: \log p_k = z_k - \log\sum_j e^{z_j}

    with the scores of `differentiated_cross_entropy`, which never holds all of them.

    Args:
        features: h of shape [..., d], any real dtype.
        table: a sequence of `Band`, such as `differentiated_tables` makes.

    Returns:
        Log-probabilities of shape [..., K], in float32 at least.

    Raises:
        TypeError: as `differentiated_cross_entropy`.
        ValueError: as `differentiated_cross_entropy`.

    Example:
        >>> import jax.numpy as jnp
        >>> table = [Band(jnp.zeros((3, 2))), Band(jnp.zeros((1, 1)), jnp.ones((2, 1)))]
        >>> print(jnp.exp(differentiated_log_softmax(jnp.ones(2), table)))
        [0.25 0.25 0.25 0.25]
    """
    banded = read_banded("differentiated_log_softmax", features, table, slices=True)
    return banded.shaped(log_softmax(_scores(banded, banded.features)))


@on_explicit_axes(like="features")
def differentiated_topk(features: ArrayLike, table: Sequence[Band], k: int) -> TopK:
    r"""Find the k most probable classes under a softmax over bands of different width.

    .. math:: \operatorname{top}_k \log p

    Equal to `jax.lax.top_k` of `differentiated_log_softmax`, with the rows of one block of tokens
    in memory at a time. Differentiable in both modes.

    Args:
        features: h of shape [..., d], any real dtype.
        table: a sequence of `Band`, such as `differentiated_tables` makes.
        k: number of classes, from 1 to K.

    Returns:
        `values` and `classes`, of shape [..., k]: log-probabilities in float32 at least, the
        highest first, and int32. Ties are in the order of their classes.

    Raises:
        TypeError: as `differentiated_cross_entropy`, and if `k` is not an integer.
        ValueError: as `differentiated_cross_entropy`, and if `k` is not from 1 to K.

    Example:
        >>> import jax.numpy as jnp
        >>> table = [Band(jnp.eye(2)), Band(jnp.ones((1, 1)), jnp.ones((2, 1)))]
        >>> print(differentiated_topk(jnp.array([1.0, 2.0]), table, 2).classes)
        [2 1]
    """
    function = "differentiated_topk"
    banded = read_banded(function, features, table, slices=True)
    return _likeliest(banded, read_k(function, k, banded.starts[-1]))


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its tangent is
# one program too, transposed and compiled once.
@partial(jax.jit, static_argnums=1)
def _likeliest(banded: Banded, k: int) -> TopK:
    return by_blocks(lambda h: top_of(log_softmax(_scores(banded, h)), 0, k), banded)


def _scores(banded: Banded, h: Array) -> Array:
    """Compute the scores of all classes, (token, K)."""
    pairs = zip(banded.inputs(h), banded.bands, strict=True)
    return jnp.concatenate([band_scores(x, band) for x, band in pairs], axis=1)
