"""Output layers with narrower vectors for rare classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core._initializers import lecun_columns, lecun_rows
from jsoftmax.vocabulary import (
    AdaptiveTables,
    Band,
    TopK,
    adaptive_cross_entropy,
    adaptive_log_softmax,
    adaptive_topk,
    band_embedding,
    differentiated_cross_entropy,
    differentiated_log_softmax,
    differentiated_topk,
)
from jsoftmax.vocabulary.bands._widths import as_dtype, band_shapes, slices_or_widths, widths_of

_BIAS_INIT = nnx.initializers.zeros_init()


class AdaptiveSoftmax(nnx.Module):
    r"""Adaptive softmax: an output layer with clusters, and narrower vectors, for rare classes.

    .. math:: p(y) = p_\text{head}(y) \text{ in the shortlist}, \qquad
              p(y) = p_\text{head}(c)\, p_c(y) \text{ in the cluster } c

    It holds the tables of `adaptive_cross_entropy` and its siblings as parameters. For a token only
    the head and the cluster of its target are computed. `DifferentiatedSoftmax` has one softmax
    over all classes instead.

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the frequent ones first.
        cutoffs: increasing integers above 0 and below K, such as those of `adaptive_cutoffs`.
        div_value: at least 1: cluster i has vectors of width ⌊d / div_value^i⌋.
        use_bias: whether classes and clusters have biases.
        dtype: features and parameters are rounded to this dtype; None leaves them as they are.
            Computations are in float32 at least.
        param_dtype: of the parameters.
        kernel_init: initialiser of projections, of shape [d, d_i].
        embedding_init: initialiser of tables, of shape [K_i, d_i].
        bias_init: initialiser of biases.
        rngs: source of the initialisers' keys.

    Raises:
        TypeError: if sizes are not integers.
        ValueError: if `cutoffs` do not increase inside (0, K), or `div_value` is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = AdaptiveSoftmax(64, 1000, [100, 300], rngs=nnx.Rngs(0))
        >>> h = layer.embed(jnp.array([5, 400]))
        >>> print(h.shape, layer.loss(h, jnp.array([7, 999])).shape, layer.topk(h, 3).classes.shape)
        (2, 64) (2,) (2, 3)
    """

    def __init__(
        self,
        features: int,
        classes: int,
        cutoffs: Sequence[int],
        *,
        div_value: float = 4.0,
        use_bias: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: nnx.Initializer = lecun_columns,
        embedding_init: nnx.Initializer = lecun_rows,
        bias_init: nnx.Initializer = _BIAS_INIT,
        rngs: nnx.Rngs,
    ):
        widths = widths_of("nnx.AdaptiveSoftmax", features, classes, cutoffs, div_value)
        shapes = band_shapes(features, classes, cutoffs, widths, slices=False)
        self.dtype, self.use_bias, self.count = dtype, use_bias, len(shapes)
        _add_bands(
            self, shapes, use_bias, param_dtype, kernel_init, embedding_init, bias_init, rngs
        )
        size = len(cutoffs)
        self.clusters = nnx.Param(embedding_init(rngs.params(), (size, features), param_dtype))
        if use_bias:
            self.cluster_bias = nnx.Param(bias_init(rngs.params(), (size,), param_dtype))

    @property
    def table(self) -> AdaptiveTables:
        """The parameters, as arguments of the functions."""
        bias = self.cluster_bias[...] if self.use_bias else None
        table = AdaptiveTables(_bands(self), self.clusters[...], bias)
        return as_dtype(table, self.dtype)

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K] of all classes."""
        return jnp.exp(self.log_softmax(features))

    def log_softmax(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to log-probabilities [..., K] of all classes."""
        return adaptive_log_softmax(as_dtype(features, self.dtype), self.table)

    def topk(self, features: ArrayLike, k: int) -> TopK:
        """Return the k most probable classes of features [..., d], and their log-probabilities."""
        return adaptive_topk(as_dtype(features, self.dtype), self.table, k)

    def loss(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
    ) -> Float[Array, "..."]:
        """Return the loss of each token, in float32 at least: features [..., d], classes [...].

        The other arguments are as in `adaptive_cross_entropy`.
        """
        return adaptive_cross_entropy(
            as_dtype(features, self.dtype),
            self.table,
            labels,
            where=where,
            ignore_index=ignore_index,
        )

    def embed(self, ids: ArrayLike) -> Float[Array, "... d"]:
        """Return vectors [..., d] of classes [...], from the same tables: a tied input layer."""
        return band_embedding(ids, self.table.bands)


class DifferentiatedSoftmax(nnx.Module):
    r"""Differentiated softmax: one softmax over all classes, with narrower vectors for rare ones.

    .. math:: p(y) = \frac{e^{z_y}}{\sum_k e^{z_k}}, \qquad
              z_k = ⟨x_i, w_k⟩ + b_k \text{ for } k \text{ in band } i

    It holds the bands of `differentiated_cross_entropy` and its siblings as parameters.
    `AdaptiveSoftmax` has a softmax for each cluster, and computes only one of them for a token.

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the frequent ones first.
        cutoffs: increasing integers above 0 and below K, the ends of the bands.
        div_value: at least 1: band i has vectors of width ⌊d / div_value^i⌋, and a projection of
            the features to it.
        widths: for each band the size of its slice of the features, which then are not projected.
        use_bias: whether classes have biases.
        dtype: features and parameters are rounded to this dtype; None leaves them as they are.
            Computations are in float32 at least.
        param_dtype: of the parameters.
        kernel_init: initialiser of projections, of shape [d, d_i].
        embedding_init: initialiser of tables, of shape [K_i, d_i].
        bias_init: initialiser of biases.
        rngs: source of the initialisers' keys.

    Raises:
        TypeError: if sizes are not integers.
        ValueError: if `cutoffs` do not increase inside (0, K), or `widths` do not sum to d.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = DifferentiatedSoftmax(64, 1000, [100, 300], rngs=nnx.Rngs(0))
        >>> h = layer.embed(jnp.array([5, 400]))
        >>> print(h.shape, layer.loss(h, jnp.array([7, 999])).shape, layer.topk(h, 3).classes.shape)
        (2, 64) (2,) (2, 3)
    """

    def __init__(
        self,
        features: int,
        classes: int,
        cutoffs: Sequence[int],
        *,
        div_value: float = 4.0,
        widths: Sequence[int] | None = None,
        use_bias: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: nnx.Initializer = lecun_columns,
        embedding_init: nnx.Initializer = lecun_rows,
        bias_init: nnx.Initializer = _BIAS_INIT,
        rngs: nnx.Rngs,
    ):
        sizes = slices_or_widths(
            "nnx.DifferentiatedSoftmax", features, classes, cutoffs, div_value, widths
        )
        shapes = band_shapes(features, classes, cutoffs, sizes, slices=widths is not None)
        self.dtype, self.use_bias, self.count = dtype, use_bias, len(shapes)
        _add_bands(
            self, shapes, use_bias, param_dtype, kernel_init, embedding_init, bias_init, rngs
        )

    @property
    def table(self) -> tuple[Band, ...]:
        """The parameters, as arguments of the functions."""
        return as_dtype(_bands(self), self.dtype)

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K] of all classes."""
        return jnp.exp(self.log_softmax(features))

    def log_softmax(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to log-probabilities [..., K] of all classes."""
        return differentiated_log_softmax(as_dtype(features, self.dtype), self.table)

    def topk(self, features: ArrayLike, k: int) -> TopK:
        """Return the k most probable classes of features [..., d], and their log-probabilities."""
        return differentiated_topk(as_dtype(features, self.dtype), self.table, k)

    def loss(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
    ) -> Float[Array, "..."]:
        """Return the loss of each token, in float32 at least: features [..., d], classes [...].

        The other arguments are as in `differentiated_cross_entropy`.
        """
        return differentiated_cross_entropy(
            as_dtype(features, self.dtype),
            self.table,
            labels,
            where=where,
            ignore_index=ignore_index,
        )

    def embed(self, ids: ArrayLike) -> Float[Array, "... d"]:
        """Return vectors [..., d] of classes [...], from the same tables: a tied input layer."""
        return band_embedding(ids, self.table)


def _add_bands(layer, shapes, use_bias, dtype, kernel_init, embedding_init, bias_init, rngs):
    """Add the parameters table_0, projection_0, bias_0, table_1, …, where a band has them."""
    for i, (table, projection) in enumerate(shapes):
        setattr(layer, f"table_{i}", nnx.Param(embedding_init(rngs.params(), table, dtype)))
        if projection is not None:
            kernel = kernel_init(rngs.params(), projection, dtype)
            setattr(layer, f"projection_{i}", nnx.Param(kernel))
        if use_bias:
            setattr(layer, f"bias_{i}", nnx.Param(bias_init(rngs.params(), table[:1], dtype)))


def _bands(layer: Any) -> tuple[Band, ...]:
    """Return the bands of a layer's parameters."""

    def of(name):
        return getattr(layer, name)[...] if hasattr(layer, name) else None

    return tuple(
        Band(of(f"table_{i}"), of(f"projection_{i}"), of(f"bias_{i}")) for i in range(layer.count)
    )
